"""A world of a few pictures and untrained models, for the tests of evaluation and of other people's tools."""

import json
from pathlib import Path

from clipa.config import Project, Scale, load_scale
from clipa.data.drawing import draw_test, draw_train
from clipa.data.shards import read_manifest
from clipa.data.vocabulary import train_vocabulary
from clipa.files import with_digest
from clipa.inputs import inputs_of
from clipa.models import build, export_open_clip
from clipa.resolved import data_slug
from clipa.stages import Stage, resolve

CONFIG = Path(__file__).parents[1] / "config"


def small_scale(**world: int) -> Scale:
    """The micro-v1 scale with few pictures (48 classes, so a vocabulary of 700 entries fits)."""
    values = load_scale("micro-v1", CONFIG).model_dump()
    values["data"]["world"] |= {
        "training_images": 128,
        "images_per_shard": 64,
        "test_images_plain": 60,
        "test_images": 48,
        **world,
    }
    return Scale.model_validate(values)


def draw_small_world(scale: Scale, root: Path, test_sets: tuple[str, ...]) -> Project:
    """Draw training shards, vocabulary and ``test_sets`` below ``root``; returns the project that finds them."""
    project = Project(data_directory=str(root / "data"), runs_directory=str(root / "runs"))
    data = root / "data" / data_slug(scale.data)
    draw_train(scale.data.world, data)
    draw_test(scale.data.world, data, test_sets)
    train_vocabulary(data, scale.vocabulary_size)
    return project


def finish_untrained(stage: Stage, project: Project) -> Path:
    """Write what a finished stage leaves, with initial weights; returns the exported model's folder."""
    directory = Path(project.runs_directory) / stage.directory
    vocabulary = Path(project.data_directory) / data_slug(stage.data) / "vocabulary"
    model = build(stage.model_config, stage.seed, positions=stage.positions)
    export = directory / "open_clip"
    augmentation = stage.scale.augmentation
    place = resolve(stage, project)
    state = model.state_dict()
    files = export_open_clip(stage.model_config, state, export, vocabulary, augmentation, place.resize_mode)
    made = {
        "export": files,
        "inputs": inputs_of(place, read_manifest(place.training_data), tags=False, entries=False),
        "commits": [{"from_step": 0, "commit": "0" * 40, "dirty": False, "code": "0" * 12}],
        "integrity": "once",
        "content": stage.content,
        "fingerprint": stage.fingerprint,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "commit": "0" * 40,
        "dirty": False,
        "hardware": "none",
        "seconds": 0.0,
        "samples_seen": stage.schedule.samples,
    }
    made["data_fingerprint"] = made["inputs"]["data"][:12]
    (directory / "stage.json").write_text(json.dumps(with_digest(made)), encoding="utf-8")
    return export
