"""Recipes: how a run is trained beyond its coordinates, as a tree of stages. The file is ``config/recipes.yaml``.

Each recipe is one stage; ``after`` names the recipe of the stage before it, so that a pre-training shared by many
fine-tunings (Tables 6, 7, 9, 10 and 14) exists once. Numbers are the paper's; a scale applies their ratio to those of
the study (§3.1), which is what a run without a recipe in its name is trained with.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from clipa.config import (
    CONFIG_DIRECTORY,
    Augmentation,
    ConfigError,
    MaskName,
    Schedule,
    Strict,
    read_once,
    read_yaml,
    validated,
)
from clipa.fields import Count, Fraction, Natural, Positive, Text
from clipa.study import FULL_IMAGE_SIZE, IMAGE_REDUCTIONS, STAGE_KINDS

# Samples, batch and warm-up of the study's stages in the paper (§3.1, Table 5, A.2): what recipes are relative to.
STUDY_IN_THE_PAPER = {
    "pretrain": (2_560_000_000, 32_768, 1600),
    "finetune": (131_072_000, 32_768, 800),
}


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Mask(Strict):
    """Patches dropped while fine-tuning (§6, Tables 9 and 10)."""

    reduction: MaskName
    kept_patches: Count = Field(description="of the paper's: 256 at 224 pixels, 576 at 336 (patches of 14)")


class Recipe(Strict):
    """One stage of a recipe. What is not given is as in the stage before; schedules are as in the study."""

    about: Text = Field(description="where in the paper, and what was chosen where it is silent")
    kind: Literal["pretrain", "finetune", "negclip"]
    after: str | None = Field(default=None, description="recipe of the stage before; none: a pre-training")
    samples: Count | None = None
    batch_size: Count | None = None
    warmup_steps: Natural | None = Field(default=None, description="none: as many samples as the study's")
    base_lr_factor: Positive = Field(default=1.0, description="times the study's of this kind and model")
    image_size: Count = Field(default=FULL_IMAGE_SIZE, description="the paper's pixels, in fine-tuning")
    mask: Mask | None = None
    pooling: Literal["average", "class"] | None = Field(
        default=None, description="of the image, class: by the class token; else the model's own"
    )
    color_jitter: Fraction | None = None
    grayscale_probability: Fraction | None = None
    reading: dict[MaskName, str] = Field(
        default_factory=dict, description="of a mask that §3.2 leaves open (clipa.reductions.images)"
    )
    text_recipe: Literal["released"] | None = Field(
        default=None, description="the released code's text masks"
    )
    gelu: Literal["tanh"] | None = Field(
        default=None, description="of both ViT towers: tanh approximation; none: exact (open_clip)"
    )
    positions: Literal["moco-v3"] | None = Field(
        default=None, description="whose frequencies image positions have; none: MAE's (open_clip)"
    )
    data: str | None = Field(default=None, description="data source, by the paper's name; none: the scale's")
    protocol: Text | None = Field(
        default=None, description="it is evaluated with (config/protocols.yaml); none: the study's"
    )

    @model_validator(mode="after")
    def _begins_with_a_pretraining(self) -> Recipe:
        if (self.kind == "pretrain") != (self.after is None):
            raise ValueError("`after` belongs to, and only to, stages that start from another one")
        if self.kind == "pretrain" and (self.mask is not None or self.image_size != FULL_IMAGE_SIZE):
            raise ValueError(
                "mask and image_size are a fine-tuning's; a run's name says them for pre-training"
            )
        for mask, reading in self.reading.items():
            if reading not in IMAGE_REDUCTIONS[mask].readings:
                known = ", ".join(IMAGE_REDUCTIONS[mask].readings) or "none"
                raise ValueError(f"reading.{mask}: {reading!r} is none of its readings ({known})")
        return self

    @model_validator(mode="after")
    def _fits_into_its_samples(self) -> Recipe:
        if self.kind == "negclip":
            if (self.samples, self.batch_size, self.warmup_steps) != (None, None, None):
                raise ValueError("samples, batch_size, warmup_steps: NegCLIP's are the scale's")
            return self
        samples, batch, _ = STUDY_IN_THE_PAPER[self.kind]
        steps = (self.samples or samples) // (self.batch_size or batch)
        if steps < max(1, self.warmup_steps or 0):
            raise ValueError(
                f"batch_size, warmup_steps: there are {steps} steps, of which {self.warmup_steps or 0} warm up"
            )
        return self

    def augmentation(self, of_scale: Augmentation) -> Augmentation:
        """The scale's (or the model's) augmentation with the recipe's colours."""
        colours = {
            name: value
            for name in ("color_jitter", "grayscale_probability")
            if (value := getattr(self, name)) is not None
        }
        return of_scale.model_copy(update=colours) if colours else of_scale

    def schedule(self, study: Schedule, lanes: int) -> Schedule:
        """The scale's schedule of this kind, changed as the recipe changes the paper's.

        Batches are whole multiples of ``lanes`` (of the order of samples), and samples of batches; a warm-up lasts as
        many samples as the study's, whatever the batch, or the recipe's share of them.
        """
        if self.kind == "negclip" or (self.samples, self.batch_size, self.warmup_steps) == (None, None, None):
            return study
        samples, batch, warmup = STUDY_IN_THE_PAPER[self.kind]
        own_batch = self.batch_size or batch
        size = max(1, round(study.batch_size * own_batch / batch / lanes)) * lanes
        steps = max(1, int(study.samples * (self.samples or samples) / samples / size))
        share = 1.0 if self.warmup_steps is None else self.warmup_steps * own_batch / (warmup * batch)
        warmup_steps = min(steps, round(study.warmup_steps * study.batch_size * share / size))
        return study.model_copy(
            update={"samples": steps * size, "batch_size": size, "warmup_steps": warmup_steps}
        )


