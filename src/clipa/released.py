"""The released checkpoints of Tables 1 to 3, as data: which row is which checkpoint (``config/released.yaml``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from clipa.config import CONFIG_DIRECTORY, ConfigError, read_yaml, validated
from clipa.fields import Number, Positive, Strict, Text

Percent = Annotated[float, Number, Field(ge=0, le=100)]


class Released(Strict):
    """The checkpoint of one row, or why there is none."""

    tag: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$",
        description="OpenCLIP's name/tag; none: as the hub's folder says",
    )
    hub: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    licence: Text | None = None
    gigabytes: Positive | Annotated[float, Number, Field(gt=10, le=100)] | None = None
    card: dict[str, Percent] = Field(
        default_factory=dict, description="benchmark.metric → percent, as the checkpoint's publishers give it"
    )
    why: Text | None = Field(default=None, description="there is no checkpoint that can be had")

    @model_validator(mode="after")
    def _is_there_or_not(self) -> Released:
        given = (self.hub, self.licence, self.gigabytes)
        if self.why is None and None in given:
            raise ValueError(
                "hub, licence and gigabytes belong to a checkpoint; `why` says that there is none"
            )
        if self.why is not None and (any(given) or self.tag or self.card):
            raise ValueError("why: a row with a checkpoint needs no excuse")
        return self


def load_released(directory: Path = CONFIG_DIRECTORY) -> dict[str, Released]:
    """The rows by name, as the ids of published records call them. ConfigError for any mistake."""
    path = directory / "released.yaml"
    rows = {}
    for name, values in read_yaml(path).items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {name}: expected keys and values, found {type(values).__name__}")
        rows[str(name)] = validated(Released, values, path, str(name))
    return rows
