"""The experiment grid as data: runs, stages, and the fingerprints that identify them.

A *run* is what a table cell names, always in the paper's coordinates; a *stage* is what is trained, and the unit
of identity. A fingerprint covers everything that changes the weights and nothing else, and is known without
training anything, so a plan can tell what exists, what is recorded and what is missing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipa.config import (
    CONFIG_DIRECTORY,
    MODELS,
    Augmentation,
    ConfigError,
    Project,
    Scale,
    Schedule,
    WorldParameters,
    load_experiment,
    load_scale,
)

SEMANTICS = 1
"""Raised whenever the same configuration would train other weights (that is: when the golden loss curve changes)."""

FINGERPRINT_LENGTH = 12
FULL_IMAGE_SIZE = 224
FULL_TEXT_TOKENS = 32
MODEL_CONFIG_DIRECTORY = Path(__file__).parent / "model_configs"

_SLUG = re.compile(
    r"(?P<model>[A-Za-z]+-?[A-Z]?\d*)-(?P<image>none|(?P<reduction>resize|random|grid|block)(?P<setting>\d+))"
    r"-(?P<text>truncation|random|block|syntax)(?P<tokens>\d+)"
)


def fingerprint(content: Any) -> str:
    """Hexadecimal digest of ``content`` (anything JSON can hold), independent of key order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_LENGTH]


