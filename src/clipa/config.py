"""Typed configuration: every YAML file under ``config/`` is validated here before anything is planned.

An unknown key, a wrong type or a value out of range ends in one line that names the file and the key
(:class:`ConfigError`). Nothing here imports torch: the Snakefile calls it at parse time.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from clipa import crosschecks, study
from clipa.cards import CARDS
from clipa.fields import (
    Area,
    ConfigError,
    Count,
    Decay,
    Fraction,
    Natural,
    Number,
    Positive,
    Rate,
    Share,
    Strict,
    Text,
)
from clipa.files import unique_keys
from clipa.sources import Data, DatasetName, inherited

CONFIG_DIRECTORY = Path("config")

Blocks = Literal["open_clip", "packed"]


def _one_of(known: Callable[[], Any]) -> AfterValidator:
    """A validator for a name that must be registered when it is read (``clipa.study``)."""

    def check(name: str) -> str:
        if name not in known():
            raise ValueError(f"{name!r} is not one of {', '.join(known())}")
        return name

    return AfterValidator(check)


ImageReductionName = Annotated[str, _one_of(lambda: ("none", *study.IMAGE_REDUCTIONS))]
MaskName = Annotated[str, _one_of(study.masks)]
TextReductionName = Annotated[str, _one_of(lambda: tuple(study.TEXT_REDUCTIONS))]
ModelName = Annotated[str, Field(pattern=r"^([A-Z][A-Za-z]*/\d+|[A-Z][A-Za-z]*-[A-Z])$")]


def _safe_directory(name: str) -> str:
    """A directory that commands may be given, and that holds nothing that is tracked."""
    if not re.fullmatch(r"[A-Za-z0-9._/~+-]+", name) or name.startswith("-"):
        raise ValueError(f"{name!r}: letters, digits and . _ / ~ + - only")
    tracked = ("results/published", "results/recorded", "figures", "tables", "docs", "src", "config", "tests")
    path = posixpath.normpath(name)
    if path in (".", "results") or any(path == one or path.startswith(f"{one}/") for one in tracked):
        raise ValueError(f"{name!r} holds tracked files; choose another directory, as results/runs")
    return name


DirectoryName = Annotated[str, AfterValidator(_safe_directory)]
CardName = Annotated[str, _one_of(lambda: CARDS)]
MODEL_CONFIG_DIRECTORY = Path(__file__).parent / "model_configs"


class Muon(Strict):
    """torch.optim.Muon for the matrices of the Transformers' blocks, AdamW for all else (:mod:`clipa.optimizers`)."""

    lr: Rate = Field(le=1, description="peak, as it is: not times batch size / 256; for all models")
    momentum: Share = 0.95
    weight_decay: Decay = 0.0


class Schedule(Strict):
    """One training stage's length and optimizer (§3.1, Table 5). Samples and batches are global."""

    samples: Count = Field(description="samples seen; a multiple of batch_size")
    batch_size: Count
    warmup_steps: Natural
    base_lr: dict[ModelName, Rate] = Field(description="by model; peak lr = base lr × batch size / 256")
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Share = 1e-8
    weight_decay: Decay = 0.2
    muon: Muon | None = Field(default=None, description="none: AdamW for all")
    microbatch: Count | None = Field(
        default=None,
        description="samples per forward pass and process; below the batch size: gradient caching. None: all of them, "
        "or where the scale names a card what fits it (`clipa fits`)",
    )
    activation_checkpointing: bool | Literal["selective"] = Field(
        default=False,
        description="activation checkpointing: whole blocks, or (selective) all of them but the matrix products",
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> Schedule:
        if self.samples % self.batch_size:
            raise ValueError(f"samples {self.samples} is not a multiple of batch_size {self.batch_size}")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} exceeds the {self.steps} steps of the stage")
        if self.betas[0] > self.betas[1]:
            raise ValueError(f"betas: {self.betas[0]} is larger than {self.betas[1]}")
        if self.microbatch is not None and self.microbatch > self.batch_size:
            raise ValueError(f"microbatch {self.microbatch} exceeds batch_size {self.batch_size}")
        return self

    @property
    def steps(self) -> int:
        return self.samples // self.batch_size


class Augmentation(Strict):
    """Random resized crop (§3.1: minimum cropping ratio 40 %, bilinear). Areas are fractions of the image.

    Colour jitter and grey are SimCLR's, as CLIPA and the ConvNeXt runs have them (§4.3, A.2: 0.32 with probability
    0.8, grey with 0.2); the ViT runs of §3 and §4 have neither.
    """

    crop_area: tuple[Area, Area] = (0.4, 1.0)
    crop_ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    color_jitter: Fraction = Field(
        0.0,
        description="largest change of brightness, contrast, saturation; of hue a quarter of it",
    )
    color_jitter_probability: Fraction = 0.8
    grayscale_probability: Fraction = 0.0
    mean: tuple[Share, Share, Share] = (0.485, 0.456, 0.406)
    std: tuple[Share, Share, Share] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low} is larger than {high}")
        return self


