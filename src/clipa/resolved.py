"""A stage's resolved configuration: one JSON file, ``stage.resolved.json``, from which ``clipa train`` starts.

What changes the weights is read from ``content``, which the fingerprint covers; so training cannot depend on anything
that the fingerprint does not cover. Beside it stand names, places and how the work is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from clipa.config import (
    Augmentation,
    Blocks,
    Schedule,
    validated,
)
from clipa.fields import ConfigError, Rate, Strict
from clipa.files import check_digest, digest, read_json, sha256_of, write_json_atomically
from clipa.sources import Data, Integrity, Prepared
from clipa.worlds import WorldParameters

SEMANTICS = 1
"""Raised whenever the same configuration would train other weights (that is: when the golden loss curve changes)."""

FINGERPRINT_LENGTH = 12
FILE_NAME = "stage.resolved.json"
EXPORT = "open_clip"
"""Directory of a finished stage's exported model, below the stage's."""
WEIGHTS = "open_clip_model.safetensors"


class UnfinishedStage(ValueError):
    """A stage is not finished, or what it left is not what its stage.json names; one line."""


def fingerprint(content: Any) -> str:
    """The first twelve digits of :func:`digest`."""
    return digest(content)[:FINGERPRINT_LENGTH]


def same_digest(one: str, other: str) -> bool:
    """Whether two digests agree; records of before have only the first twelve digits."""
    length = min(len(one), len(other))
    return length >= 8 and one[:length] == other[:length]


def data_content(data: Data) -> dict[str, Any]:
    """What a stage's fingerprint covers of its data: the generator's version and parameters, or a data set's name and
    the digest of its manifest, where the configuration has it (docs/design.md, "Identity of data").
    """
    if data.world:
        return {"name": data.name, "parameters": data.world.model_dump()}
    pinned = {} if data.manifest is None else {"manifest": data.manifest}
    return {"name": data.name, "parameters": {"shards": data.shards}, **pinned}


def _place(content: dict[str, Any]) -> str:
    """The end of a data directory's name. Without the manifest's digest, which is known when the data is there."""
    return fingerprint({name: content[name] for name in ("name", "parameters")})


def world_fingerprint(parameters: WorldParameters) -> str:
    """Identity of a drawn world, known without drawing; the end of its directory's name (:func:`data_slug`)."""
    return fingerprint({"name": parameters.name, "parameters": parameters.model_dump()})


DRAWN = {
    "3d4fa9eae164": "5fb77c2ea1a7c53e5066303f5fa9fc1e173a9f7b6d375a17bca9aa52315c9db2",
    "ccfc9d1cd11e": "2d0daec1b7cc7344861385a1a274962c2f269ad308482b1967fe2907758d21f9",
}
"""Digests of the training sets of drawn worlds, by world_fingerprint, as recorded results were trained on them."""


def named_manifest(data: Data) -> str | None:
    """The digest that the training set's manifest must have: the configuration's, or of a drawn world the recorded one.

    None where neither is known.
    """
    return DRAWN.get(world_fingerprint(data.world)) if data.world else data.manifest


def data_slug(data: Data) -> str:
    """Directory name of training data: ``pictograms-v1-<fingerprint>``."""
    return f"{data.name.replace('/', '-')}-{_place(data_content(data))}"


class StageSchedule(Schedule):
    """The schedule of one stage, with the base learning rate of its model."""

    base_lr: Rate

    @property
    def peak_lr(self) -> float:
        """Base lr × batch size / 256 (Table 5's base lr; the released configurations apply it so)."""
        return self.base_lr * self.batch_size / 256


class ImageReduction(Strict):
    """How the image is reduced (§3.2); its pixels are in the model's configuration."""

    reduction: str
    kept_patches: int | None = Field(default=None, gt=0, description="of a mask")
    reading: str | None = Field(
        default=None,
        description="of a mask that §3.2 leaves open (clipa.reductions.images); None: the default",
    )


