"""The paper's study in its own words: models, token reductions, lengths, runs, and the full-length baseline.

Everything that names a model, a reduction or a length looks here. A new reduction is one entry in a registry below,
whose rule is a function in a module of its own; a new model is a JSON file in ``model_configs`` and an entry in each
scale that builds it (docs/extending.md). Ground floor: standard library only.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

FULL_IMAGE_SIZE = 224
FULL_PATCHES = 196
"""Patches of 16 pixels at 224: what the study's image lengths are fractions of (§3.2)."""
FULL_TEXT_TOKENS = 32
TEXT_STUDY_IMAGE_SIZE = 112
"""Pixels of every run whose text is shortened (§4.2, Table 12)."""
TEXT_LENGTHS = (32, 16, 8, 6, 4)
IMAGE_LENGTHS = (197, 101, 99, 50, 37, 17)
"""Image tokens of Table 11, class token included: 101 is 160 pixels, 99 a mask that keeps half."""

MODELS = ("S/16", "B/16", "L/16", "H/14", "G/14", "ConvNeXt-T", "ConvNeXt-B")
"""The paper's own models (Table 4, §4.3), smallest first within a family."""
SMALLER_MODELS = ("Ti/16",)
"""Models of our own below S/16, smallest first: they lengthen the law's range of sizes, and fill no published cell."""
TABLE4_PARAMETERS = {"S/16": 55, "B/16": 141, "L/16": 414, "H/14": 967, "G/14": 2516}
"""Parameters of both towers in millions, as Table 4 prints them."""

STUDY = "study"
"""The recipe of §3 and §4: pre-training, then fine-tuning; the full-length baseline is only pre-trained."""
STAGE_KINDS = ("pretrain", "finetune", "negclip")


# -------------------------------------------------------------------------------------------------- token reductions


@dataclass(frozen=True)
class ImageReduction:
    """A way to shorten the image sequence (§3.2). ``mask``: it drops patches of the full-size image.

    ``rule``: ``module:function`` of a mask's index rule, (noise [B, L], shape, kept, reading) -> indices [B, kept].
    ``readings``: names of what §3.2's words leave open, the default first.
    """

    label: str
    mask: bool = False
    rule: str = ""
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextReduction:
    """A way to shorten the text sequence (§3.3).

    ``rule``: ``module:function``, (parts [B, L], kept, noise or None) -> indices [B, kept]; ``released``: likewise, as
    the authors' code has it, (parts, words, kept, noise). ``noise``: it draws; ``tags``: it reads parts of speech.
    """

    label: str
    rule: str
    released: str = ""
    noise: bool = False
    tags: bool = False


_IMAGES, _TEXTS = "clipa.reductions.images", "clipa.reductions.texts"

IMAGE_REDUCTIONS: dict[str, ImageReduction] = {
    "random": ImageReduction("Random masking", mask=True, rule=f"{_IMAGES}:random"),
    "grid": ImageReduction(
        "Grid masking", mask=True, rule=f"{_IMAGES}:grid", readings=("diagonal", "row", "shifted", "drawn")
    ),
    "block": ImageReduction(
        "Block masking",
        mask=True,
        rule=f"{_IMAGES}:block",
        readings=("keep-one", "keep-centre", "remove-several"),
    ),
    "resize": ImageReduction("Image resizing"),
}
"""By name, in the order of the paper's figures. ``none`` is a run's word for no reduction, and no entry."""

TEXT_REDUCTIONS: dict[str, TextReduction] = {
    "truncation": TextReduction("Truncation", rule=f"{_TEXTS}:truncation"),
    "random": TextReduction(
        "Random masking", rule=f"{_TEXTS}:random", released=f"{_TEXTS}:released_random", noise=True
    ),
    "block": TextReduction(
        "Block masking", rule=f"{_TEXTS}:block", released=f"{_TEXTS}:released_block", noise=True
    ),
    "syntax": TextReduction(
        "Syntax masking", rule=f"{_TEXTS}:syntax", released=f"{_TEXTS}:released_syntax", tags=True
    ),
}


def masks() -> tuple[str, ...]:
    """Image reductions that drop patches after the position embedding, in training only (§3.2)."""
    return tuple(name for name, reduction in IMAGE_REDUCTIONS.items() if reduction.mask)


def rule_of(path: str) -> Callable[..., Any]:
    """The function that a registry entry names as ``module:function``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


# ------------------------------------------------------------------------------------------------------------- models


def patch_size(model: str) -> int | None:
    """Pixels of a patch, from the model's name (16 for L/16); None for a ConvNeXt, which has none."""
    family, slash, pixels = model.rpartition("/")
    return int(pixels) if slash and family else None


def model_order(model: str) -> tuple[int, str]:
    """Sort key: models below the paper's, the paper's in their order, then others by name."""
    return order_of((*SMALLER_MODELS, *MODELS), model), model