class Negatives(Strict):
    """NegCLIP's training set (Table 14): rows with hard-negative captions and neighbour images; and its crops."""

    source: str | None = Field(default=None, description="data source, by name; none: the scale's")
    neighbours: str = Field(
        pattern=r"^(pixels|[A-Za-z0-9._-]+/[A-Za-z0-9._/~+-]+)$",
        description="how they are found: `pixels`, or an open_clip model/pretrained tag",
    )
    rows: Count | None = Field(default=None, ge=4, description="at most so many; none: all")
    augmentation: Augmentation | None = Field(
        default=None, description="of the stage; none: that of the fine-tuning before it"
    )


class ScaleModel(Strict):
    """How one of the paper's models is built at this scale."""

    config: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$", description="stem of a file in src/clipa/model_configs"
    )
    base_lr: dict[Literal["pretrain", "finetune", "negclip"], Rate] = Field(
        default_factory=dict, description="by kind of stage, where the schedule names no rate for this model"
    )
    samples: dict[Literal["pretrain", "finetune"], Count] = Field(
        default_factory=dict,
        description="by kind of stage, where they are not the schedule's: what this model needs to converge",
    )
    patch_size: Count | None = Field(default=None, description="where it is not the scale's (H/14, G/14)")
    sharded: bool | None = Field(default=None, description="where it is not the scale's")
    augmentation: Augmentation | None = Field(
        default=None, description="of this model, where it is not the scale's (§4.3's ConvNeXt)"
    )


class Evaluation(Strict):
    """Which benchmarks are measured on every stage (names as in CLIP_benchmark), and on what data."""

    benchmarks: dict[Text, DatasetName] = Field(
        min_length=1, description="paper's benchmark → data set really evaluated"
    )
    suite: dict[Text, DatasetName] = Field(
        default_factory=dict, description="likewise, for the whole suite on one checkpoint"
    )
    batch_size: Count = 256


class Resources(Strict):
    """What one training job asks of the scheduler: so many nodes, and of each of them GPUs, cores and memory."""

    nodes: Count = Field(1, description="their number; processes are spread evenly")
    gpus: Natural = Field(0, description="of a node; on the device cuda one for each process there")
    cpus: Count = Field(1, description="of a node")
    memory_mb: Count = Field(2000, description="of a node")
    runtime_minutes: Count = 60
    card: CardName | None = Field(default=None, description="the GPU, for whose memory passes are chosen")


class Scale(Strict):
    """One file of ``config/scales``: maps the paper's coordinates to what runs, and fixes precision and threads."""

    name: str
    config_directory: Path = Field(
        default=CONFIG_DIRECTORY, description="where its file, and recipes.yaml, are"
    )
    about: Text
    precision: Literal["fp32", "bf16"]
    threads: Count | None = Field(le=4096, description="torch threads per process (None: leave to torch)")
    processes: Count = Field(1, description="data-parallel processes of one stage, of all nodes together")
    sharded: bool = Field(
        default=False,
        description="parameters and optimizer split over the processes (FSDP), for H/14 and G/14",
    )
    device: Literal["cpu", "cuda"] = "cpu"
    blocks: Blocks = Field(
        default="open_clip",
        description="the Transformers' blocks: open_clip's, or ours with fewer operations (clipa.blocks)",
    )
    compile: bool = Field(default=False, description="the Transformers' blocks by torch.compile")
    patch_size: Count
    image_sizes: dict[Count, Count] = Field(description="the paper's pixels → pixels at this scale")
    left_out_sizes: list[Count] = Field(
        default_factory=list,
        description="the paper's pixels that no size of this scale stands for; experiments leave out runs of them",
    )
    kept_patches: dict[Count, Count] = Field(
        default_factory=dict, description="patches that a mask keeps in the paper → at this scale"
    )
    models: dict[ModelName, ScaleModel]
    data: Data
    sources: dict[str, Data] = Field(
        default_factory=dict,
        description="other data that recipes name (LAION-2B); an embedded world stands for all of them",
    )
    tagger: str = Field(
        default="gold",
        pattern=r"^(gold|world|[a-z]{2,3}_[a-z]+_[a-z]+_(sm|md|lg|trf))$",
        description="parts of speech: gold (a tagger trained on the world's), world (these), or a spaCy pipeline",
    )
    augmentation: Augmentation = Augmentation()
    pretrain: Schedule
    finetune: Schedule
    negclip: Schedule | None = Field(default=None, description="none: no NegCLIP at this scale")
    negatives: Negatives | None = None
    vocabulary_size: Count | None = Field(
        default=None, ge=100, le=10**6, description="None: bert-base-uncased"
    )
    evaluation: Evaluation
    experiments: list[str] = Field(
        min_length=1, description="files of config/experiments measured by default at this scale"
    )
    checkpoint_every: Count = Field(200, description="steps between checkpoints")
    log_every: Count = 10
    one_process: bool = Field(
        default=False,
        description="a job trains a run's missing stages and evaluates them: where starting processes would cost more",
    )
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _names_and_patches(self) -> Scale:
        for kind in ("pretrain", "finetune"):
            missing = [name for name in self.models if self.base_lr(name, kind) is None]
            if missing:
                raise ValueError(f"{kind}.base_lr: no value for {missing[0]}")
        for name, model in self.models.items():
            for kind in model.samples:
                try:
                    self.schedule(name, kind)
                except ValidationError as error:
                    reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(f"models.{name}.samples.{kind}: {reason}") from None
        if (self.negclip is None) != (self.negatives is None):
            raise ValueError("negclip and negatives: a schedule and its training set go together")
        return self

    def schedule(self, model: str, kind: str) -> Schedule:
        """The study's schedule of a kind of stage, with the model's own number of samples where it has one."""
        schedule = getattr(self, kind)
        samples = self.models[model].samples.get(kind)
        return schedule if samples is None else Schedule(**schedule.model_dump() | {"samples": samples})

    def base_lr(self, model: str, kind: str) -> float | None:
        """The base learning rate of a model in a kind of stage; None where none is given."""
        schedule = getattr(self, kind)
        return self.models[model].base_lr.get(kind) or (schedule.base_lr.get(model) if schedule else None)

    @property
    def full_image_size(self) -> int:
        """Pixels of a full-resolution image (the paper's 224)."""
        return self.image_sizes[study.FULL_IMAGE_SIZE]


