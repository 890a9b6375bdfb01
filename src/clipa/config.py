"""Typed configuration: every YAML file under ``config/`` is validated here before anything is planned.

An unknown key, a wrong type or a value out of range ends in one line that names the file and the key
(:class:`ConfigError`). Nothing here imports torch: the Snakefile calls it at parse time.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipa import study

CONFIG_DIRECTORY = Path("config")


def _one_of(known: Callable[[], Any]) -> AfterValidator:
    """A validator for a name that must be registered when it is read (``clipa.study``)."""

    def check(name: str) -> str:
        if name not in known():
            raise ValueError(f"{name!r} is not one of {', '.join(known())}")
        return name

    return AfterValidator(check)


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A base learning rate."""
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
ImageReductionName = Annotated[str, _one_of(lambda: ("none", *study.IMAGE_REDUCTIONS))]
MaskName = Annotated[str, _one_of(study.masks)]
TextReductionName = Annotated[str, _one_of(lambda: tuple(study.TEXT_REDUCTIONS))]
ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
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


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Integrity = Literal["once", "always", "manifest"]


class ConfigError(ValueError):
    """A configuration mistake, as one line: file, key, what is wrong, what to do."""


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(Strict):
    """One training stage's length and optimizer (§3.1, Table 5). Samples and batches are global."""

    samples: int = Field(gt=0, description="samples seen; a multiple of batch_size")
    batch_size: int = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    base_lr: dict[str, Rate] = Field(description="by model; peak lr = base lr × batch size / 256")
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Share = 1e-8
    weight_decay: float = Field(0.2, ge=0, le=10, allow_inf_nan=False)
    microbatch: int | None = Field(
        default=None,
        gt=0,
        description="samples per forward pass and process; below the batch size: gradient caching",
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
        return self

    @property
    def steps(self) -> int:
        return self.samples // self.batch_size


class Augmentation(Strict):
    """Random resized crop (§3.1: minimum cropping ratio 40 %, bilinear). Areas are fractions of the image.

    Colour jitter and grey are SimCLR's, as CLIPA and the ConvNeXt runs have them (§4.3, A.2: 0.32 with probability
    0.8, grey with 0.2); the ViT runs of §3 and §4 have neither.
    """

    crop_area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.4, 1.0)
    crop_ratio: tuple[Annotated[float, Field(gt=0, le=10)], Annotated[float, Field(gt=0, le=10)]] = (
        0.75,
        4 / 3,
    )
    color_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="largest change of brightness, contrast, saturation; of hue a quarter of it",
    )
    color_jitter_probability: float = Field(0.8, ge=0, le=1)
    grayscale_probability: float = Field(0.0, ge=0, le=1)
    mean: tuple[Share, Share, Share] = (0.485, 0.456, 0.406)
    std: tuple[Share, Share, Share] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low} is larger than {high}")
        return self


class WorldParameters(Strict):
    """What the pictogram world's generator is asked for (docs/world.md). Part of the data fingerprint; the defaults
    are the micro scale's. Figure sizes bound the longer side of a one-figure scene's main figure.
    """

    image_size: int = Field(64, ge=16, description="stored pixels, square")
    figure_min: float = Field(0.40, ge=0.1, le=0.9, description="figure size as a fraction of image_size")
    figure_max: float = Field(0.65, ge=0.1, le=0.9)
    training_images: int = Field(40_000, gt=0)
    captions_per_image: int = Field(
        3, gt=0, le=8, description="each from another template; there are enough for 8"
    )
    images_per_shard: int = Field(1000, gt=0)
    test_images_plain: int = Field(4000, gt=0)
    test_images: int = Field(2000, gt=0)
    world_seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> WorldParameters:
        if self.figure_min > self.figure_max:
            raise ValueError(f"figure_min {self.figure_min} is larger than figure_max {self.figure_max}")
        return self

    def test_count(self, name: str) -> int:
        """Number of images (items) of the test set ``name``."""
        return self.test_images_plain if name == "plain" else self.test_images


class Data(Strict):
    """Where samples come from, and how they are ordered (docs/design.md, "Order of samples")."""

    kind: Literal["pictograms", "webdataset"]
    name: str = Field(description="pictograms/v1, laion-400m, …")
    world: WorldParameters | None = None
    shards: int | None = Field(
        default=None, gt=0, description="webdataset: how many shards the download makes"
    )
    lanes: int = Field(8, gt=0, description="canonical lanes: the same for every number of ranks and workers")
    shuffle_window: int = Field(1000, gt=0, description="samples permuted together inside a lane")
    workers: int = Field(0, ge=0, description="loader processes; does not change the order of samples")
    manifest: Sha256 | None = Field(
        default=None, description="webdataset: digest of train/manifest.json (`clipa index` prints it)"
    )
    integrity: Integrity = Field(
        default="once",
        description="when a shard's bytes are compared with its digest: once a process, always when it is opened, or "
        "(manifest) its size, and the bytes of one shard in 64; weights do not depend on it",
    )
    download: Download | None = Field(default=None, description="webdataset: where its links are")
    resident: bool = Field(
        default=False,
        description="all images stay on the device, which crops and resizes them; pixels may differ by 1 of 255",
    )

    @model_validator(mode="after")
    def _world_if_pictograms(self) -> Data:
        if (self.kind == "pictograms") != (self.world is not None):
            raise ValueError("`world` parameters belong to, and only to, data of kind pictograms")
        if self.kind == "pictograms" and self.manifest is not None:
            raise ValueError(
                "`manifest` belongs to downloaded data; a drawn world is known from its parameters"
            )
        return self


