"""Croissant descriptions (https://mlcommons.org/croissant): of the records, and of a drawn world.

Both are written with mlcroissant, which also validates them and can load what they describe.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import yaml

from clipa.files import read_json
from clipa.published.measured import recorded
from clipa.records import published_records, recorded_scales

FIELDS = {
    "id": (mlc.DataType.TEXT, "Name of the number: (scale or table), run, stage, benchmark, metric, seed"),
    "source": (mlc.DataType.TEXT, "`published` in the paper, or `measured` here"),
    "run": (mlc.DataType.TEXT, "The paper's coordinates: model, image reduction, text reduction"),
    "stage": (mlc.DataType.TEXT, "The training after which it was measured: pretrain, finetune or negclip"),
    "benchmark": (mlc.DataType.TEXT, "The paper's benchmark, which a measured number only stands for"),
    "metric": (mlc.DataType.TEXT, "What was measured; accuracies are in percent"),
    "value": (mlc.DataType.TEXT, "The number as stored; some cells of the paper hold text"),
}
WORLD_ABOUT = (
    "Pictograms with captions, drawn by a seeded program for small trainings of CLIP. No photograph, no person; "
    "coloured shapes on backgrounds, and English sentences from a grammar."
)


def _shared(root: Path) -> dict[str, Any]:
    """What all descriptions say alike, from CITATION.cff."""
    about = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    return {
        "version": str(about["version"]),
        "date_published": datetime.combine(about["date-released"], datetime.min.time()),
        "license": ["https://spdx.org/licenses/MIT"],
        "creators": [mlc.Organization(name=author["name"]) for author in about["authors"]],
        "cite_as": "Li, Wang, Xie: An Inverse Scaling Law for CLIP Training. NeurIPS 2023, arXiv:2305.07017",
        "url": "https://arxiv.org/abs/2305.07017",
    }


def records(root: Path, place: Path) -> dict[str, Any]:
    """Writes the published and the accepted records as ``place/records-….csv``, and returns what describes both."""
    measured = [record for scale in recorded_scales() for record in recorded(scale)]
    sets = {
        "published": ("Cells of the paper's tables and figures", published_records()),
        "recorded": (
            "Accepted measurements of stand-ins on drawn data, not of the paper's models",
            measured,
        ),
    }
    files, tables = [], []
    for name, (what, numbers) in sets.items():
        path = place / f"records-{name}.csv"
        with open(path, "w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, FIELDS, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(numbers)
        files.append(_file(path, "text/csv", what))
        tables.append(
            mlc.RecordSet(id=name, name=name, description=what, fields=list(_columns(name, path.name)))
        )
    described = mlc.Metadata(
        name="clipa-records",
        description="The numbers of “An Inverse Scaling Law for CLIP Training” and what was measured of them, "
        "as records; the same with all fields and provenance are in results/ of the crate.",
        distribution=files,
        record_sets=tables,
        **_shared(root),
    )
    return described.to_json()


def _columns(name: str, file: str) -> Iterable[mlc.Field]:
    for column, (kind, what) in FIELDS.items():
        source = mlc.Source(file_object=file, extract=mlc.Extract(column=column))
        yield mlc.Field(
            id=f"{name}/{column}", name=column, description=what, data_types=[kind], source=source
        )


def world(root: Path, folder: Path) -> dict[str, Any]:
    """A drawn training set, the folder with ``manifest.json``: every shard with its digest, images and captions by key.

    Raises OSError without a manifest, ValueError for one that is none, KeyError for one of other data.
    """
    manifest: Mapping[str, Any] = read_json(folder / "manifest.json")
    shards = [
        mlc.FileObject(
            id=shard["name"],
            name=shard["name"],
            description=f"{shard['samples']} samples",
            content_url=shard["name"],
            encoding_formats=["application/x-tar"],
            sha256=shard["sha256"],
        )
        for shard in manifest["shards"]
    ]
    names = [shard.id for shard in shards]
    sets = [
        mlc.FileSet(
            id=name,
            name=name,
            description=what,
            contained_in=names,
            encoding_formats=[kind],
            includes=[f"*.{ending}"],
        )
        for name, what, kind, ending in (
            ("images", "One JPEG a sample", "image/jpeg", "jpg"),
            ("captions", "Its first caption", "text/plain", "txt"),
        )
    ]
    tables = [
        mlc.RecordSet(
            id=f"{kind}-by-key", name=f"{kind}-by-key", description=what, fields=list(_by_key(kind, content))
        )
        for kind, what, content in (
            ("images", "Pictures by the number of their sample", mlc.DataType.IMAGE_OBJECT),
            ("captions", "First captions by the number of their sample", mlc.DataType.TEXT),
        )
    ]
    described = mlc.Metadata(
        name=manifest["world"].replace("/", "-"),
        description=WORLD_ABOUT,
        distribution=[*shards, *sets],
        record_sets=tables,
        **_shared(root),
    )
    return described.to_json()


def _by_key(files: str, content: Any) -> Iterable[mlc.Field]:
    """The number in a file's name, and what is in the file."""
    number = {
        "extract": mlc.Extract(file_property=mlc.FileProperty.filename),
        "transforms": [mlc.Transform(regex=r"^(\d+)\.")],
    }
    whole = {"extract": mlc.Extract(file_property=mlc.FileProperty.content)}
    for name, kind, what, source in (
        ("key", mlc.DataType.TEXT, "Number of the sample", number),
        ("content", content, "The file", whole),
    ):
        yield mlc.Field(
            id=f"{files}-by-key/{name}",
            name=name,
            description=what,
            data_types=[kind],
            source=mlc.Source(file_set=files, **source),
        )


def _file(path: Path, kind: str, what: str) -> mlc.FileObject:
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return mlc.FileObject(
        id=path.name,
        name=path.name,
        description=what,
        content_url=path.name,
        content_size=f"{path.stat().st_size} B",
        encoding_formats=[kind],
        sha256=digest,
    )


def text(described: Mapping[str, Any]) -> str:
    """A description as the text of its file."""
    return json.dumps(described, indent=1, ensure_ascii=False, default=str) + "\n"
