"""What must fit together in a scale's file, beyond the range of each value: called when the file is read.

Every function raises ValueError that begins with the key; :mod:`clipa.config` puts the file before it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from clipa import study
from clipa.links import links_of

if TYPE_CHECKING:
    from clipa.config import Scale
    from clipa.sources import Data

COCO = "COCO-2014"
"""The data source whose images come from COCO's own list (workflow/rules/coco.smk)."""
_ORDER_KINDS = ("relation", "attribute", "order")


def check(scale: Scale) -> None:
    """All checks that need the scale alone; what is downloaded: :func:`clipa.downloads.check`."""
    _models(scale)
    _augmentations(scale)
    _images(scale)
    _data(scale)
    _schedules(scale)
    _resources(scale)
    if scale.data.kind == "pictograms":
        _world(scale)


def all_data(scale: Scale) -> dict[str, Data]:
    """All training data by its key in the scale's file."""
    return {"data": scale.data} | {f"sources.{name}": data for name, data in scale.sources.items()}


def test_sets(scale: Scale) -> dict[str, str]:
    """All test sets by their key in the scale's file."""
    parts = {"benchmarks": scale.evaluation.benchmarks, "suite": scale.evaluation.suite}
    return {f"evaluation.{part}.{key}": name for part, names in parts.items() for key, name in names.items()}


def _models(scale: Scale) -> None:
    from clipa.config import MODEL_CONFIG_DIRECTORY

    for name, model in scale.models.items():
        path = MODEL_CONFIG_DIRECTORY / f"{model.config}.json"
        if not path.is_file():
            raise ValueError(f"models.{name}.config: there is no src/clipa/model_configs/{path.name}")
        built = json.loads(path.read_text(encoding="utf-8"))["vision_cfg"].get("patch_size")
        asked = model.patch_size or scale.patch_size
        if study.patch_size(name) is not None and built != asked:
            raise ValueError(
                f"models.{name}.config: {path.name} has patches of {built}, patch_size is {asked}"
            )


def _augmentations(scale: Scale) -> None:
    """A model is evaluated with the scale's mean and deviation, and inherits weights that were trained with them."""
    own = {f"models.{name}": model.augmentation for name, model in scale.models.items()}
    own["negatives"] = scale.negatives and scale.negatives.augmentation
    for key, found in own.items():
        if found and (found.mean, found.std) != (scale.augmentation.mean, scale.augmentation.std):
            raise ValueError(f"{key}.augmentation: mean and std are not the scale's")


