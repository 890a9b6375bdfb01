"""``config/downloads.yaml``: everything that comes from the web, and which bytes it must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clipa.config import CONFIG_DIRECTORY, Scale, Strict, read_yaml, validated
from clipa.crosschecks import all_data, test_sets
from clipa.fields import Count, Text


class DownloadError(ValueError):
    """A download is missing, cut short or another file; one line that says where and what to do."""


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
    consent: bool = Field(
        default=False, description="lets in only who has agreed to its terms: needs HF_TOKEN"
    )


class TestSet(Strict):
    """One of the paper's test sets (§4, Tables 3 and 14), as it must arrive."""

    items: Count | None = Field(description="images (ARO: questions) that are evaluated; null: not known yet")
    terms: Text = Field(description="of its owner; free text")
    by_hand: Text = Field(description="what a user who cannot download it asks for, and where")
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = Field(
        default=None, description="of its manifest, which names the sha256 of every file; null: not known yet"
    )


class Downloads(Strict):
    """``config/downloads.yaml``: everything that comes from the web, and which bytes it must be."""

    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], WebFile]
    repositories: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$")], Repository
    ]
    test_sets: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], TestSet]


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
            if place in downloads.test_sets:
                raise ValueError(
                    f"data.tests: {place} is the name of a test set of CLIP_benchmark; choose another"
                )
            continue
        if place not in downloads.test_sets:
            raise ValueError(f"{key}: {place!r} is not in config/downloads.yaml (test_sets)")
        if not place.startswith("aro-") and f"clip-benchmark/wds_{place}" not in downloads.repositories:
            raise ValueError(f"{key}: config/downloads.yaml has no clip-benchmark/wds_{place}")


def check_test_set(name: str, items: int, fingerprint: str, downloads: Downloads) -> None:
    """Raise DownloadError where a test set that arrived is not the one of ``config/downloads.yaml``."""
    known = downloads.test_sets.get(name)
    if known is None:
        return
    if known.items not in (None, items):
        raise DownloadError(
            f"test set {name}: {items} items, config/downloads.yaml says {known.items} (test_sets.{name}); another "
            f"split or not whole: download it again, or place it by hand ({known.by_hand})"
        )
    if known.fingerprint not in (None, fingerprint):
        raise DownloadError(
            f"test set {name}: fingerprint is {fingerprint}, config/downloads.yaml says {known.fingerprint} "
            f"(test_sets.{name}); other bytes: download it again, or place it by hand ({known.by_hand})"
        )


def table_of_test_sets(downloads: Downloads) -> Iterator[str]:
    """All test sets as a table in Markdown: docs/data.md has it."""
    yield "| test set | items | from | terms, as we know them | by hand |"
    yield "|---|---|---|---|---|"
    for name, known in downloads.test_sets.items():
        repository = downloads.repositories.get(f"clip-benchmark/wds_{name}")
        source = "ARO" if repository is None else f"`clip-benchmark/wds_{name}`"
        if repository is not None and repository.consent:
            source += ", asks for consent"
        items = "not known yet" if known.items is None else f"{known.items:,}"
        yield f"| {name} | {items} | {source} | {known.terms} | {known.by_hand} |"
