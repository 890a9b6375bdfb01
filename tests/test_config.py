"""A mistake in config/ ends in one line that names file and key."""

import shutil
from pathlib import Path

import pytest
import yaml

from clipa.config import ConfigError, load_experiment, load_project, load_scale
from clipa.plan import load_plan

CONFIG = Path(__file__).parents[1] / "config"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIG, tmp_path / "config"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "scales/micro-v1.yaml",
            "batch_size",
            "bath_size",
            r"bath_size: unknown key \(did you mean batch_size\?\)",
        ),
        (
            "scales/micro-v1.yaml",
            "samples: 51200",
            "samples: 51201",
            "samples 51201 is not a multiple",
        ),
        ("scales/micro-v1.yaml", "samples: 51200", "samples: many", r"pretrain\.samples: "),
        ("scales/micro-v1.yaml", "224: 48", "224: 50", r"image_sizes: 50 is not a multiple of patch_size 6"),
        ("scales/micro-v1.yaml", "B/16: {config", "B/15: {config", r"pretrain.base_lr: no value for B/15"),
        ("scales/micro-v1.yaml", "B/16: 1.12e-2, ", "", r"base_lr: no value for B/16"),
        ("scales/micro-v1.yaml", "patch_size: 6", "patch_size: [6", r"not valid YAML"),
        (
            "scales/ci.yaml",
            "extends: micro-v1",
            "extends: macro",
            r"no scale 'macro' \(known: ci, .*micro-v1, mini, paper\)",
        ),
    ],
)
def test_a_mistake_in_a_scale(copied: Path, file: str, old: str, new: str, said: str) -> None:
    edit(copied / file, old, new)
    with pytest.raises(ConfigError, match=said) as raised:
        load_scale(Path(file).stem, copied)
    assert "\n" not in str(raised.value) and str(copied / "scales") in str(raised.value)


def test_a_scale_whose_records_would_be_refused_is_refused_at_once(copied: Path) -> None:
    (copied / "scales" / "myScale.yaml").write_text('extends: ci\nabout: "mine"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"myScale\.yaml: the name of a scale has small letters"):
        load_scale("myScale", copied)


def test_a_mistake_on_the_command_line(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: scal: unknown key \(did you mean scale\?\)"):
        load_project({"scal": "micro-v1"}, copied)
    with pytest.raises(ConfigError, match=r"there is no experiment 'figure44'"):
        load_plan({"experiments": ["figure44"]}, copied.parent)


def test_a_mistake_in_an_experiment(copied: Path) -> None:
    edit(copied / "experiments" / "demo.yaml", "image_reduction: resize", "image_reduction: shrink")
    with pytest.raises(ConfigError, match=r"demo\.yaml: runs\.1\.image_reduction: 'shrink' is not one of"):
        load_experiment("demo", copied)


def test_files_that_extend_each_other_in_a_circle(copied: Path) -> None:
    edit(copied / "scales" / "micro-v1.yaml", "about:", "extends: ci\nabout:")
    with pytest.raises(ConfigError, match="circle"):
        load_scale("ci", copied)


def test_an_extending_scale_overrides_key_by_key() -> None:
    micro, ci = load_scale("micro-v1"), load_scale("ci")
    assert ci.pretrain.samples < micro.pretrain.samples
    assert ci.pretrain.base_lr == micro.pretrain.base_lr and ci.models == micro.models
    assert (ci.name, micro.name) == ("ci", "micro-v1")


@pytest.mark.parametrize("path", sorted((CONFIG / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_says_where_how_and_what_to_expect(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("about:")[0]
    for part in ("In the paper:", "Command:", "Expected cost:", "Expected score:"):
        assert part in head
    assert load_experiment(path.stem).fills == yaml.safe_load(path.read_text(encoding="utf-8"))["fills"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("base_lr: {S/16: 1.6e-2,", "base_lr: {S/16: -0.01,", r"pretrain\.base_lr\.S/16"),
        ("base_lr: {S/16: 1.6e-2,", "base_lr: {S/16: .nan,", r"pretrain\.base_lr\.S/16"),
        ("  warmup_steps: 100\n", "  warmup_steps: 100\n  weight_decay: -1\n", r"pretrain\.weight_decay"),
        ("  warmup_steps: 100\n", "  warmup_steps: 100\n  betas: [0.9, 1.5]\n", r"pretrain\.betas\.1"),
        (
            "augmentation: {crop_area: [0.8, 1.0]}",
            "augmentation: {crop_area: [0.9, 0.1]}",
            "crop_area: 0.9 is larger",
        ),
        (
            "augmentation: {crop_area: [0.8, 1.0]}",
            "augmentation: {crop_area: [0.8, 3.0]}",
            r"augmentation\.crop_area",
        ),
        ("224: 48", "224: 0", r"image_sizes\.224"),
        ("patch_size: 6", "patch_size: 6\nleft_out_sizes: [96]", r"left_out_sizes: 96 is in image_sizes too"),
        ("  lanes: 8\n", "  lanes: 0\n", r"data\.lanes"),
        (
            "vocabulary_size: 700\n",
            "vocabulary_size: 700\nvocabulary_size: 900\n",
            "the key 'vocabulary_size' occurs twice",
        ),
    ],
)
def test_a_value_that_cannot_work_is_refused(copied: Path, old: str, new: str, key: str) -> None:
    file = copied / "scales" / "micro-v1.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert new.split("\n")[0] in file.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"scales/micro-v1\.yaml.*{key}") as raised:
        load_scale("micro-v1", copied)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", []),
        ("seeds", [-1]),
        ("runs_directory", "x; touch P; true "),
        ("runs_directory", "results/recorded"),
        ("runs_directory", "results/../results/recorded/micro-v1"),
        ("data_directory", "$(touch P)"),
    ],
)
def test_a_project_that_cannot_work_is_refused(copied: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml: {key}"):
        load_project({key: value}, copied)


def test_a_file_of_another_encoding_is_named(copied: Path) -> None:
    (copied / "config.yaml").write_bytes("scale: micro-v1 # gro\xdf\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml: not UTF-8"):
        load_project({}, copied)


def test_text_lengths_are_those_of_a_text(copied: Path) -> None:
    edit(copied / "experiments" / "table12.yaml", "[32, 16, 8, 6, 4]", "[99]")
    with pytest.raises(ConfigError, match=r"table12\.yaml: runs\.0\.text_tokens\.0"):
        load_experiment("table12", copied)