class Download(Strict):
    """Where the image links of a web data set are (docs/data.md); ``downloads.yaml`` says which revision."""

    repository: str = Field(description="on the Hugging Face hub, with parquet files")
    url_column: ColumnName = "URL"
    caption_column: ColumnName = "TEXT"


class WebFile(Strict):
    """A single file from the web."""

    url: str = Field(pattern=r"^(https://[A-Za-z0-9.-]+|http://127\.0\.0\.1:\d+)/[A-Za-z0-9._~/%!+-]+$")
    bytes: Count | None = Field(default=None, description="none: as many as the server announces")
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")] | None = Field(
        description="null: not known yet, and the download is refused"
    )


class Repository(Strict):
    """A repository of the Hugging Face hub."""

    kind: Literal["dataset", "model"]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        description="the commit; null: not known yet, and the download is refused"
    )
    files: list[str] | None = Field(default=None, min_length=1, description="patterns; none: all files")


class Downloads(Strict):
    """``config/downloads.yaml``: everything that comes from the web, and which bytes it must be."""

    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], WebFile]
    repositories: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$")], Repository
    ]


class Negatives(Strict):
    """What NegCLIP's training set is made of (Table 14): rows with hard-negative captions and neighbour images."""

    source: str | None = Field(default=None, description="data source, by name; none: the scale's")
    neighbours: str = Field(description="how they are found: `pixels`, or an open_clip model/pretrained tag")
    rows: int | None = Field(default=None, gt=0, description="at most so many; none: all")


class ScaleModel(Strict):
    """How one of the paper's models is built at this scale."""

    config: str = Field(description="stem of a file in src/clipa/model_configs")
    base_lr: dict[Literal["pretrain", "finetune", "negclip"], Rate] = Field(
        default_factory=dict, description="by kind of stage, where the schedule names no rate for this model"
    )
    patch_size: int | None = Field(default=None, gt=0, description="where it is not the scale's (H/14, G/14)")
    sharded: bool | None = Field(default=None, description="where it is not the scale's")
    activation_checkpointing: bool | Literal["selective"] | None = Field(
        default=None, description="where it is not the schedule's"
    )
    microbatch: int | None = Field(default=None, gt=0, description="where it is not the schedule's")
    augmentation: Augmentation | None = Field(
        default=None, description="of this model, where it is not the scale's (§4.3's ConvNeXt)"
    )


class Evaluation(Strict):
    """Which benchmarks are measured on every stage (names as in CLIP_benchmark), and on what data."""

    benchmarks: dict[str, str] = Field(description="paper's benchmark → data set really evaluated")
    suite: dict[str, str] = Field(
        default_factory=dict, description="likewise, for the whole suite on one checkpoint"
    )
    batch_size: int = Field(256, gt=0)


class Resources(Strict):
    """What one training job asks of the scheduler."""

    gpus: int = Field(0, ge=0)
    nodes: int = Field(1, gt=0)
    cpus: int = Field(1, gt=0)
    memory_mb: int = Field(2000, gt=0)
    runtime_minutes: int = Field(60, gt=0)


