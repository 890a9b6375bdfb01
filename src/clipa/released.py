"""The released checkpoints of Tables 1 to 3, as data: which row is which checkpoint (``config/released.yaml``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from clipa.config import CONFIG_DIRECTORY, read_yaml, validated
from clipa.fields import Number, Positive, Strict, Text
from clipa.records import published_records

TABLES = (1, 2, 3)
"""Those with models of others, and of the authors, whose weights are released."""
RELEASED_SCALE = "released"
"""Stands in the place of a scale in the records of such checkpoints, and in the paths of their tables."""

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
    return {
        str(name): validated(Released, values, path, str(name)) for name, values in read_yaml(path).items()
    }


@dataclass(frozen=True)
class ReleasedTable:
    """What fills a table without training: rows with a checkpoint, and the benchmarks of the table, as printed."""

    rows: tuple[str, ...]
    benchmarks: tuple[str, ...]


def released_tables(suite: Iterable[str], directory: Path = CONFIG_DIRECTORY) -> dict[str, ReleasedTable]:
    """Tables 1 to 3 by name (``table1``), each with those of its benchmarks that are in ``suite``.

    A table without any is left out. ConfigError for any mistake in ``released.yaml``.
    """
    known, there = set(suite), [name for name, row in load_released(directory).items() if row.why is None]
    tables = {}
    for number in TABLES:
        own = [record for record in published_records() if record["table"] == number]
        called = {record["case"] or record["run"] for record in own}
        rows = tuple(name for name in there if name in called)
        printed = dict.fromkeys(record["benchmark"] for record in own)
        benchmarks = tuple(name for name in printed if name in known)
        if rows and benchmarks:
            tables[f"table{number}"] = ReleasedTable(rows, benchmarks)
    return tables