def model_slug(model: str) -> str:
    """``L16`` for L/16: how a run's name writes a model."""
    return model.replace("/", "")


def _model_of(slug: str) -> str:
    """The model that a slug writes: letters and a patch size get their slash back."""
    return re.sub(r"^([A-Za-z]+)(\d+)$", r"\1/\2", slug)


# --------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True, order=True)
class Run:
    """A pre-training and what comes after it, in the paper's coordinates (Tables 11 and 12).

    ``image_size`` is the paper's pixels; for a mask it stays 224 and ``kept_patches`` says how many of the 196
    patches are kept. ``text_tokens`` counts [CLS]. ``recipe`` names the last of its stages (config/recipes.yaml).
    """

    model: str
    image_reduction: str = "none"
    image_size: int = FULL_IMAGE_SIZE
    kept_patches: int | None = None
    text_reduction: str = "truncation"
    text_tokens: int = FULL_TEXT_TOKENS
    recipe: str = STUDY

    @property
    def slug(self) -> str:
        """``L16-resize64-truncation32``, ``B16-resize112-truncation16-clipa-batch8k``: the run's name."""
        return self.coordinates if self.recipe == STUDY else f"{self.coordinates}-{self.recipe}"

    @property
    def coordinates(self) -> str:
        """The name without the recipe. Stages lie below it, so that the runs of several recipes share them."""
        setting = "" if self.image_reduction == "none" else self.kept_patches or self.image_size
        image, text = f"{self.image_reduction}{setting}", f"{self.text_reduction}{self.text_tokens}"
        return f"{model_slug(self.model)}-{image}-{text}"

    @property
    def patches(self) -> int | None:
        """Patches that the image tower sees in pre-training, at the paper's scale; None for a ConvNeXt."""
        size = patch_size(self.model)
        return None if size is None else self.kept_patches or (self.image_size // size) ** 2

    @property
    def is_full_length(self) -> bool:
        """Full resolution and full text. The study only pre-trains it (docs/design.md, "The baseline")."""
        return self.image_reduction == "none" and self.text_tokens == FULL_TEXT_TOKENS

    @property
    def final_stage(self) -> str:
        """The study's last stage of the run, whose accuracy Tables 11 to 13 print under "fine-tune"."""
        return "pretrain" if self.is_full_length else "finetune"

    @property
    def baseline(self) -> Run:
        """The run that this one's drop is measured from, at its final stage.

        Short texts: the same images and text reduction at 32 tokens (B.3: Table 12 has four baselines). Short
        images: the full-length run of the same text reduction. The baseline of a full-length run is itself.
        """
        if self.text_tokens < FULL_TEXT_TOKENS:
            return replace(self, text_tokens=FULL_TEXT_TOKENS)
        return replace(self, image_reduction="none", image_size=FULL_IMAGE_SIZE, kept_patches=None)


def parse_run(slug: str) -> Run:
    """The run that ``slug`` names; ``ValueError`` with an example when it names none."""
    image, text = "|".join(IMAGE_REDUCTIONS), "|".join(TEXT_REDUCTIONS)
    match = re.fullmatch(
        rf"(?P<model>[A-Za-z]+\d+|[A-Za-z]+-[A-Z])-(?P<image>none|(?P<reduction>{image})(?P<setting>\d+))"
        rf"-(?P<text>{text})(?P<tokens>\d+)(-(?P<recipe>[A-Za-z0-9][A-Za-z0-9.-]*))?",
        slug,
    )
    if not match:
        raise ValueError(
            f"{slug!r} names no run: expected <model>-<image reduction>-<text reduction>[-<recipe>], as in "
            f"L16-resize64-truncation32 or S16-none-truncation32 (models: {', '.join(map(model_slug, MODELS))})"
        )
    reduction = match["reduction"] or "none"
    setting = int(match["setting"] or FULL_IMAGE_SIZE)
    is_mask = reduction in masks()
    return Run(
        model=_model_of(match["model"]),
        image_reduction=reduction,
        image_size=FULL_IMAGE_SIZE if is_mask else setting,
        kept_patches=setting if is_mask else None,
        text_reduction=match["text"],
        text_tokens=int(match["tokens"]),
        recipe=match["recipe"] or STUDY,
    )


def run_order(run: Run) -> tuple[Any, ...]:
    """Sort key of runs: by model, then from the longest text and image to the shortest."""
    return model_order(run.model), -run.text_tokens, -(run.patches or run.image_size), run.slug


def order_of(names: Mapping[str, Any] | Sequence[str], name: str) -> int:
    """Place of ``name`` in a registry or list; names that are not in it come last."""
    listed = list(names)
    return listed.index(name) if name in listed else len(listed)
