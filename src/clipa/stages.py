"""Stages: what is trained, and the fingerprints that identify it.

A stage is a run's pre-training, a fine-tuning of it, or NegCLIP, at one scale and seed. Its fingerprint covers
everything that changes the weights and nothing else, and is known before anything is trained, so a plan can tell what
exists, what is recorded and what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipa.config import (
    MODEL_CONFIG_DIRECTORY,
    Augmentation,
    ConfigError,
    Project,
    Scale,
    Schedule,
)
from clipa.protocols import STUDY_PROTOCOL, Pixels, Protocol, protocol_named
from clipa.recipes import Recipe, chain
from clipa.resolved import SEMANTICS, ResolvedStage, data_content, data_slug, fingerprint
from clipa.sources import Data, Prepared
from clipa.study import FULL_TEXT_TOKENS, STUDY, TEXT_REDUCTIONS, Run, patch_size

EXECUTED = ("microbatch", "activation_checkpointing")
"""Of a schedule: how its steps are executed on a machine. No part of a stage's identity."""
BERT_ENTRIES = 30_522
"""Of bert-base-uncased's vocabulary, which own data has where no size is given."""


@dataclass(frozen=True)
class Stage:
    """One training: of which run, by which stage of its recipe, from which parent, at which scale and seed."""

    run: Run
    recipe: Recipe
    scale: Scale
    seed: int
    parent: Stage | None = None

    @property
    def kind(self) -> str:
        return self.recipe.kind

    @cached_property
    def schedule(self) -> Schedule:
        """The scale's for this kind of stage, as the recipe changes it."""
        return self.recipe.schedule(self.scale.schedule(self.run.model, self.kind), self.data.lanes)

    @property
    def sharded(self) -> bool:
        """Whether parameters and optimizer are split over the processes."""
        own = self.scale.models[self.run.model].sharded
        return self.scale.sharded if own is None else own

    @property
    def data(self) -> Data:
        """What it is trained on. An embedded world stands for every data source; ConfigError for an unknown one."""
        source = self.scale.negatives.source if self.kind == "negclip" else self.recipe.data
        if source is None or self.scale.data.kind == "pictograms":
            return self.scale.data
        if source not in self.scale.sources:
            raise ConfigError(f"{_file(self.scale)}: sources: there is no data source {source!r}")
        return self.scale.sources[source]

    @property
    def resident(self) -> bool:
        """Whether all images stay on the device; NegCLIP's rows have several each, and are always streamed."""
        return self.data.resident and self.kind != "negclip"

    @property
    def prepared(self) -> Prepared | None:
        """The copy with small images that it reads, if the data has one and a square crop of the smallest area still
        has as many pixels there as the target.
        """
        made = self.data.prepared
        if made is None or self.kind == "negclip":
            return None
        crop = made.short_side * self.augmentation.crop_area[0] ** 0.5
        return made if crop >= self.image_size else None

    @property
    def training_set(self) -> str:
        """Folder of its training set, below its data."""
        if self.kind == "negclip":
            return "negclip"
        return self.prepared.folder if self.prepared else "train"

    @property
    def image_size(self) -> int:
        """Pixels at this scale: reduced in pre-training, full (or more) afterwards (§3.1, §6)."""
        return self.scale.image_sizes[self.paper_pixels]

    @property
    def paper_pixels(self) -> int:
        """Pixels in the paper of what its images stand for."""
        return self.run.image_size if self.kind == "pretrain" else self.recipe.image_size

    @property
    def patch_size(self) -> int:
        return self.scale.models[self.run.model].patch_size or self.scale.patch_size

    @property
    def patches(self) -> int | None:
        """Patches of the whole image at this scale; None for a ConvNeXt."""
        return None if self.run.patches is None else (self.image_size // self.patch_size) ** 2

    @property
    def image_reduction(self) -> str:
        """The run's in pre-training; afterwards the recipe's mask, or none."""
        if self.kind == "pretrain":
            return self.run.image_reduction
        return self.recipe.mask.reduction if self.recipe.mask else "none"

    @property
    def kept_patches(self) -> int | None:
        """Patches that a mask leaves at this scale; None where nothing is masked.

        In pre-training as the scale's file says; in fine-tuning (§6) the paper's share of them, to the nearest patch.
        """
        if self.kind == "pretrain":
            return None if self.run.kept_patches is None else self.scale.kept_patches[self.run.kept_patches]
        if self.recipe.mask is None:
            return None
        whole = (self.paper_pixels // patch_size(self.run.model)) ** 2
        return round(self.recipe.mask.kept_patches * self.patches / whole)

    @property
    def reading(self) -> str | None:
        """Which reading of its mask the recipe asks for; None: the default (:mod:`clipa.reductions.images`)."""
        return self.recipe.reading.get(self.image_reduction)

    @property
    def text_reduction(self) -> str:
        """The run's, also in fine-tuning (B.3); NegCLIP reduces nothing."""
        return "truncation" if self.kind == "negclip" else self.run.text_reduction

    @property
    def text_tokens(self) -> int:
        return self.run.text_tokens if self.kind == "pretrain" else FULL_TEXT_TOKENS

    @property
    def text_recipe(self) -> str:
        """`released`: the released code's way with captions that are too long; `paper`: the text's (§3.3)."""
        return self.recipe.text_recipe or "paper"

    @property
    def augmentation(self) -> Augmentation:
        """The scale's (or the model's) with the recipe's colours; NegCLIP's own where the scale gives one."""
        if self.kind == "negclip" and self.scale.negatives.augmentation is not None:
            return self.scale.negatives.augmentation
        return self.recipe.augmentation(
            self.scale.models[self.run.model].augmentation or self.scale.augmentation
        )

    @property
    def protocol_name(self) -> str:
        """What it is evaluated with (:mod:`clipa.protocols`); no part of its identity."""
        return self.recipe.protocol or STUDY_PROTOCOL

    @property
    def protocol(self) -> Protocol:
        """ConfigError where there is none of that name."""
        return _protocol(self.recipe, self.scale)

    @property
    def pixels(self) -> Pixels:
        """How its test images are made."""
        return self.protocol.pixels(self.image_size, self.paper_pixels, ("shorter", "bilinear"))

    @property
    def base_lr(self) -> float:
        return self.scale.base_lr(self.run.model, self.kind) * self.recipe.base_lr_factor

    @property
    def peak_lr(self) -> float:
        """Base lr × batch size / 256 (Table 5's base lr; the released configurations apply it so)."""
        return self.base_lr * self.schedule.batch_size / 256

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """The open_clip model configuration of this stage: the file, at this stage's image size and text length."""
        name = self.scale.models[self.run.model].config
        path = MODEL_CONFIG_DIRECTORY / f"{name}.json"
        if not path.is_file():
            raise ConfigError(f"{_file(self.scale)}: models.{self.run.model}.config: no {path.name}")
        config = json.loads(path.read_text(encoding="utf-8"))
        config["vision_cfg"]["image_size"] = self.image_size
        if self.recipe.pooling == "average":  # of the patches, then the norm (§5; open_clip's CLIPA models)
            config["vision_cfg"] |= {"pool_type": "avg", "final_ln_after_pool": True}
        elif self.recipe.pooling == "class":
            config["vision_cfg"]["pool_type"] = "tok"
            config["vision_cfg"].pop("final_ln_after_pool", None)
        config["text_cfg"]["context_length"] = self.text_tokens
        if (
            self.scale.data.kind == "local"
        ):  # whose vocabulary is the user's choice, and not the model's file's
            least = self.scale.vocabulary_size or max(BERT_ENTRIES, config["text_cfg"]["vocab_size"])
            config["text_cfg"]["vocab_size"] = least
        if self.recipe.gelu is not None:
            for tower in ("vision_cfg", "text_cfg"):
                config[tower]["act_kwargs"] = {"approximate": self.recipe.gelu}
        return config

    @property
    def positions(self) -> str | None:
        """Whose frequencies the fixed image positions have (:func:`clipa.models.build`); None: MAE's, the default."""
        return self.recipe.positions

    @cached_property
    def content(self) -> dict[str, Any]:
        """Everything that changes the weights: what the fingerprint covers."""
        # How a step is cut into passes, and what backward computes again, changes the order of summation at most.
        executed = {name: Schedule.model_fields[name].default for name in EXECUTED}
        schedule = self.schedule.model_dump() | executed | {"base_lr": self.base_lr}
        if self.schedule.muon is None:
            del schedule["muon"]
        else:
            schedule["muon"]["lr"] *= self.recipe.base_lr_factor
        image: dict[str, Any] = {"reduction": self.image_reduction}
        if self.kept_patches is not None:
            image["kept_patches"] = self.kept_patches
            if self.reading is not None:
                image["reading"] = self.reading
        text: dict[str, Any] = {"reduction": self.text_reduction, "tokens": self.text_tokens}
        if TEXT_REDUCTIONS[self.text_reduction].tags:
            text["tagger"] = self.scale.tagger
        if self.text_recipe != "paper" and self.text_reduction != "truncation":
            text["recipe"] = self.text_recipe
        content = {
            "semantics": SEMANTICS,
            "kind": self.kind,
            "seed": self.seed,
            "model": self.model_config,
            "image": image,
            "text": text,
            "schedule": schedule,
            "augmentation": _augmentation_content(self.augmentation),
            "precision": self.scale.precision,
            "threads": self.scale.threads,
            # Several processes may resume as another number of them: only the order of sums differs then.
            "processes": "any" if self.sharded or self.scale.processes > 1 else 1,
            "device": self.scale.device,
            "vocabulary_size": self.scale.vocabulary_size,
            "data": data_content(self.data),
            "order": {"lanes": self.data.lanes, "shuffle_window": self.data.shuffle_window},
            "parent": self.parent.fingerprint if self.parent else None,
        }
        if self.scale.blocks != "open_clip":
            content["blocks"] = self.scale.blocks
        if self.scale.compile:
            content["compile"] = True
        if self.sharded:  # in bf16 blocks pass bfloat16 on
            content["sharded"] = True
        if self.positions is not None:
            content["positions"] = self.positions
        if self.resident:  # rounds pixels a little differently (clipa.data.resident)
            content["loader"] = "resident"
        if self.data.decode != "full":
            content["decode"] = self.data.decode
        if self.prepared is not None:
            content["prepared"] = self.prepared.model_dump()
        if self.kind == "negclip":
            content["negatives"] = self.scale.negatives.model_dump(include={"neighbours", "rows"})
            content["negatives"]["tagger"] = self.scale.tagger
        return content

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.content)

    @property
    def directory(self) -> Path:
        """Below ``results/runs``: ``<scale>/<coordinates>/<kind>/seed<k>-<fingerprint>``."""
        return Path(self.scale.name, self.run.coordinates, self.kind, f"seed{self.seed}-{self.fingerprint}")


def _augmentation_content(augmentation: Augmentation) -> dict[str, Any]:
    """What changes pixels: colours only where they are jittered, so that plain crops keep their fingerprints."""
    content = augmentation.model_dump()
    if not augmentation.color_jitter:
        del content["color_jitter"], content["color_jitter_probability"]
    if not augmentation.grayscale_probability:
        del content["grayscale_probability"]
    return content


def stages_of(run: Run, scale: Scale, seed: int) -> list[Stage]:
    """The stages of ``run``, in training order; the last one's fingerprint identifies the run's evaluation.

    The study's full-length baseline is only pre-trained (docs/design.md, "The baseline"). ConfigError where the scale
    cannot build the run, or there is no such recipe.
    """
    recipes = chain(run.recipe, scale.config_directory)
    if run.recipe == STUDY and run.is_full_length:
        recipes = recipes[:1]
    _check_buildable(run, scale, recipes)
    stages: list[Stage] = []
    for recipe in recipes:
        stages.append(Stage(run, recipe, scale, seed, parent=stages[-1] if stages else None))
        batch = stages[-1].schedule.batch_size
        if batch % scale.processes:
            raise ConfigError(
                f"{_file(scale)}: processes: {scale.processes} do not divide the batch of {batch} of {run.slug}"
            )
        if scale.compile and stages[-1].sharded:
            raise ConfigError(
                f"{_file(scale)}: compile: not for a sharded model, which {run.model} is; compile: false trains it"
            )
    return stages


def measured_stages(stages: Sequence[Stage]) -> list[Stage]:
    """The stages that are evaluated: of each kind the last one (of a fine-tuning in two steps, §6, the second)."""
    return list({stage.kind: stage for stage in stages}.values())


def _check_buildable(run: Run, scale: Scale, recipes: Sequence[Recipe]) -> None:
    file = _file(scale)
    for recipe in recipes:
        _protocol(recipe, scale)
    if run.model not in scale.models:
        known = ", ".join(scale.models)
        raise ConfigError(f"{file}: models: {run.model} is not built at this scale (it has {known})")
    for pixels in (run.image_size, *(recipe.image_size for recipe in recipes)):
        if pixels not in scale.image_sizes:
            known = ", ".join(map(str, sorted(scale.image_sizes)))
            raise ConfigError(f"{file}: image_sizes: no entry for {pixels} pixels (it has {known})")
        patch = scale.models[run.model].patch_size or scale.patch_size
        if run.patches is not None and scale.image_sizes[pixels] % patch:
            raise ConfigError(
                f"{run.slug}: {scale.image_sizes[pixels]} pixels cannot be cut into patches of {patch}"
            )
    tuned = any(recipe.kind == "negclip" for recipe in recipes)
    if tuned and (scale.negclip is None or scale.base_lr(run.model, "negclip") is None):
        raise ConfigError(f"{file}: negclip: no schedule, or no rate in it, for {run.model}")
    masked = run.kept_patches is not None or any(recipe.mask for recipe in recipes)
    if masked and run.patches is None:
        raise ConfigError(f"{run.slug}: a ConvNeXt has no patches to mask; §4.3 resizes its images")
    for key in ("gelu", "positions"):
        if run.patches is None and any(getattr(recipe, key) for recipe in recipes):
            raise ConfigError(f"{run.slug}: {key}: a choice of ViT towers; the run has a ConvNeXt")
    for recipe in recipes:
        whole = recipe.mask and (recipe.image_size // patch_size(run.model)) ** 2
        if whole and recipe.mask.kept_patches > whole:
            raise ConfigError(f"{run.slug}: mask.kept_patches: {recipe.mask.kept_patches} of {whole} patches")
    if run.kept_patches is not None and run.kept_patches not in scale.kept_patches:
        known = ", ".join(map(str, sorted(scale.kept_patches)))
        raise ConfigError(
            f"{file}: kept_patches: no entry for {run.kept_patches} of 196 patches (it has {known})"
        )
    wrong = [name for recipe in recipes for name in recipe.reading if name != run.image_reduction]
    if wrong:
        raise ConfigError(
            f"{run.slug}: its recipe sets a reading of {wrong[0]} masking, which the run does not have"
        )
    own = scale.models[run.model].augmentation or scale.augmentation
    made = [recipe.augmentation(own) for recipe in recipes]
    if scale.data.resident and any(one.color_jitter or one.grayscale_probability for one in made):
        raise ConfigError(
            f"{run.slug}: colours are not changed by a resident loader; {file}: data.resident: false does it"
        )


def _protocol(recipe: Recipe, scale: Scale) -> Protocol:
    """ConfigError where there is none of the recipe's name."""
    asked = f"{scale.config_directory.as_posix()}/recipes.yaml: protocol"
    return protocol_named(recipe.protocol or STUDY_PROTOCOL, scale.config_directory, asked)


def _file(scale: Scale) -> str:
    """The scale's file, for messages."""
    return f"{scale.config_directory.as_posix()}/scales/{scale.name}.yaml"


def evaluation_directory(stages: Sequence[Stage]) -> Path:
    """Below ``results/runs``: where the records of a run with these stages are written."""
    last = stages[-1]
    return Path(last.scale.name, last.run.slug, "evaluation", f"seed{last.seed}-{last.fingerprint}")


def recorded_path(stages: Sequence[Stage]) -> Path:
    """Below ``results/recorded``: where the accepted records of a run with these stages are kept."""
    last = stages[-1]
    return Path(last.scale.name, last.run.slug, f"seed{last.seed}-{last.fingerprint}.json")


def recorded_suite_path(stages: Sequence[Stage]) -> Path:
    """Likewise for the whole test suite on the run's last stage; a folder deeper, so that no figure takes it in."""
    path = recorded_path(stages)
    return path.parent / "suite" / path.name


def resolve(stage: Stage, project: Project, **executed: Any) -> ResolvedStage:
    """What the training of ``stage`` starts from (:mod:`clipa.resolved`), in the places of ``project``.

    ``executed``: how its steps are, by :data:`EXECUTED`, where it is not the schedule's
    (:func:`clipa.fits.resolve_fitting`).
    """
    executed = {name: getattr(stage.schedule, name) for name in EXECUTED} | executed
    runs, data = Path(project.runs_directory), Path(project.data_directory)
    return ResolvedStage(
        fingerprint=stage.fingerprint,
        scale=stage.scale.name,
        run=stage.run.coordinates,
        directory=runs / stage.directory,
        training_data=data / data_slug(stage.data) / stage.training_set,
        vocabulary=data / data_slug(stage.scale.data) / "vocabulary",  # one for all data of a scale
        parent=runs / stage.parent.directory if stage.parent else None,
        processes=stage.scale.processes,
        nodes=stage.scale.resources.nodes,
        cpus=stage.scale.resources.cpus,
        workers=stage.data.workers,
        integrity=stage.data.integrity,
        resize_mode="squash" if stage.pixels.mode == "squash" else "shortest",
        checkpoint_every=stage.scale.checkpoint_every,
        log_every=stage.scale.log_every,
        **executed,
        content=stage.content,
    )