@dataclass(frozen=True, order=True)
class Run:
    """A pre-training and the fine-tuning after it, in the paper's coordinates (Tables 11 and 12).

    ``image_size`` is the paper's pixels; for a mask it stays 224 and ``kept_patches`` says how many of the 196
    patches are kept. ``text_tokens`` counts [CLS].
    """

    model: str
    image_reduction: str = "none"
    image_size: int = FULL_IMAGE_SIZE
    kept_patches: int | None = None
    text_reduction: str = "truncation"
    text_tokens: int = FULL_TEXT_TOKENS

    @property
    def slug(self) -> str:
        """``L16-resize64-truncation32``: the run's name in paths, ids and on the command line."""
        setting = {"none": "", "resize": self.image_size}.get(self.image_reduction, self.kept_patches)
        model = self.model.replace("/", "")
        return f"{model}-{self.image_reduction}{setting}-{self.text_reduction}{self.text_tokens}"

    @property
    def patches(self) -> int | None:
        """Patches that the image tower sees in pre-training, at the paper's scale; None for a ConvNeXt."""
        if "/" not in self.model:
            return None
        return self.kept_patches or (self.image_size // int(self.model.split("/")[1])) ** 2

    @property
    def is_full_length(self) -> bool:
        """The baseline: full resolution, full text; it has no fine-tuning (docs/design.md, "The baseline")."""
        return self.image_reduction == "none" and self.text_tokens == FULL_TEXT_TOKENS

    @property
    def stages(self) -> tuple[str, ...]:
        return ("pretrain",) if self.is_full_length else ("pretrain", "finetune")


def parse_run(slug: str) -> Run:
    """The run that ``slug`` names; ``ValueError`` with an example when it names none."""
    match = _SLUG.fullmatch(slug)
    models = {model.replace("/", ""): model for model in MODELS}
    if not match or match["model"] not in models:
        raise ValueError(
            f"{slug!r} names no run: expected <model>-<image reduction>-<text reduction>, as in "
            f"L16-resize64-truncation32 or S16-none-truncation32 (models: {', '.join(models)})"
        )
    reduction = match["reduction"] or "none"
    setting = int(match["setting"] or FULL_IMAGE_SIZE)
    is_mask = reduction in ("random", "grid", "block")
    return Run(
        model=models[match["model"]],
        image_reduction=reduction,
        image_size=FULL_IMAGE_SIZE if is_mask else setting,
        kept_patches=setting if is_mask else None,
        text_reduction=match["text"],
        text_tokens=int(match["tokens"]),
    )


@dataclass(frozen=True)
class Stage:
    """One training: of which run, which kind, from which parent, at which scale and seed."""

    run: Run
    kind: str
    scale: Scale
    seed: int
    parent: Stage | None = None

    @property
    def schedule(self) -> Schedule:
        return self.scale.pretrain if self.kind == "pretrain" else self.scale.finetune

    @property
    def image_size(self) -> int:
        """Pixels at this scale: reduced in pre-training, full in fine-tuning (§3.1)."""
        full = self.kind == "finetune"
        return self.scale.full_image_size if full else self.scale.image_sizes[self.run.image_size]

    @property
    def patches(self) -> int | None:
        """Patches of the whole image at this scale; None for a ConvNeXt."""
        return None if self.run.patches is None else (self.image_size // self.scale.patch_size) ** 2

    @property
    def kept_patches(self) -> int | None:
        """Patches that a mask leaves at this scale; None where nothing is masked (fine-tuning: §3.1)."""
        if self.kind != "pretrain" or self.run.kept_patches is None:
            return None
        return self.scale.kept_patches[self.run.kept_patches]

    @property
    def reading(self) -> str | None:
        """Which reading of its mask the scale asks for; None: the default (:mod:`clipa.reductions.images`)."""
        return self.scale.readings.get(self.run.image_reduction)

    @property
    def text_tokens(self) -> int:
        return FULL_TEXT_TOKENS if self.kind == "finetune" else self.run.text_tokens

    @property
    def augmentation(self) -> Augmentation:
        return self.scale.models[self.run.model].augmentation or self.scale.augmentation

    @property
    def peak_lr(self) -> float:
        """Base lr × batch size / 256 (Table 5's base lr; the released configurations apply it so)."""
        return self.schedule.base_lr[self.run.model] * self.schedule.batch_size / 256

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """The open_clip model configuration of this stage: the file, at this stage's image size and text length."""
        name = self.scale.models[self.run.model].config
        path = MODEL_CONFIG_DIRECTORY / f"{name}.json"
        if not path.is_file():
            raise ConfigError(
                f"config/scales/{self.scale.name}.yaml: models.{self.run.model}.config: no {path.name}"
            )
        config = json.loads(path.read_text(encoding="utf-8"))
        config["vision_cfg"]["image_size"] = self.image_size
        config["text_cfg"]["context_length"] = self.text_tokens
        return config

    @cached_property
    def content(self) -> dict[str, Any]:
        """Everything that changes the weights: what the fingerprint covers."""
        schedule = self.schedule.model_dump()
        schedule["base_lr"] = self.schedule.base_lr[self.run.model]
        image: dict[str, Any] = {"reduction": self.run.image_reduction if self.kind == "pretrain" else "none"}
        if self.kept_patches is not None:
            image["kept_patches"] = self.kept_patches
            if self.reading is not None:
                image["reading"] = self.reading
        text: dict[str, Any] = {"reduction": self.run.text_reduction, "tokens": self.text_tokens}
        if self.run.text_reduction == "syntax":
            text["tagger"] = self.scale.tagger
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
            # A sharded stage may go on with another number of processes; rounding then differs, and only that.
            "processes": "any" if self.scale.sharded else self.scale.processes,
            "device": self.scale.device,
            "vocabulary_size": self.scale.vocabulary_size,
            "data": data_content(self.scale),
            "order": {"lanes": self.scale.data.lanes, "shuffle_window": self.scale.data.shuffle_window},
            "parent": self.parent.fingerprint if self.parent else None,
        }
        if self.scale.data.resident:  # rounds pixels a little differently (clipa.data.resident)
            content["loader"] = "resident"
        return content

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.content)

    @property
    def directory(self) -> Path:
        """Below ``results/runs``: ``<scale>/<run>/<stage>/seed<k>-<fingerprint>``."""
        return Path(self.scale.name, self.run.slug, self.kind, f"seed{self.seed}-{self.fingerprint}")


def _augmentation_content(augmentation: Augmentation) -> dict[str, Any]:
    """What changes pixels: colours only where they are jittered, so that plain crops keep their fingerprints."""
    content = augmentation.model_dump()
    if not augmentation.color_jitter:
        del content["color_jitter"], content["color_jitter_probability"]
    if not augmentation.grayscale_probability:
        del content["grayscale_probability"]
    return content


def data_content(scale: Scale) -> dict[str, Any]:
    """What the training data's fingerprint covers: the generator's version and parameters, or a data set's name."""
    parameters = scale.data.world.model_dump() if scale.data.world else {"shards": scale.data.shards}
    return {"name": scale.data.name, "parameters": parameters}


