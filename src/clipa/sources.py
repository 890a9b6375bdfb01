"""Where training samples come from: drawn worlds, web data sets that are downloaded, and data of one's own.

Part of a scale's file (:mod:`clipa.config`); what must fit together with the rest of it is in :mod:`clipa.crosschecks`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from clipa.fields import Count, Natural, Number, Strict, Text
from clipa.files import SHA256
from clipa.links import Download
from clipa.worlds import WORLDS, WorldParameters

DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*(/[a-z]+)?$")]
TestName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Sha256 = Annotated[str, Field(pattern=SHA256)]
Integrity = Literal["once", "always", "manifest"]

OF_OTHER_DATA = {
    "data": ("kind", "world", "shards", "files", "tests", "manifest", "download", "prepared", "resident"),
    "evaluation": ("benchmarks", "suite"),
}
"""Keys of a scale's file, by part, that say what data is there and not how it is read."""


def inherited(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The part of a scale's file ``base`` that a file which extends it inherits: where that names other data
    (``data.name``), neither where the old data is from nor its test sets and other sources.
    """
    data = over.get("data")
    old = base.get("data")
    if (
        not isinstance(data, dict)
        or not isinstance(old, dict)
        or data.get("name", old.get("name")) == old.get("name")
    ):
        return base
    kept = {key: value for key, value in base.items() if key not in ("sources", "negclip", "negatives")}
    for part, keys in OF_OTHER_DATA.items():
        if isinstance(kept.get(part), dict):
            kept[part] = {key: value for key, value in kept[part].items() if key not in keys}
    return kept


class Prepared(Strict):
    """A copy of a training set with small images and cut captions (``clipa prepare``, :mod:`clipa.data.prepared`)."""

    short_side: Count = Field(ge=16, le=4096, description="pixels; images that are smaller stay as they are")
    quality: Annotated[int, Number, Field(ge=50, le=100)] | Literal["raw"] = Field(
        description="of JPEG; raw: bytes, five to eight times as many, read twice as fast"
    )

    @property
    def folder(self) -> str:
        """Beside ``train``."""
        return f"prepared-{self.short_side}-{'' if self.quality == 'raw' else 'q'}{self.quality}"


class Data(Strict):
    """Where samples come from, and how they are ordered (docs/design.md, "Order of samples")."""

    kind: Literal["pictograms", "webdataset", "local"]
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*(/[a-z0-9-]+)?$", description="pictograms/v1, laion-400m, …"
    )
    world: SerializeAsAny[WorldParameters] | None = Field(
        default=None, description="pictograms: parameters of the world of that name"
    )
    files: Text | None = Field(
        default=None,
        description="local: a folder of tars, a pattern with * or {000..999}, s3://… (clipa.data.local)",
    )
    tests: dict[TestName, Text] = Field(
        default_factory=dict,
        description="local: folders of its own test sets by name, in CLIP_benchmark's layout",
    )
    shards: Count | None = Field(
        default=None,
        description="how many shards there are: webdataset: that the download makes; local: of `files`",
    )
    lanes: Count = Field(8, description="canonical lanes: the same for every number of ranks and workers")
    shuffle_window: Count = Field(1000, description="samples permuted together inside a lane")
    workers: Natural = Field(0, description="loader processes; does not change the order of samples")
    manifest: Sha256 | None = Field(
        default=None,
        description="digest of train/manifest.json, not of a drawn world (`clipa index` prints it)",
    )
    integrity: Integrity = Field(
        default="once",
        description="when a shard's bytes are compared with its digest: once a process, always when it is opened, or "
        "(manifest) its size, and the bytes of one shard in 64; weights do not depend on it",
    )
    download: Download | None = Field(default=None, description="webdataset: where its links are")
    decode: Literal["full", "scaled"] = Field(
        default="full",
        description="scaled: JPEGs at 1/2, 1/4 or 1/8 of their size where crops allow it (docs/data.md)",
    )
    prepared: Prepared | None = Field(
        default=None,
        description="stages whose smallest crops keep their target's pixels in it read this copy",
    )
    resident: bool = Field(
        default=False,
        description="all images stay on the device, which crops and resizes them; pixels may differ by 1 of 255",
    )

    @field_validator("world", mode="before")
    @classmethod
    def _of_its_version(cls, values: Any, info: ValidationInfo) -> Any:
        world = WORLDS.get(info.data.get("name"), WorldParameters)
        return world.model_validate(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _of_its_kind(self) -> Data:
        drawn, local = self.kind == "pictograms", self.kind == "local"
        if drawn != (self.world is not None):
            raise ValueError("`world` parameters belong to, and only to, data of kind pictograms")
        if local != (self.files is not None):
            raise ValueError("`files` (where the shards are) belongs to, and only to, data of kind local")
        if drawn == (self.shards is not None):
            raise ValueError(
                f"`shards` belongs to, and only to, webdataset and local data; this is {self.kind}"
            )
        if drawn and self.name not in WORLDS:
            raise ValueError(f"name: data of kind pictograms is {' or '.join(WORLDS)}, and has no `download`")
        if self.download is not None and self.kind != "webdataset":
            raise ValueError(f"`download` belongs to data of kind webdataset; this is {self.kind}")
        if self.tests and not local:
            raise ValueError("`tests` (folders of test sets) belong to data of kind local")
        if drawn and self.prepared is not None:
            raise ValueError(
                "`prepared` is not for data of kind pictograms: a world is drawn as small as needed"
            )
        if not drawn and self.resident:
            raise ValueError("`resident` is for data of kind pictograms: all images are kept on the device")
        if self.resident and self.decode != "full":
            raise ValueError("`decode: scaled` is not for `resident` data, whose images are kept as stored")
        if drawn and self.manifest is not None:
            raise ValueError("`manifest` belongs to downloaded data; a drawn world has its parameters")
        return self

    @property
    def shard_count(self) -> int:
        """How many shards its training set has."""
        world = self.world
        return -(-world.training_images // world.images_per_shard) if world else self.shards