_INHERITED = (
    *("pooling", "color_jitter", "grayscale_probability", "text_recipe", "gelu", "positions", "data"),
    "protocol",
)


def chain(name: str, directory: Path = CONFIG_DIRECTORY) -> tuple[Recipe, ...]:
    """The stages of the recipe called ``name``, first to last, each with what it has from those before it.

    ConfigError for a name that ``config/recipes.yaml`` does not have.
    """
    recipes = load_recipes(directory)
    if name not in recipes:
        raise ConfigError(
            f"{directory}/recipes.yaml: there is no recipe {name!r} (known: {', '.join(recipes)})"
        )
    recipe = recipes[name]
    if recipe.after is None:
        return (recipe,)
    before = chain(recipe.after, directory)
    inherited = {key: getattr(before[-1], key) for key in _INHERITED if getattr(recipe, key) is None}
    return (*before, recipe.model_copy(update=inherited))


def load_recipes(directory: Path = CONFIG_DIRECTORY) -> dict[str, Recipe]:
    """Every recipe by name, checked: known parents, no circle, names that can be parts of a run's name."""
    return _load(directory / "recipes.yaml")


@read_once
def _load(path: Path) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    for name, values in read_yaml(path).items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: {name}: a recipe's name has letters, digits, . and - only")
        recipe: Recipe = validated(Recipe, values, path, name)
        # Parents come first in the file, which also rules out circles.
        if recipe.after is not None and recipe.after not in recipes:
            raise ConfigError(f"{path}: {name}.after: there is no recipe {recipe.after!r} above it")
        if recipe.after is not None and STAGE_KINDS.index(recipes[recipe.after].kind) > STAGE_KINDS.index(
            recipe.kind
        ):
            raise ConfigError(
                f"{path}: {name}.kind: {recipe.kind} cannot follow {recipes[recipe.after].kind}"
            )
        recipes[name] = recipe
    return recipes


def report(directory: Path = CONFIG_DIRECTORY) -> str:
    """The tree of all recipes for a terminal, at most 100 columns wide: name, kind, and where it stands."""
    recipes = load_recipes(directory)
    lines = [
        "Recipes, each below the stage it starts from (a run's name ends in one: <coordinates>-<recipe>)"
    ]

    def add(name: str, depth: int) -> None:
        head = f"{'  ' * depth}{name}"
        about = textwrap.shorten(recipes[name].about, 100 - 42 - 10, placeholder=" …")
        lines.append(f"  {head:<38}  {recipes[name].kind:<8}  {about}")
        for child, recipe in recipes.items():
            if recipe.after == name:
                add(child, depth + 1)

    for name, recipe in recipes.items():
        if recipe.after is None:
            add(name, 0)
    return "\n".join(lines)