class ExperimentRuns(Strict):
    """A block of runs: the product of its lists (the paper's pixels; text lengths with [CLS])."""

    image_reduction: ImageReductionName
    image_size: list[Count] = Field([study.FULL_IMAGE_SIZE], min_length=1)
    kept_patches: list[Count] | None = Field(
        default=None, min_length=1, description="of the paper's 196; masks only"
    )
    text_reduction: list[TextReductionName] = Field(["truncation"], min_length=1)
    text_tokens: list[Annotated[int, Number, Field(ge=2, le=study.FULL_TEXT_TOKENS)]] = Field(
        [study.FULL_TEXT_TOKENS], min_length=1, description="[CLS] and at least one word piece"
    )
    recipe: list[str] = Field([study.STUDY], min_length=1)

    @model_validator(mode="after")
    def _counts_if_masked(self) -> ExperimentRuns:
        if (self.image_reduction in study.masks()) != (self.kept_patches is not None):
            raise ValueError(f"`kept_patches` belongs to, and only to, the masks {', '.join(study.masks())}")
        return self


def _target(name: str) -> str:
    table, figure = re.fullmatch(r"table(\d+)", name), re.fullmatch(r"figure(\d+)", name)
    if (table and not 1 <= int(table[1]) <= 15) or (figure and not 1 <= int(figure[1]) <= 10):
        raise ValueError(f"{name!r}: the paper has Tables 1 to 15 and Figures 1 to 10")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise ValueError(f"{name!r}: small letters, digits, _ and - only")
    return name


TargetName = Annotated[str, AfterValidator(_target)]


