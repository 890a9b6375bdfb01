"""What training leaves on disk, from parameters that are counted without building a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipa.config import Data
from clipa.cost import CONVNETS, Transformer, towers_of
from clipa.plan import Plan
from clipa.runs import Stage, data_slug

CHECKPOINTS_KEPT = 2  # by clipa.checkpoint, which this floor cannot import
CHECKPOINT_BYTES = 12  # per parameter: weights and AdamW's two moments in fp32
EXPORT_BYTES = 4
LAION_BYTES, LAION_SHARDS = 10e12, 41408  # docs/data.md: "about ten terabytes" for the authors' shards
PICTOGRAM_BYTES = 1.4  # per stored pixel of a training image, captions and tar headers included; measured


def parameters(model_config: Mapping[str, Any]) -> int:
    """Trainable parameters of an open_clip configuration, to within one per cent, without building it."""
    vision, text, embedding = model_config["vision_cfg"], model_config["text_cfg"], model_config["embed_dim"]
    rows = text["vocab_size"] + text["context_length"] + embedding
    count = Transformer(text["layers"], text["width"]).parameters() + rows * text["width"]
    if "timm_model_name" in vision:
        net = CONVNETS[vision["timm_model_name"]]
        return count + net.parameters() + net.widths[-1] * embedding
    return count + towers_of(dict(model_config)).vision_parameters(positions=False, projection=True)


def disk(plan: Plan, stages: Sequence[Stage]) -> dict[str, float]:
    """Bytes that training `stages` leaves: checkpoints, exports, and the data set where it is not there yet."""
    counts = [parameters(stage.model_config) for stage in stages]
    return {
        "checkpoints": float(CHECKPOINTS_KEPT * CHECKPOINT_BYTES * sum(counts)),
        "exports": float(EXPORT_BYTES * sum(counts)),
        "data": sum(_data_bytes(plan, data) for data in _sources(stages)),
    }


def _sources(stages: Sequence[Stage]) -> list[Data]:
    """The training data of `stages`, each once."""
    return list({data_slug(stage.data): stage.data for stage in stages}.values())


def _data_bytes(plan: Plan, data: Data) -> float:
    if (plan.root / plan.data_of(data) / "train" / "manifest.json").is_file():
        return 0.0
    if data.world is None:
        return LAION_BYTES * (data.shards or LAION_SHARDS) / LAION_SHARDS
    return data.world.training_images * data.world.image_size**2 * PICTOGRAM_BYTES
