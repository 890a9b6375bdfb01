"""Test sets on disk: CLIP_benchmark's local webdataset layout, with a manifest that names every shard by its sha256."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clipa.data.samples import (
    IMAGES,
    BadSample,
    RawSample,
    Reason,
    captions_of,
    image_of,
    label_of,
    lines_of,
    metadata_of,
    samples_of,
)
from clipa.data.shards import ShardError, check_bytes, file_sha256, named_shards
from clipa.files import read_json
from clipa.resolved import fingerprint

KINDS = ("relation", "attribute", "order")


class EvaluationError(ValueError):
    """A model or a test set is missing or does not fit; one line that says where and what to do."""


@dataclass(frozen=True)
class TestSet:
    """A test set on disk: CLIP_benchmark's local webdataset layout and the manifest that was written last.

    ``kind`` is classification, retrieval or order; ``shards`` are names and sha256, in the order of the items.
    """

    __test__ = False  # for pytest: not a class of tests

    directory: Path
    kind: str
    n: int
    fingerprint: str
    shards: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def ending(self) -> str:
        """Of the members that say what is right: the label, the captions, or the item of caption selection."""
        return {"retrieval": "txt", "order": "json"}.get(self.kind, "cls")

    def lines(self, name: str) -> list[str]:
        """The stripped lines of one of its text files. Raises EvaluationError."""
        path = self.directory / f"{name}.txt"
        try:
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path}: cannot be read ({error}); make the test set again") from None


def open_test_set(directory: Path) -> TestSet:
    """The test set in ``directory``.

    Raises EvaluationError when its manifest is missing or broken, or when class names, templates or type are not
    those that it was written for. Shards are checked when they are read.
    """
    try:
        manifest = read_json(directory / "manifest.json")
        declared = directory / "dataset_type.txt"  # optional: CLIP_benchmark's default is classification
        kind = declared.read_text(encoding="utf-8").strip() if declared.exists() else "classification"
        _check_layout(directory, manifest)
        shards = named_shards(manifest)
        ordered = tuple(sorted(shards, key=lambda shard: int(Path(shard[0]).stem)))
        return TestSet(directory, kind, int(manifest["n"]), fingerprint(shards), ordered)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{directory}: not a finished test set ({error}); draw or download it again"
        ) from None


def _check_layout(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare the small files of the layout with the manifest: sha256 of each (drawn), or one digest of all."""
    files = manifest.get("files", {})
    if isinstance(files, dict):
        wrong = [name for name, digest in files.items() if file_sha256(directory / name) != digest]
    else:
        content = {name: manifest[name] for name in ("name", "n", "shards")}
        texts = {name: (directory / name).read_text(encoding="utf-8") for name in files}
        wrong = files if fingerprint({**content, "files": texts}) != manifest["fingerprint"] else []
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not what the manifest was written for")


def read_shard(directory: Path, name: str, sha256: str, ending: str) -> Iterator[tuple[Image.Image, Any]]:
    """The image and the decoded member ``ending`` of every sample of a shard, which is first checked by its sha256.

    Raises EvaluationError for a shard of other bytes, and for a sample that lacks either or cannot be decoded.
    """
    shard, key = directory / "test" / name, ""
    try:
        check_bytes(shard, sha256, cure="make the test set again")
        for sample in samples_of(shard, (*IMAGES, ending)):
            key = sample.key
            yield image_of(sample), _DECODERS[ending](sample)
    except ShardError as error:
        raise EvaluationError(str(error)) from None
    except BadSample as error:
        raise EvaluationError(
            f"{shard}: sample {key!r} cannot be read: {error}; make the test set again"
        ) from None


def _selection_of(sample: RawSample) -> dict[str, Any]:
    """A caption-selection item: its kind, captions (the right one first) and group. Raises BadSample."""
    facts, captions = metadata_of(sample), captions_of(sample)
    kind, group = facts.get("kind"), facts.get("group")
    if len(captions) < 2 or kind not in KINDS or not isinstance(group, str | None):
        raise BadSample(Reason.METADATA, f"kind {kind!r}, {len(captions)} captions")
    return {"kind": kind, "captions": captions, "group": group}


_DECODERS: dict[str, Callable[[RawSample], Any]] = {
    "cls": label_of,
    "txt": lines_of,
    "json": _selection_of,
}
