"""What was downloaded: COCO's captions as a list of images, and manifests of shards that other tools have written.

A manifest is written last and names every shard with its number of samples and sha256; training and evaluation
start from it, so a truncated download is noticed here and not in the middle of a training.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from clipa.data.samples import samples_of
from clipa.data.shards import Entry, file_sha256, in_processes, progress_bar
from clipa.data.yields import check_complete, expected_shards, read_yield, statistics_of
from clipa.downloads import DownloadError
from clipa.files import write_json_atomically, write_text_atomically
from clipa.locks import directory_lock
from clipa.resolved import fingerprint

MANIFEST = "manifest.json"
COCO_CAPTIONS = "annotations/captions_train2014.json"
# COCO's own host has no certificate; its bucket has one by this path.
_COCO_HOST, _COCO_BUCKET = (
    "http://images.cocodataset.org/",
    "https://s3.amazonaws.com/images.cocodataset.org/",
)
LAYOUT = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")
_MOST_BYTES = 1 << 30  # COCO's captions are 67 MB


# ----------------------------------------------------------------------------------------------------- manifests


def index_training(
    directory: Path, processes: int = 1, shards: int | None = None, minimum_yield: float = 0.0
) -> Path:
    """Write ``directory/manifest.json`` for the shards that were downloaded there; returns its path.

    ``shards``: how many there must be, of which ``minimum_yield`` of the links gave an image (where statistics are
    there to say so). Counts come from reading every tar, and must be those of img2dataset's own statistics where these
    are there. Raises DownloadError when shards are missing, empty, or from an outage, or when counts differ; ShardError
    when one is not a whole tar.
    """
    directory = Path(directory)
    with directory_lock(directory, "manifest of the training shards"):
        expected = expected_shards(directory)
        if expected is not None:
            check_complete(directory, expected, minimum_yield)
        entries = _entries(directory, directory, processes)
        if shards is not None and len(entries) != shards:
            raise DownloadError(
                f"{directory}: {len(entries)} shards, the scale's file says shards: {shards}; download the missing "
                "ones, or write the number that is meant"
            )
        if empty := [entry["name"] for entry in entries if not entry["samples"]]:
            raise DownloadError(
                f"{directory}: {len(empty)} of {len(entries)} shards are empty ({empty[0]}, …); delete them with their "
                "statistics, and download them again"
            )
        content = {"world": None, "shards": entries}
        write_json_atomically(directory / MANIFEST, {"fingerprint": fingerprint(content), **content})
    return directory / MANIFEST


def index_test_set(directory: Path) -> Path:
    """Write ``directory/manifest.json`` for a test set in CLIP_benchmark's webdataset layout; returns its path.

    Raises DownloadError when shards are missing (``test/nshards.txt`` says how many there must be), ShardError when one
    is not a whole tar.
    """
    directory = Path(directory)
    with directory_lock(directory, f"manifest of the test set {directory.name}"):
        shards = _entries(directory / "test", directory, 1)
        announced = _text(directory / "test" / "nshards.txt")
        if announced is not None and int(announced) != len(shards):
            raise DownloadError(
                f"{directory}: {len(shards)} shards of {announced.strip()}; download it again"
            )
        files = {name: text for name in LAYOUT if (text := _text(directory / name)) is not None}
        content = {"name": directory.name, "n": sum(shard["samples"] for shard in shards), "shards": shards}
        mark = fingerprint({**content, "files": files})
        write_json_atomically(directory / MANIFEST, {"fingerprint": mark, **content, "files": sorted(files)})
    return directory / MANIFEST


def _entries(folder: Path, directory: Path, processes: int) -> list[Entry]:
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise DownloadError(
            f"{directory}: no shards; download the data first (snakemake data --config scale=…)"
        )
    with progress_bar(f"hashing {directory.name}", len(shards), "shard") as bar:
        entries = []
        for entry in in_processes(_entry, [(shard,) for shard in shards], processes):
            entries.append(entry)
            bar.update()
    return entries


def _entry(path: Path) -> Entry:
    """Name, number of samples, sha256 and size of one shard."""
    digest = file_sha256(path)
    samples = sum(1 for _ in samples_of(path, ()))
    statistics = statistics_of(path)
    if statistics.is_file() and (announced := read_yield(statistics).successes) != samples:
        raise DownloadError(
            f"{path}: {samples} samples, {statistics.name} says {announced}; delete both and download again"
        )
    return {"name": path.name, "samples": samples, "sha256": digest, "bytes": path.stat().st_size}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


# --------------------------------------------------------------------------------------------------------- COCO


def write_image_list(annotations: Path, out: Path) -> Path:
    """COCO's images as the list that img2dataset downloads: NegCLIP's training set at the paper's scale.

    ``annotations`` is ``annotations_trainval2014.zip``, which holds ``annotations/captions_train2014.json``: 82,783
    images, five captions each or more. Written to ``out``: one image a line, in the order of their numbers, as
    ``{"url", "caption", "captions", "image_id"}``; ``captions`` in the order of their numbers (NegCLIP draws among
    them), ``caption`` the first. Images without a caption are left out. Returns ``out``. Raises DownloadError.
    """
    try:
        rows = _rows(_coco_captions(Path(annotations)))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(
            f"{annotations}: {COCO_CAPTIONS} is not COCO's ({error!r}); get the zip again"
        ) from None
    write_text_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Path(out)


def _rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    captions: dict[int, list[str]] = {}
    for annotation in sorted(content["annotations"], key=lambda one: one["id"]):
        caption = " ".join(annotation["caption"].split())  # some end with a line break
        if caption:
            captions.setdefault(annotation["image_id"], []).append(caption)
    return [
        {
            "url": image["coco_url"].replace(_COCO_HOST, _COCO_BUCKET, 1),
            "caption": captions[image["id"]][0],
            "captions": captions[image["id"]],
            "image_id": image["id"],
        }
        for image in sorted(content["images"], key=lambda one: one["id"])
        if image["id"] in captions
    ]


def _coco_captions(annotations: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(annotations) as archive:
            if (size := archive.getinfo(COCO_CAPTIONS).file_size) > _MOST_BYTES:
                raise ValueError(f"{COCO_CAPTIONS} unpacks to {size} bytes")
            return json.loads(archive.read(COCO_CAPTIONS))  # the zip's own checksum is compared
    except FileNotFoundError:
        raise DownloadError(
            f"{annotations}: missing; download COCO's annotations_trainval2014.zip first"
        ) from None
    except KeyError:
        raise DownloadError(
            f"{annotations}: holds no {COCO_CAPTIONS}; expected COCO's annotations_trainval2014.zip"
        ) from None
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise DownloadError(f"{annotations}: not whole ({error}); delete it and download it again") from None