class TextReduction(Strict):
    """How the text is reduced (§3.3)."""

    reduction: str
    tokens: int = Field(gt=0, description="with [CLS]")
    tagger: str | None = Field(default=None, description="of syntax masking")
    recipe: str = Field(default="paper", description="of captions that are too long (clipa.reductions.texts)")


class Order(Strict):
    """The order of samples (docs/design.md, "Order of samples")."""

    lanes: int = Field(gt=0)
    shuffle_window: int = Field(gt=0)


class Content(Strict):
    """Everything that changes the weights. What is absent in the file has the default here."""

    semantics: int
    kind: Literal["pretrain", "finetune", "negclip"]
    seed: int
    model: dict[str, Any] = Field(
        description="open_clip's configuration, at this image size and context length"
    )
    image: ImageReduction
    text: TextReduction
    schedule: StageSchedule
    augmentation: Augmentation
    precision: Literal["fp32", "bf16"]
    threads: int | None = Field(gt=0, description="torch threads per process (None: leave to torch)")
    processes: Literal[1, "any"] = Field(description="any: several, which may resume as another number")
    device: Literal["cpu", "cuda"]
    vocabulary_size: int | None
    data: dict[str, Any]
    order: Order
    parent: str | None = Field(description="fingerprint of the stage whose weights this one starts from")
    blocks: Blocks = "open_clip"
    compile: bool = Field(default=False, description="the blocks, by torch.compile")
    sharded: bool = Field(default=False, description="parameters and optimizer, over the processes of a node")
    positions: Literal["moco-v3"] | None = Field(default=None, description="of image patches; None: MAE's")
    loader: Literal["stream", "resident"] = "stream"
    decode: Literal["full", "scaled"] = Field(
        default="full", description="scaled: JPEGs no finer than crops need"
    )
    prepared: Prepared | None = Field(default=None, description="the copy of its training set that it reads")
    negatives: dict[str, Any] | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """As in the file: what the fingerprint is the digest of."""
        return self.model_dump(mode="json", exclude_unset=True)


class ResolvedStage(Strict):
    """One training, ready to start. Paths are relative to the working directory."""

    fingerprint: str
    scale: str
    run: str = Field(description="the run's coordinates, without a recipe's name")
    directory: Path = Field(description="of this stage: checkpoints, the exported model, stage.json")
    training_data: Path
    vocabulary: Path
    parent: Path | None = Field(description="the parent stage's directory")
    processes: int = Field(gt=0, description="data-parallel processes, of all nodes")
    nodes: int = Field(default=1, gt=0, description="machines, with equal shares of the processes")
    cpus: int = Field(gt=0, description="of a node; its processes share them")
    workers: int = Field(ge=0, description="data loader processes; they do not change the order of samples")
    integrity: Integrity = Field(
        default="once", description="when the bytes of shards are compared with their digests"
    )
    microbatch: int | None = Field(
        default=None, gt=0, description="samples per forward pass and process; None: all in one"
    )
    activation_checkpointing: bool | Literal["selective"] = Field(default=False)
    resize_mode: Literal["shortest", "squash"] = Field(
        default="shortest", description="what the exported model says of test images, in open_clip's words"
    )
    checkpoint_every: int = Field(gt=0, description="steps")
    log_every: int = Field(gt=0, description="steps")
    content: Content

    @model_validator(mode="after")
    def _fits(self) -> ResolvedStage:
        content = self.content
        if content.semantics != SEMANTICS:
            raise ValueError(
                f"semantics is {content.semantics}, but this code has {SEMANTICS}: resolve it again"
            )
        found = fingerprint(content.plain)
        if found != self.fingerprint:
            raise ValueError(
                f"fingerprint is {self.fingerprint}, but its content gives {found}: resolve it again"
            )
        if content.processes not in ("any", self.processes):
            raise ValueError(f"processes is {self.processes}, but its content says {content.processes}")
        if self.processes % self.nodes:
            raise ValueError(f"processes: {self.processes} are not a multiple of the {self.nodes} nodes")
        if (content.parent is None) != (self.parent is None):
            raise ValueError("parent: the directory and the fingerprint in content go together")
        places = [
            ("directory", self.directory, self.fingerprint),
            ("parent", self.parent, content.parent),
            ("training_data", self.training_data.parent, _place(content.data)),
        ]
        for name, place, expected in places:
            if place is not None and not place.name.endswith(f"-{expected}"):
                raise ValueError(f"{name}: {place} should end in -{expected}: it belongs to other content")
        return self

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.run} {self.content.kind} seed {self.content.seed}"

    @property
    def sharded(self) -> bool:
        """Whether parameters and optimizer are split over the processes."""
        return self.content.sharded

    @property
    def sidecars(self) -> Path:
        """The folder with the parts of speech of its training data; a prepared copy has its original's."""
        return self.training_data.parent / "train" if self.content.prepared else self.training_data

    @property
    def image_size(self) -> int:
        """Pixels."""
        return self.content.model["vision_cfg"]["image_size"]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Patches of the whole image by row and column; KeyError for a ConvNeXt, which has none."""
        side = self.image_size // self.content.model["vision_cfg"]["patch_size"]
        return side, side


def write(stage: ResolvedStage) -> Path:
    """Write ``stage.resolved.json`` into the stage's directory, atomically, and return its path."""
    stage.directory.mkdir(parents=True, exist_ok=True)
    path = stage.directory / FILE_NAME
    values = stage.model_dump(mode="json", exclude={"content"}) | {"content": stage.content.plain}
    write_json_atomically(path, values)
    return path


