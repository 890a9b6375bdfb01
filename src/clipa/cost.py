"""Arithmetic of training: multiply-adds, before anything runs. Ground floor: standard library only.

The unit is the paper's. What it prints as GFLOPs are multiply-adds of **one forward pass of both towers**: patch
embedding, projections, attention, MLP and the projection to the embedding; the class token counts, the text has 32
tokens; norms, activations and the loss do not count. In this unit H/14 at 224 pixels is Table 10's 177.0 exactly.
Compute of a training is that times samples (Table 2's caption), without the backward pass. `stage_macs`, which
estimates what a job will cost, does count it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipa.study import FULL_IMAGE_SIZE, FULL_TEXT_TOKENS

if TYPE_CHECKING:
    from clipa.stages import Stage

LOGITS_AT_ONCE = 1 << 25
"""Logits that a process holds at a time, in float32: 128 MB, and twice as much for their gradients (clipa.losses)."""


CHECKPOINT_BYTES = 12
"""Of a parameter: it and AdamW's two moments, in float32."""

TRAINING_PASSES = 3  # forward, and twice as much for backward

# Of every run in Tables 11 to 15 (Table 1; A.2: 4000 steps of 32768).
PRETRAIN_SAMPLES = 2.56e9
FINETUNE_SAMPLES = 131.072e6
OPENCLIP_SAMPLES = 12.8e9  # Table 1
OPENCLIP_TEXT_TOKENS = 77


@dataclass(frozen=True)
class Transformer:
    """`layers` blocks of `width`; the MLP's hidden width is four times that unless given."""

    layers: int
    width: int
    mlp_width: int | None = None

    def macs(self, tokens: float) -> float:
        """Multiply-adds on one sequence: projections 4·w², MLP 2·w·m, attention 2·n·w, per token and layer."""
        mlp_width = self.mlp_width or 4 * self.width
        return self.layers * tokens * self.width * (4 * self.width + 2 * mlp_width + 2 * tokens)

    def parameters(self) -> int:
        """Of the blocks and the norm after them, biases included."""
        width, mlp_width = self.width, self.mlp_width or 4 * self.width
        block = 4 * width * (width + 1) + 2 * width * mlp_width + mlp_width + width + 4 * width
        return self.layers * block + 2 * width