class Experiment(Strict):
    """One file of ``config/experiments``: which runs fill which tables and figures."""

    about: Text
    fills: list[TargetName] = Field(
        min_length=1,
        description="tables and figures of the paper (table11, figure4, …), or a name of their own",
    )
    models: list[ModelName] = Field(default_factory=list)
    runs: list[ExperimentRuns] = Field(default_factory=list)
    cells: dict[str, str | Annotated[list[str], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="runs with recipes, by what the ids of the table's numbers call them (case, or run)",
    )
    suite: bool = Field(
        default=False, description="the last stages are measured on the whole test suite, too"
    )

    @model_validator(mode="after")
    def _has_runs(self) -> Experiment:
        if bool(self.models) != bool(self.runs):
            raise ValueError("models and runs: the one is nothing without the other")
        if not self.runs and not self.cells:
            raise ValueError("runs and cells: both are empty")
        return self


def _each_once(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError(f"{values}: one occurs twice")
    return values


class Project(Strict):
    """``config/config.yaml``, with what the command line's --config overrides."""

    scale: str = "micro-v1"
    seeds: Annotated[
        list[Annotated[int, Number, Field(ge=0, lt=2**31)]], Field(min_length=1), AfterValidator(_each_once)
    ] = Field(default=[0, 1, 2])
    experiments: list[str] | None = Field(
        default=None, min_length=1, description="None: those of the scale's file"
    )
    reuse_recorded: bool = True
    released: bool = Field(
        default=False, description="Tables 1 to 3 are measured of the released checkpoints, not of trainings"
    )
    runs_directory: DirectoryName = "results/runs"
    data_directory: DirectoryName = "results/data"
    card: CardName | None = Field(default=None, description="another GPU than the scale's file names")
    budget_gpu_hours: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Snakemake does not start targets whose pending stages need more (core-hours at CPU scales)",
    )


def load_project(overrides: dict[str, Any] | None = None, directory: Path = CONFIG_DIRECTORY) -> Project:
    """``config/config.yaml`` with ``overrides`` on top (Snakemake's ``--config``)."""
    path = directory / "config.yaml"
    return validated(Project, {**read_yaml(path), **(overrides or {})}, path)


def load_scale(name: str, directory: Path = CONFIG_DIRECTORY, asked: str = "") -> Scale:
    """The scale called ``name`` (``asked``: by which file and key).

    A file that says ``extends: other`` overrides keys of the other, map by map; a file that names other data inherits
    nothing of the other's (:func:`clipa.sources.inherited`).
    """
    path = _named_file(directory / "scales", name, "scale", asked)
    if not re.fullmatch("[a-z][a-z0-9-]*", name):  # as in records, which would be refused after training
        raise ConfigError(
            f"{path}: the name of a scale has small letters, digits and hyphens; rename the file"
        )
    values = {"name": name, "config_directory": directory, **_with_base(path, ())}
    scale: Scale = validated(Scale, values, path)
    try:
        crosschecks.check(scale)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    for one in scale.experiments:
        _named_file(directory / "experiments", one, "experiment", f"{path}: experiments")
    return scale


def load_experiment(name: str, directory: Path = CONFIG_DIRECTORY, asked: str = "") -> Experiment:
    """The experiment called ``name`` (``asked``: by which file and key)."""
    path = _named_file(directory / "experiments", name, "experiment", asked)
    return validated(Experiment, read_yaml(path), path)


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"{path}: extends: the files extend each other in a circle")
    values = read_yaml(path)
    if "extends" not in values:
        return values
    base = values.pop("extends")
    below = _with_base(_named_file(path.parent, base, "scale", f"{path}: extends"), (*seen, path))
    kept = inherited(below, values)
    if kept is not below and "kind" not in values["data"]:
        own, old = values["data"]["name"], below["data"]["name"]
        raise ConfigError(
            f"{path}: data.kind: missing; {own} is other data than {old} of {base}.yaml, so its place does not count: "
            "give kind: local with files and shards (docs/own-data.md), or kind: webdataset with download"
        )
    return _merged(kept, values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_maps = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both_maps else value
    return merged


def _named_file(directory: Path, name: Any, kind: str, asked: str) -> Path:
    path = directory / f"{name}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", str(name)) or not path.is_file():
        known = sorted(file.stem for file in directory.glob("*.yaml"))
        raise ConfigError(
            f"{asked or directory}: there is no {kind} {name!r} (known: {', '.join(known) or 'none'})"
        )
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; ConfigError names the file and, if it is no YAML, the line."""
    import yaml

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=unique_keys())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{path}{line}: not valid YAML ({reason})") from None
    return _keys(values, path)


def read_once(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """``load`` of a file that every stage asks for, called once for each version of the file.

    ConfigError where the file cannot be read.
    """

    @cache
    def kept(path: Path, _where: Path, _changed: int) -> Any:
        return load(path)

    @wraps(load)
    def once(path: Path) -> Any:
        try:
            return kept(path, path.resolve(), path.stat().st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None

    return once


def _keys(values: Any, path: Path, within: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        place = f"{path}: {within}" if within else f"{path}"
        raise ConfigError(f"{place}: expected keys and values, found {type(values).__name__}")
    return values


def validated(model: type[Any], values: Any, path: Path, within: str = "") -> Any:
    """``values`` as a ``model``; ConfigError names ``path`` and the key, which stands below ``within``."""
    try:
        return model.model_validate(_keys(values, path, within))
    except ValidationError as error:
        raise ConfigError(_one_line(model, error, path, within)) from None


def _one_line(model: type[BaseModel], error: ValidationError, path: Path, within: str) -> str:
    """The first mistake, in one line; unknown keys first, since a typo also makes its right key missing."""
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in (*filter(None, [within]), *first["loc"])) or "(top level)"
    if first["type"] == "extra_forbidden":
        known = sorted(_all_keys(model))
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{path}: {key}: unknown key{hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"] and not within and first["type"] == "value_error":
        return f"{path}: {message}"  # which names its key
    return f"{path}: {key}: {message[0].lower()}{message[1:]}"


def _all_keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys |= _all_keys(inner)
    return keys
