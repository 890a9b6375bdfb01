"""A stage's resolved configuration: the whole of what its training reads, and refused where it does not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipa.config import ConfigError, Project
from clipa.plan import load_plan
from clipa.resolved import ResolvedStage, read, write
from clipa.stages import Stage, resolve
from small_training import resolved, tiny_stages

RUN = "S16-block49-syntax16"


@pytest.mark.parametrize("scale", ["ci", "micro-v1", "micro", "mini", "paper"])
def test_every_stage_of_every_scale_reads_the_same_from_its_content(scale: str) -> None:
    """Content and fingerprint are the stage's, byte for byte; what content leaves out has the stage's value."""
    plan = load_plan({"scale": scale})
    for stage in plan.stages.values():
        found = resolve(stage, plan.project)
        assert json.dumps(found.content.plain) == json.dumps(stage.content)
        assert found.fingerprint == stage.fingerprint
        assert read_by_training(found) == read_by_training_from(stage)


def read_by_training(stage: ResolvedStage) -> list:
    content = stage.content
    return [
        *(content.kind, content.seed, content.precision, content.threads, content.device),
        *(content.schedule.model_dump(exclude={"base_lr"}), content.schedule.steps, content.schedule.peak_lr),
        *(content.model, stage.image_size, content.image.reduction, content.image.kept_patches),
        *((stage.patch_grid, content.image.reading) if content.image.kept_patches else ()),
        *(content.text.reduction, content.text.tokens),
        *([content.text.recipe] if content.text.reduction != "truncation" else ()),
        *(content.augmentation.crop_area, content.augmentation.crop_ratio, content.augmentation.color_jitter),
        *(content.augmentation.grayscale_probability, content.augmentation.mean, content.augmentation.std),
        *(content.order.lanes, content.order.shuffle_window, content.loader == "resident", stage.sharded),
        content.positions,
    ]


def read_by_training_from(stage: Stage) -> list:
    colours, side = stage.augmentation, stage.patches and stage.image_size // stage.patch_size
    return [
        *(stage.kind, stage.seed, stage.scale.precision, stage.scale.threads, stage.scale.device),
        *(stage.schedule.model_dump(exclude={"base_lr"}), stage.schedule.steps, stage.peak_lr),
        *(stage.model_config, stage.image_size, stage.image_reduction, stage.kept_patches),
        *(((side, side), stage.reading) if stage.kept_patches else ()),
        *(stage.text_reduction, stage.text_tokens),
        *([stage.text_recipe] if stage.text_reduction != "truncation" else ()),
        *(colours.crop_area, colours.crop_ratio, colours.color_jitter),
        *(colours.grayscale_probability, colours.mean, colours.std),
        *(stage.data.lanes, stage.data.shuffle_window, stage.resident, stage.sharded),
        stage.positions,
    ]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    for stage in (*tiny_stages("S16-resize112-truncation16-negclip"), *tiny_stages(f"{RUN}-moco-v3")):
        path = write(resolved(stage, tmp_path))
        assert path == tmp_path / "runs" / stage.directory / "stage.resolved.json"
        assert read(path) == resolved(stage, tmp_path)
    pretrain = resolve(tiny_stages()[0], Project()).model_dump(mode="json")
    assert pretrain["parent"] is None and pretrain["directory"].startswith("results/runs/micro-v1/S16-")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"content.schedule.eps": 1e-6}, "its content gives"),
        ({"content.image.reading": "other"}, "its content gives"),
        ({"content.image.kept": 4}, "content.image.kept: unknown key"),
        ({"content.text.tokens": 0}, "content.text.tokens: input should be greater than 0"),
        ({"content.semantics": 0}, "semantics is 0, but this code has 1"),
        ({"fingerprint": "0" * 12}, "fingerprint is 000000000000"),
        ({"processes": 2}, "processes is 2, but its content says 1"),
        ({"nodes": 2}, "processes: 1 are not a multiple of the 2 nodes"),
        ({"parent": None}, "parent: the directory and the fingerprint"),
        ({"parent": "runs/seed0-000000000000"}, "parent: runs/seed0-000000000000 should end in"),
        ({"directory": "elsewhere"}, "directory: elsewhere should end in"),
        ({"training_data": "other/train"}, "training_data: other should end in"),
        ({"workers": -1}, "workers: input should be greater"),
        ({"lanes": 4}, "lanes: unknown key"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_file_and_key(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    path = write(resolved(tiny_stages(RUN)[1], tmp_path))
    values = json.loads(path.read_text(encoding="utf-8"))
    [(key, value)] = change.items()
    *above, last = key.split(".")
    inner = values
    for name in above:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        read(path)
    said = str(refusal.value)
    assert said.startswith(f"{path}: ") and told in said and "\n" not in said


def test_damage_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "stage.resolved.json")
    path = write(resolved(tiny_stages()[0], tmp_path))
    path.write_text(path.read_text(encoding="utf-8")[:-100], encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read(path)


def test_reading_loads_nothing_heavy_and_no_plan() -> None:
    code = (
        "import sys, clipa.resolved;"
        "found = {'torch', 'numpy', 'yaml', 'clipa.stages', 'clipa.recipes'} & set(sys.modules);"
        "print(*found); sys.exit(bool(found))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