@dataclass(frozen=True)
class Towers:
    """What the cost and size of two towers depend on. Heads do not matter to it."""

    embed_dim: int
    patch_size: int
    vision: Transformer
    text: Transformer

    def image_macs(self, patches: float) -> float:
        """One image of `patches` patches and a class token."""
        embedding = patches * 3 * self.patch_size**2 * self.vision.width
        return embedding + self.vision.macs(patches + 1) + self.vision.width * self.embed_dim

    def text_macs(self, tokens: float) -> float:
        """One text of `tokens` tokens, padding included: the towers see it."""
        return self.text.macs(tokens) + self.text.width * self.embed_dim

    def macs(self, patches: float, text_tokens: float) -> float:
        """One pair."""
        return self.image_macs(patches) + self.text_macs(text_tokens)

    def vision_parameters(self, *, positions: bool, projection: bool) -> int:
        """Of the image tower at 224 pixels; `positions`: the fixed ones, which are stored and not learned."""
        count = self.vision.parameters() + (3 * self.patch_size**2 + 1) * self.vision.width
        count += positions * self.vision.width * ((FULL_IMAGE_SIZE // self.patch_size) ** 2 + 1)
        return count + projection * self.vision.width * self.embed_dim

    def text_parameters(self, vocabulary: int, *, projection: bool) -> int:
        """Of the text tower with 32 positions and `vocabulary` rows."""
        count = self.text.parameters() + (vocabulary + FULL_TEXT_TOKENS) * self.text.width
        return count + projection * self.text.width * self.embed_dim


@dataclass(frozen=True)
class ConvNet:
    """A ConvNeXt (Liu et al., 2022): four stages of blocks; `stem` pixels a side become the first stage's position."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    stem: int = 4

    def macs(self, image_size: int) -> float:
        """Multiply-adds on one square image: depthwise 7 × 7, a layer to four times the width and one back."""
        side, before, total = image_size // self.stem, 3, 0.0
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            kernel = self.stem if stage == 0 else 2
            side = side if stage == 0 else side // 2
            total += side**2 * width * (before * kernel**2 + depth * (49 + 8 * width))
            before = width
        return total

    def parameters(self) -> int:
        """Norms, biases and layer scale included; without a classifier."""
        before, total = 3, 2 * self.widths[-1]
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            kernel, norm = (self.stem, width) if stage == 0 else (2, before)
            total += width * (before * kernel**2 + 1) + 2 * norm
            total += depth * width * (49 + 1 + 2 + 8 * width + 5 + 1)
            before = width
        return total


# §4.3, by timm's names. The small ones have a stem of one pixel: a total stride of 32 would leave nothing of 24.
CONVNETS = {
    "convnext_tiny": ConvNet((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_base": ConvNet((3, 3, 27, 3), (128, 256, 512, 1024)),
    "clipa_micro_convnext_t": ConvNet((1, 1, 1, 1), (6, 12, 24, 48), stem=1),
    "clipa_micro_convnext_b": ConvNet((1, 1, 1, 1), (12, 24, 48, 96), stem=1),
}

# Table 4, and the two OpenCLIP models of Figure 8, which are CLIP's own. Table 4 gives no MLP widths; with 8192 in the
# image tower of G/14, and four times the width elsewhere, its numbers of parameters come out.
CONFIGURATIONS = {
    "S/16": Towers(384, 16, Transformer(12, 384), Transformer(12, 384)),
    "B/16": Towers(512, 16, Transformer(12, 768), Transformer(12, 512)),
    "L/16": Towers(768, 16, Transformer(24, 1024), Transformer(12, 768)),
    "H/14": Towers(1024, 14, Transformer(32, 1280), Transformer(24, 1024)),
    "G/14": Towers(1280, 14, Transformer(48, 1664, 8192), Transformer(32, 1280)),
    "OpenCLIP-B/16": Towers(512, 16, Transformer(12, 768), Transformer(12, 512)),
    "OpenCLIP-L/14": Towers(768, 14, Transformer(24, 1024), Transformer(12, 768)),
}


def full_patches(model: str, image_size: int = FULL_IMAGE_SIZE) -> int:
    """Patches of a whole image: 196 for a model of patch size 16 at 224 pixels."""
    return (image_size // _towers(model).patch_size) ** 2


def paper_macs(model: str, patches: float | None = None, text_tokens: float = FULL_TEXT_TOKENS) -> float:
    """Forward multiply-adds of one pair at the paper's scale: `patches` (None: all of 224 pixels) + a class token.

    ValueError for a model without a configuration in Table 4.
    """
    kept = full_patches(model) if patches is None else patches
    return _towers(model).macs(kept, text_tokens)


def training_total(
    model: str,
    patches: float | None,
    text_tokens: float,
    pretrain_samples: float,
    finetune: list[tuple[float | None, float]],
) -> float:
    """Forward multiply-adds of all samples of all stages: the paper's "total compute" (Table 8, Figure 8).

    `finetune`: (patches, samples) of each stage after pre-training, each with a text of 32 tokens.
    """
    total = pretrain_samples * paper_macs(model, patches, text_tokens)
    return total + sum(samples * paper_macs(model, kept) for kept, samples in finetune)


def _towers(model: str) -> Towers:
    if model not in CONFIGURATIONS:
        raise ValueError(
            f"{model}: no configuration to count from; Table 4 has {', '.join(list(CONFIGURATIONS)[:5])}"
        )
    return CONFIGURATIONS[model]


# -------------------------------------------------------------------------------------- the paper's printed costs


def computed_costs() -> dict[str, float]:
    """For every compute cost that the paper prints, by record id: what this module's one unit gives, in its unit.

    Where the paper leaves something open, the reading that comes nearest to the printed number: FLIP masks half of the
    patches; OpenCLIP has 32 text tokens (it has 77); masks keep exactly 70 % of 256 and 60 % of 576 patches.
    """
    whole, masked, large = full_patches("H/14"), 0.7 * 256, 0.6 * full_patches("H/14", 336)
    short, longer = [(whole, 128e6)], [(masked, 512e6), (large, 128e6)]
    pairs = {
        "224px-128M": paper_macs("H/14"),
        **{f"224px-mask30-{samples}M": paper_macs("H/14", masked) for samples in (128, 512, 640)},
        "336px-mask40-640M": paper_macs("H/14", large),
        "224px-mask30-512M-336px-mask40-128M": sum(n * paper_macs("H/14", p) for p, n in longer) / 640e6,
    }
    at_scale = {
        "FLIP-H14": training_total("H/14", whole / 2, FULL_TEXT_TOKENS, 25.6e9, short),
        "OpenCLIP-H14": 32e9 * paper_macs("H/14"),
        "OpenCLIP-G14": (32e9 + 6.7e9) * paper_macs("G/14"),
        "G14-resize84-truncation8-datacomp1b-12.8B-512M": training_total("G/14", 36, 8, 12.8e9, longer[:1]),
        "G14-resize84-truncation8-datacomp1b-12.8B-512M-128M": training_total("G/14", 36, 8, 12.8e9, longer),
    }
    for data in ("laion2b", "datacomp1b"):
        case = f"H14-resize84-truncation8-{data}-12.8B"
        at_scale[f"{case}-128M"] = training_total("H/14", 36, 8, 12.8e9, short)
        at_scale[f"{case}-512M-128M"] = training_total("H/14", 36, 8, 12.8e9, longer)
    limited = {
        "L16-resize96-truncation8-laion400m-2.56B-128M": training_total(
            "L/16", 36, 8, 2.56e9, [(None, 128e6)]
        ),
        "H14-resize84-truncation8-laion400m-2.56B-128M": training_total("H/14", 36, 8, 2.56e9, short),
        "H14-resize84-truncation8-laion2b-2.56B-128M": training_total("H/14", 36, 8, 2.56e9, short),
        "H14-resize84-truncation8-laion2b-12.8B-128M": training_total("H/14", 36, 8, 12.8e9, short),
    }
    return {
        **{f"table10.{case}.flops": macs / 1e9 for case, macs in pairs.items()},
        **{f"table2.{case}.compute": macs / 1e21 for case, macs in at_scale.items()},
        **{f"table8.{case}.compute": macs / 1e20 for case, macs in limited.items()},
    }


# --------------------------------------------------------------------------------------------- jobs of any scale


def towers_of(model_config: dict[str, Any]) -> Towers:
    """The towers of an open_clip model configuration."""
    vision, text = (
        Transformer(part["layers"], part["width"], int(part["width"] * part.get("mlp_ratio", 4.0)))
        for part in (model_config["vision_cfg"], model_config["text_cfg"])
    )
    return Towers(model_config["embed_dim"], model_config["vision_cfg"]["patch_size"], vision, text)


def forward_macs(model_config: dict[str, Any]) -> float:
    """Multiply-adds of one image-text pair through both towers, at the configuration's image size and text length."""
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    if "timm_model_name" in vision:
        net = CONVNETS[vision["timm_model_name"]]
        projection = net.widths[-1] * model_config["embed_dim"]
        return net.macs(vision["image_size"]) + projection + _text_macs(model_config)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return towers_of(model_config).macs(patches, text["context_length"])


def _text_macs(model_config: dict[str, Any]) -> float:
    text = model_config["text_cfg"]
    tower = Transformer(text["layers"], text["width"])
    return tower.macs(text["context_length"]) + text["width"] * model_config["embed_dim"]


def image_tower_size(model_config: dict[str, Any]) -> tuple[int, int]:
    """Width and layers of the image tower; of a ConvNeXt the last width and all blocks."""
    vision = model_config["vision_cfg"]
    if "timm_model_name" in vision:
        net = CONVNETS[vision["timm_model_name"]]
        return net.widths[-1], sum(net.depths)
    return vision["width"], vision["layers"]


def stage_macs(stage: Stage) -> float:
    """Multiply-adds of a whole training stage, backward passes included; masked patches cost nothing."""
    if stage.kind == "negclip":  # two images and four texts a sample
        text = _text_macs(stage.model_config)
        pair = 2 * (forward_macs(stage.model_config) - text) + 4 * text
    elif stage.kept_patches is None:
        pair = forward_macs(stage.model_config)
    else:
        pair = towers_of(stage.model_config).macs(stage.kept_patches, stage.text_tokens)
    return TRAINING_PASSES * stage.schedule.samples * pair