def _images(scale: Scale) -> None:
    if study.FULL_IMAGE_SIZE not in scale.image_sizes:
        raise ValueError(f"image_sizes: no entry for {study.FULL_IMAGE_SIZE} pixels")
    patches = {scale.patch_size, *(model.patch_size for model in scale.models.values() if model.patch_size)}
    for paper, size in scale.image_sizes.items():
        if all(size % patch for patch in patches):
            raise ValueError(f"image_sizes: {size} is not a multiple of patch_size {scale.patch_size}")
        if size > 4096:
            raise ValueError(f"image_sizes.{paper}: {size} pixels are more than 4096")
    if both := sorted(scale.image_sizes.keys() & set(scale.left_out_sizes)):
        raise ValueError(f"left_out_sizes: {both[0]} is in image_sizes too")
    if len(set(scale.left_out_sizes)) < len(scale.left_out_sizes):
        raise ValueError(f"left_out_sizes: {scale.left_out_sizes}: one of them stands twice")
    whole = (scale.full_image_size // scale.patch_size) ** 2
    for paper, kept in scale.kept_patches.items():
        if paper > study.FULL_PATCHES or kept > whole:
            raise ValueError(
                f"kept_patches.{paper}: {kept} of {whole} patches (in the paper {paper} of {study.FULL_PATCHES})"
            )


def _data(scale: Scale) -> None:
    own = all_data(scale)
    names = [data.name for data in own.values()]
    for key, data in own.items():
        if data.shard_count < data.lanes:
            raise ValueError(
                f"{key}.lanes: {data.lanes} lanes need as many shards; there are {data.shard_count}"
            )
        if names.count(data.name) > 1:
            raise ValueError(f"{key}.name: {data.name!r} occurs twice")
        if data.kind == "webdataset" and data.download is None and key != f"sources.{COCO}":
            raise ValueError(f"{key}.download: missing; it says where the links of {data.name} are")
        if data.kind == "webdataset":
            try:
                links_of(data.download).download.jobs(data.shards)
            except ValueError as error:
                raise ValueError(f"{key}.{error}") from None
    source = scale.negatives and scale.negatives.source
    if source is not None and source not in scale.sources:
        raise ValueError(f"negatives.source: there is no data source {source!r} (sources)")
    if scale.data.kind != "pictograms" and scale.tagger in ("gold", "world"):
        raise ValueError(
            f"tagger: {scale.tagger} is the embedded world's; name a spaCy pipeline, as en_core_web_sm"
        )


def _schedules(scale: Scale) -> None:
    source = scale.negatives and scale.negatives.source
    reads = {
        "pretrain": scale.data,
        "finetune": scale.data,
        "negclip": scale.sources[source] if source else scale.data,
    }
    for kind, data in reads.items():
        schedule = getattr(scale, kind)
        if schedule is None:
            continue
        if schedule.batch_size % data.lanes:
            raise ValueError(
                f"{kind}.batch_size: {schedule.batch_size} is not a multiple of the {data.lanes} lanes of {data.name}"
            )
        if schedule.batch_size % scale.processes:
            raise ValueError(
                f"{kind}.batch_size: {schedule.batch_size} is not a multiple of the {scale.processes} processes"
            )
        if schedule.muon and (scale.sharded or any(model.sharded for model in scale.models.values())):
            raise ValueError(
                f"{kind}.muon: a sharded matrix has no Muon update; leave out `muon` or `sharded`"
            )
        if scale.compile and schedule.activation_checkpointing == "selective":
            raise ValueError(
                f"{kind}.activation_checkpointing: selective changes bits with `compile: true`; true or false does not"
            )
        if unknown := schedule.base_lr.keys() - scale.models.keys():
            raise ValueError(f"{kind}.base_lr: {min(unknown)} is no model of this scale")
        for name in scale.models:
            if (rate := scale.base_lr(name, kind)) is not None and rate > 1:
                raise ValueError(f"{kind}.base_lr.{name}: {rate} is more than 1")


def _resources(scale: Scale) -> None:
    processes, nodes, gpus = scale.processes, scale.resources.nodes, scale.resources.gpus
    if scale.one_process and processes > 1:
        raise ValueError(f"one_process: a stage has {processes} processes")
    if processes % nodes:
        raise ValueError(f"resources.nodes: {processes} processes are not a multiple of {nodes} nodes")
    if scale.device == "cuda" and not gpus:
        raise ValueError("resources.gpus: a scale on the device cuda asks for none")
    if scale.device == "cpu" and scale.resources.card is not None:
        raise ValueError("resources.card: a scale on the device cpu has none")
    if scale.device == "cuda" and processes != nodes * gpus:
        raise ValueError(
            f"resources.gpus: {processes} processes need a GPU each; {nodes} nodes with {gpus} have {nodes * gpus}"
        )


def _world(scale: Scale) -> None:
    from clipa.worlds import TEST_SETS

    if scale.vocabulary_size is None:
        raise ValueError("vocabulary_size: the embedded world's vocabulary is made from it; give one")
    for key, name in test_sets(scale).items():
        place, slash, kind = name.partition("/")
        if (
            place not in TEST_SETS
            or (place == "order") != bool(slash)
            or (slash and kind not in _ORDER_KINDS)
        ):
            order = ", ".join(f"order/{one}" for one in _ORDER_KINDS)
            raise ValueError(f"{key}: {name!r} is no test set ({', '.join(TEST_SETS[:-1])}, {order})")