def world_fingerprint(name: str, parameters: WorldParameters) -> str:
    """Identity of a drawn world, known without drawing; the end of its directory's name (:func:`data_slug`)."""
    return fingerprint({"name": name, "parameters": parameters.model_dump()})


def data_slug(scale: Scale) -> str:
    """Directory name of the data of a scale: ``pictograms-v1-<fingerprint>``."""
    return f"{scale.data.name.replace('/', '-')}-{fingerprint(data_content(scale))}"


def stages_of(run: Run, scale: Scale, seed: int) -> list[Stage]:
    """The stages of ``run``, in training order; the last one's fingerprint identifies the run's evaluation."""
    if run.model not in scale.models:
        raise ConfigError(f"config/scales/{scale.name}.yaml: models: {run.model} is not built at this scale")
    if run.image_size not in scale.image_sizes:
        raise ConfigError(
            f"config/scales/{scale.name}.yaml: image_sizes: no entry for {run.image_size} pixels"
        )
    if run.kept_patches is not None and run.patches is None:
        raise ConfigError(f"{run.slug}: a ConvNeXt has no patches to mask; §4.3 resizes its images")
    if run.kept_patches is not None and run.kept_patches not in scale.kept_patches:
        raise ConfigError(
            f"config/scales/{scale.name}.yaml: kept_patches: no entry for {run.kept_patches} of 196 patches"
        )
    stages: list[Stage] = []
    for kind in run.stages:
        stages.append(Stage(run, kind, scale, seed, parent=stages[-1] if stages else None))
    return stages


def evaluation_directory(stages: list[Stage]) -> Path:
    """Below ``results/runs``: where the records of a run with these stages are written."""
    last = stages[-1]
    return Path(last.scale.name, last.run.slug, "evaluation", f"seed{last.seed}-{last.fingerprint}")


def recorded_path(stages: list[Stage]) -> Path:
    """Below ``results/recorded``: where the accepted records of a run with these stages are kept."""
    last = stages[-1]
    return Path(last.scale.name, last.run.slug, f"seed{last.seed}-{last.fingerprint}.json")


def recorded_suite_path(stages: list[Stage]) -> Path:
    """Likewise for the whole test suite on the run's last stage; a folder deeper, so that no figure takes it in."""
    path = recorded_path(stages)
    return path.parent / "suite" / path.name


@dataclass(frozen=True)
class Grid:
    """The runs that a project's configuration asks for, and what each run fills."""

    project: Project
    scale: Scale
    fills: dict[Run, frozenset[str]]

    def runs(self, target: str | None = None) -> list[Run]:
        """All runs, or those that fill ``target`` (``figure4``, ``table11``), in a stable order."""
        chosen = [run for run, targets in self.fills.items() if target is None or target in targets]
        return sorted(
            chosen,
            key=lambda run: (
                MODELS.index(run.model),
                -run.text_tokens,
                -(run.patches or run.image_size),
                run.slug,
            ),
        )

    def stages(self, run: Run, seed: int) -> list[Stage]:
        return stages_of(run, self.scale, seed)


def load_grid(project: Project, directory: Path = CONFIG_DIRECTORY) -> Grid:
    """Expand the experiments of ``project``. A run that several experiments name exists once."""
    scale = load_scale(project.scale, directory)
    fills: dict[Run, frozenset[str]] = {}
    for name in project.experiments or scale.experiments:
        experiment = load_experiment(name, directory)
        for model in experiment.models:
            if model not in MODELS:
                raise ConfigError(
                    f"{directory}/experiments/{name}.yaml: models: unknown model {model!r} (known: {', '.join(MODELS)})"
                )
        for run in _expanded(experiment):
            fills[run] = fills.get(run, frozenset()) | frozenset(experiment.fills)
    return Grid(project, scale, fills)


def _expanded(experiment: Any) -> list[Run]:
    return [
        Run(model, block.image_reduction, size, kept, reduction, tokens)
        for model in experiment.models
        for block in experiment.runs
        for size in block.image_size
        for kept in block.kept_patches or [None]
        for reduction in block.text_reduction
        for tokens in block.text_tokens
    ]
