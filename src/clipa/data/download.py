"""Downloads of single files, and manifests of downloaded data: what the embedded world's drawing writes by itself.

A manifest is written last and names every shard with its number of samples and sha256; loading and evaluation
start from it, so a truncated download is noticed here and not in the middle of a training.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from clipa.files import write_json_atomically
from clipa.locks import directory_lock
from clipa.runs import fingerprint

END = bytes(2 * tarfile.BLOCKSIZE)
_BLOCK, _TIMEOUT_SECONDS = 1 << 20, 60
LAYOUT = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


class DownloadError(ValueError):
    """A download is missing or cut short; one line that says where and what to do."""


def index_training(directory: Path, processes: int = 1) -> Path:
    """Write ``directory/manifest.json`` for the shards that img2dataset wrote there; returns its path.

    Counts come from reading every tar, not from img2dataset's own statistics. Raises DownloadError when there is
    no shard, or one is cut short.
    """
    directory = Path(directory)
    with directory_lock(directory, "manifest of the training shards"):
        shards = _entries(sorted(directory.glob("*.tar")), directory, processes)
        content = {"world": None, "shards": shards}
        return _write(directory / "manifest.json", {"fingerprint": fingerprint(content), **content})


def index_test_set(directory: Path) -> Path:
    """Write ``directory/manifest.json`` for a test set in CLIP_benchmark's webdataset layout; returns its path.

    Raises DownloadError when shards are missing (``test/nshards.txt`` says how many there must be) or cut short.
    """
    directory = Path(directory)
    with directory_lock(directory, f"manifest of the test set {directory.name}"):
        shards = _entries(sorted((directory / "test").glob("*.tar")), directory / "test", 1)
        said = _text(directory / "test" / "nshards.txt")
        if said is not None and int(said) != len(shards):
            raise DownloadError(f"{directory}: {len(shards)} shards of {said.strip()}; download it again")
        files = {name: text for name in LAYOUT if (text := _text(directory / name)) is not None}
        content = {"name": directory.name, "n": sum(shard["samples"] for shard in shards), "shards": shards}
        mark = fingerprint({**content, "files": files})
        return _write(directory / "manifest.json", {"fingerprint": mark, **content, "files": sorted(files)})


def fetch(url: str, path: Path) -> Path:
    """Download ``url`` to ``path``, which appears when all of it is there and is left alone when it is; returns it.

    What an interrupted call has got lies in ``<name>.partial``, and the server is asked for the rest. Raises
    DownloadError when the server cannot be reached, refuses, or sends less than it announced.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with directory_lock(path.parent, f"download of {path.name}"):
        if path.is_file():
            return path
        try:
            try:
                _get(url, partial)
            except HTTPError as error:
                if error.code != 416:
                    raise
                partial.unlink(missing_ok=True)  # there is no rest, or the file has changed: all of it again
                _get(url, partial)
        except OSError as error:  # of the network, most often
            raise DownloadError(
                f"{url}: not downloaded ({error}); try again (it goes on where it was), or put it at {path}"
            ) from None
        os.replace(partial, path)
    return path


def _get(url: str, partial: Path) -> None:
    """Add to ``partial`` what it lacks of ``url``. OSError, HTTPError among them, when that fails."""
    from tqdm import tqdm

    have = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        if answer.status != 206:  # the server begins at the beginning
            have = 0
        announced = answer.headers["Content-Length"]
        total = have + int(announced) if announced else None
        seconds = 0.5 if sys.stderr.isatty() else 10
        bar = tqdm(
            total=total,
            initial=have,
            desc=url.rpartition("/")[2],
            unit="B",
            unit_scale=True,
            mininterval=seconds,
        )
        with bar, open(partial, "ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            if total is not None and file.tell() != total:
                raise OSError(f"the connection ended after {file.tell()} of {total} bytes")


def _entries(paths: list[Path], directory: Path, processes: int) -> list[dict[str, Any]]:
    if not paths:
        raise DownloadError(
            f"{directory}: no shards; download the data first (snakemake data --config scale=…)"
        )
    if processes <= 1:
        return [_entry(path) for path in paths]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(_entry, paths, chunksize=8))


def _entry(path: Path) -> dict[str, Any]:
    """Name, number of samples (images) and sha256 of one shard."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        # tarfile takes a header that is cut short for the end; a whole archive ends with two blocks of zeros.
        file.seek(-min(path.stat().st_size, len(END)), os.SEEK_END)
        if file.read() != END:
            raise DownloadError(f"{path}: not a whole tar file (no end mark); delete it and download again")
    try:
        with tarfile.open(path) as archive:
            samples = _images(archive)
    except (tarfile.TarError, EOFError) as error:
        raise DownloadError(f"{path}: not a whole tar file ({error}); delete it and download again") from None
    return {"name": path.name, "samples": samples, "sha256": digest}


def _images(members: Iterable[tarfile.TarInfo]) -> int:
    return sum(os.path.splitext(member.name)[1] in (".jpg", ".jpeg", ".png", ".webp") for member in members)


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _write(path: Path, content: dict[str, Any]) -> Path:
    write_json_atomically(path, content)
    return path
