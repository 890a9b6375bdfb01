"""``config/downloads.yaml``: everything that comes from the web, and which bytes it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clipa.config import CONFIG_DIRECTORY, Scale, Strict, read_yaml, validated
from clipa.crosschecks import all_data, test_sets
from clipa.fields import Count, Text


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
    files: list[Text] | None = Field(default=None, min_length=1, description="patterns; none: all files")


class Downloads(Strict):
    """``config/downloads.yaml``: everything that comes from the web, and which bytes it must be."""

    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], WebFile]
    repositories: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$")], Repository
    ]


def load_downloads(directory: Path = CONFIG_DIRECTORY) -> Downloads:
    """``config/downloads.yaml``."""
    path = directory / "downloads.yaml"
    return validated(Downloads, read_yaml(path), path)


def check(scale: Scale, downloads: Downloads) -> None:
    """What a scale downloads must be in config/downloads.yaml."""
    if scale.data.kind == "pictograms":
        return
    for key, data in all_data(scale).items():
        if data.download is not None and data.download.repository not in downloads.repositories:
            raise ValueError(
                f"{key}.download.repository: {data.download.repository!r} is not in config/downloads.yaml"
            )
    for key, name in test_sets(scale).items():
        place = name.partition("/")[0]
        if place in scale.data.tests:  # own ones (docs/own-data.md)
            if f"clip-benchmark/wds_{place}" in downloads.repositories:
                raise ValueError(
                    f"data.tests: {place} is the name of a test set of CLIP_benchmark; choose another"
                )
            continue
        if not place.startswith("aro-") and f"clip-benchmark/wds_{place}" not in downloads.repositories:
            raise ValueError(f"{key}: config/downloads.yaml has no clip-benchmark/wds_{place}")