class Scale(Strict):
    """One file of ``config/scales``: maps the paper's coordinates to what runs, and fixes precision and threads."""

    name: str
    config_directory: Path = Field(
        default=CONFIG_DIRECTORY, description="where its file, and recipes.yaml, are"
    )
    about: str
    precision: Literal["fp32", "bf16"]
    threads: int | None = Field(gt=0, description="torch threads per process (None: leave to torch)")
    processes: int = Field(1, gt=0, description="data-parallel processes of one stage")
    sharded: bool = Field(
        default=False,
        description="parameters and optimizer split over the processes (FSDP), for H/14 and G/14",
    )
    device: Literal["cpu", "cuda"] = "cpu"
    patch_size: int = Field(gt=0)
    image_sizes: dict[Count, Count] = Field(description="the paper's pixels → pixels at this scale")
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
        description="parts of speech: gold (a tagger trained on the world's), world (these), or a spaCy pipeline",
    )
    augmentation: Augmentation = Augmentation()
    pretrain: Schedule
    finetune: Schedule
    negclip: Schedule | None = Field(default=None, description="none: no NegCLIP at this scale")
    negatives: Negatives | None = None
    vocabulary_size: int | None = Field(default=None, gt=0, description="None: bert-base-uncased")
    evaluation: Evaluation
    experiments: list[str] = Field(
        description="files of config/experiments measured by default at this scale"
    )
    checkpoint_every: int = Field(200, gt=0, description="steps between checkpoints")
    log_every: int = Field(10, gt=0)
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _names_and_patches(self) -> Scale:
        for kind in ("pretrain", "finetune"):
            missing = [name for name in self.models if self.base_lr(name, kind) is None]
            if missing:
                raise ValueError(f"{kind}.base_lr: no value for {missing[0]}")
        patches = {self.patch_size, *(model.patch_size for model in self.models.values() if model.patch_size)}
        uneven = [size for size in self.image_sizes.values() if all(size % patch for patch in patches)]
        if uneven:
            raise ValueError(f"image_sizes: {uneven[0]} is not a multiple of patch_size {self.patch_size}")
        if (self.negclip is None) != (self.negatives is None):
            raise ValueError("negclip and negatives: a schedule and its training set go together")
        return self

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
    kept_patches: list[Count] | None = Field(default=None, description="of the paper's 196; masks only")
    text_reduction: list[TextReductionName] = ["truncation"]
    text_tokens: list[Annotated[int, Field(ge=2, le=study.FULL_TEXT_TOKENS)]] = Field(
        [study.FULL_TEXT_TOKENS], min_length=1, description="[CLS] and at least one word piece"
    )
    recipe: list[str] = [study.STUDY]

    @model_validator(mode="after")
    def _counts_if_masked(self) -> ExperimentRuns:
        if (self.image_reduction in study.masks()) != (self.kept_patches is not None):
            raise ValueError(f"`kept_patches` belongs to, and only to, the masks {', '.join(study.masks())}")
        return self


class Experiment(Strict):
    """One file of ``config/experiments``: which runs fill which tables and figures."""

    about: str
    fills: list[str] = Field(description="tables and figures of the paper: table11, figure4, …")
    models: list[ModelName] = []
    runs: list[ExperimentRuns] = []
    cells: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="runs with recipes, by what the ids of the table's numbers call them (case, or run)",
    )
    suite: bool = Field(
        default=False, description="the last stages are measured on the whole test suite, too"
    )


class Project(Strict):
    """``config/config.yaml``, with what the command line's --config overrides."""

    scale: str = "micro"
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field([0, 1, 2], min_length=1)
    experiments: list[str] | None = Field(default=None, description="None: those of the scale's file")
    reuse_recorded: bool = True
    runs_directory: DirectoryName = "results/runs"
    data_directory: DirectoryName = "results/data"
    budget_gpu_hours: float | None = Field(
        default=None,
        ge=0,
        description="Snakemake does not start targets whose pending stages need more (core-hours at CPU scales)",
    )


def load_project(overrides: dict[str, Any] | None = None, directory: Path = CONFIG_DIRECTORY) -> Project:
    """``config/config.yaml`` with ``overrides`` on top (Snakemake's ``--config``)."""
    path = directory / "config.yaml"
    return validated(Project, {**read_yaml(path), **(overrides or {})}, path)


def load_scale(name: str, directory: Path = CONFIG_DIRECTORY) -> Scale:
    """The scale called ``name``; a file that says ``extends: other`` overrides keys of the other, map by map."""
    path = _named_file(directory / "scales", name, "scale")
    values = {"name": name, "config_directory": directory, **_with_base(path, ())}
    return validated(Scale, values, path)


def load_experiment(name: str, directory: Path = CONFIG_DIRECTORY) -> Experiment:
    """The experiment called ``name``."""
    path = _named_file(directory / "experiments", name, "experiment")
    return validated(Experiment, read_yaml(path), path)


def load_downloads(directory: Path = CONFIG_DIRECTORY) -> Downloads:
    """``config/downloads.yaml``."""
    path = directory / "downloads.yaml"
    return validated(Downloads, read_yaml(path), path)


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"{path}: extends: the files extend each other in a circle")
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    return _merged(_with_base(_named_file(path.parent, base, "scale"), (*seen, path)), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_maps = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both_maps else value
    return merged


def _named_file(directory: Path, name: str, kind: str) -> Path:
    path = directory / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in directory.glob("*.yaml"))
        raise ConfigError(f"{directory}: there is no {kind} {name!r} (known: {', '.join(known) or 'none'})")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; ConfigError names the file and, if it is no YAML, the line."""
    import yaml

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_unique_keys())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


@cache
def _unique_keys() -> Any:
    """PyYAML's safe loader, with a key that occurs twice as an error: it would silently take the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=deep)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name!r} occurs twice", key.start_mark
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader


def validated(model: type[Any], values: dict[str, Any], path: Path, within: str = "") -> Any:
    """``values`` as a ``model``; ConfigError names ``path`` and the key, which stands below ``within``."""
    try:
        return model.model_validate(values)
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
    return f"{path}: {key}: {message[0].lower()}{message[1:]}"


def _all_keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys |= _all_keys(inner)
    return keys