def read(path: Path) -> ResolvedStage:
    """The stage in the file ``path``; ConfigError (one line) where it is missing, damaged or does not fit."""
    try:
        values = read_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); `clipa resolve` writes it") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); resolve it again") from None
    return validated(ResolvedStage, values, path)


SEALED = {"inputs": dict, "commits": list, "integrity": str, "export": dict}
"""What a stage.json has besides the stage's description since stages name all that they were made from."""


def sealed(directory: Path, expected: str) -> dict[str, Any]:
    """``stage.json`` of the finished stage of fingerprint ``expected``; the exported model is not looked at.

    Raises UnfinishedStage where it is missing, is of another stage, or was written before stages named their inputs.
    """
    path = directory / "stage.json"
    try:
        made = read_json(path)
        fingerprint_ = made["fingerprint"]
    except OSError:
        raise UnfinishedStage(f"{path}: missing; the stage is not finished, train it first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UnfinishedStage(f"{path}: cannot be read ({error!r}); train the stage again") from None
    if fingerprint_ != expected:
        raise UnfinishedStage(f"{path}: made by {fingerprint_}, expected {expected}; train it again")
    if missing := [name for name, kind in SEALED.items() if not isinstance(made.get(name), kind)]:
        raise UnfinishedStage(
            f"{path}: names no {missing[0]}: an earlier version wrote it, and what it was made from is not known; move "
            f"{directory} away and train the stage again"
        )
    try:
        check_digest(made)
    except ValueError as error:
        raise UnfinishedStage(
            f"{path}: {error}; `clipa train {directory / FILE_NAME}` writes it anew"
        ) from None
    return made


def finished(directory: Path, expected: str) -> dict[str, Any]:
    """As :func:`sealed`, with every byte of the exported model checked."""
    made, export = sealed(directory, expected), directory / EXPORT
    named = made["export"]
    found = {file.name: sha256_of(file) for file in export.iterdir()} if export.is_dir() else {}
    for name in sorted(found.keys() | named.keys()):
        if found.get(name) != named.get(name):
            raise UnfinishedStage(
                f"{export / name}: sha256 is {found.get(name, 'none')[:16]}, stage.json names "
                f"{named.get(name, 'none')[:16]}; `clipa train {directory / FILE_NAME}` exports the model anew"
            )
    return made
