"""Arithmetic of training: multiply-adds of a stage, before anything runs. Ground floor: standard library only.

The unit is the paper's (Figure 1, Table 1): multiply-adds of one forward pass of both towers, attention included.
Training counts three forward passes (forward, and twice as much for backward).
"""

from __future__ import annotations

from typing import Any

from clipa.runs import Stage

TRAINING_PASSES = 3


def transformer_macs(width: int, layers: int, tokens: int, mlp_ratio: float = 4.0) -> float:
    """Multiply-adds of ``layers`` blocks on one sequence: projections 4·w², MLP 2·ratio·w², attention 2·n·w."""
    return layers * tokens * width * ((4 + 2 * mlp_ratio) * width + 2 * tokens)


def forward_macs(model_config: dict[str, Any]) -> float:
    """Multiply-adds of one image-text pair through both towers, at the configuration's image size and text length."""
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    embedding = patches * 3 * vision["patch_size"] ** 2 * vision["width"]
    image = transformer_macs(vision["width"], vision["layers"], patches + 1, vision.get("mlp_ratio", 4.0))
    words = transformer_macs(
        text["width"], text["layers"], text["context_length"], text.get("mlp_ratio", 4.0)
    )
    return embedding + image + words


def stage_macs(stage: Stage) -> float:
    """Multiply-adds of a whole training stage."""
    return TRAINING_PASSES * stage.schedule.samples * forward_macs(stage.model_config)
