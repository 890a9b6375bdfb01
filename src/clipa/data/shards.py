"""Shards on disk: how they are read, and how they are written so that an interrupted call can be resumed.

A data set is a folder of parts (tars of samples, or sidecar files of them) and a manifest, which names every part with
its sha256 and is written last. While parts are written, ``<manifest>.partial.json`` names the finished ones; the next
call keeps them. One lock file per folder (``.lock``) keeps two writers apart. The same input gives the same bytes, in
any number of processes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from clipa.files import check_digest, read_json, sha256_of, write_bytes_atomically, write_json_atomically
from clipa.locks import directory_lock

Members = list[tuple[str, bytes]]
Entry = dict[str, Any]
"""A part in a manifest: its name, its sha256, its number of samples …"""

_NOTE_SECONDS = (
    5  # how much work a kill may cost; with tens of thousands of shards, a partial manifest is megabytes
)


class ShardError(RuntimeError):
    """A shard that cannot be read as it was written, or too many undecodable images."""


# ------------------------------------------------------------------------------------------------------- reading


def read_manifest(directory: Path, name: str = "manifest.json") -> dict[str, Any]:
    """The manifest of a training set, or of its parts of speech (``annotation.json``): what it says, with a list
    ``shards`` (``sidecars``) of entries that have ``name``, ``samples`` and ``sha256``.

    ShardError when there is none, or not such a one.
    """
    path = directory / name
    key, what, verb = ("shards", "draw or download the data", "draw --help")
    if name != "manifest.json":
        key, what, verb = "sidecars", "tag the captions", "annotate"
    try:
        manifest = read_json(path)
        if (
            key == "sidecars"
        ):  # stages name the digest of a training set's manifest; nothing else names this one's
            check_digest(manifest)
        wrong = [entry for entry in manifest[key] if not _is_entry(entry)]
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {what} first (python -m clipa {verb})") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not a manifest ({error!r}); {what} again") from None
    if wrong:
        raise ShardError(f"{path}: not an entry of {key}: {str(wrong[0])[:100]}; {what} again")
    return manifest


def _is_entry(entry: Entry) -> bool:
    """Whether an entry names a file of its own folder, with a digest and a number of samples."""
    name, samples, sha256 = entry["name"], entry["samples"], entry["sha256"]
    return Path(name).name == name and isinstance(sha256, str) and type(samples) is int and samples >= 0


def named_shards(manifest: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Name and sha256 of every shard; a test set's fingerprint is that of these. KeyError or TypeError without them."""
    return tuple((shard["name"], shard["sha256"]) for shard in manifest["shards"])


def file_sha256(path: Path) -> str | None:
    """The sha256 of a file; None where there is none."""
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return None


_CHECKED: set[tuple[Path, str, int, int, int]] = set()


def check_bytes(
    path: Path, sha256: str, again: bool = False, cure: str = "draw or download it again"
) -> None:
    """Compare a file with the digest that its manifest names: once a process, and again when the file has changed.

    ``again``: whether or not it has. Raises ShardError that names both digests, or that the file is missing, and the
    ``cure``.
    """
    try:
        state = path.stat()
        seen = (path, sha256, state.st_ino, state.st_size, state.st_mtime_ns)
        if seen in _CHECKED and not again:
            return
        found = sha256_of(path)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    if found != sha256:
        raise ShardError(f"{path}: sha256 is {found[:16]}, its manifest names {sha256[:16]}; {cure}")
    _CHECKED.add(seen)


class Expected(NamedTuple):
    """What a shard and its sidecar must be, by their manifests, and how that is checked."""

    sha256: str
    sidecar: str | None = None
    """The sidecar's sha256; None where parts of speech are not read."""
    size: int | None = None
    """Bytes; given where only the size is compared."""
    again: bool = False
    """Whether bytes are compared at each opening, and not once a process."""

    def check(self, shard: Path) -> None:
        """Compare the shard with what it must be; the sidecar is compared by whoever reads it. Raises ShardError."""
        if self.size is None:
            check_bytes(shard, self.sha256, self.again)
        elif (found := shard.stat().st_size if shard.is_file() else 0) != self.size:
            raise ShardError(f"{shard}: {found} bytes, its manifest names {self.size}; download it again")


# ------------------------------------------------------------------------------------------------------- writing


def tar_bytes(members: Members) -> bytes:
    """A tar of (name, content) members, whose bytes depend on nothing else (no time, owner or host)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o644, 0
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class PartWriter:
    """Writes the parts of a data set and its manifest; what an earlier call has finished is kept.

    ``resume`` first, then ``write``, then ``finish``, all inside :func:`writing`.
    """

    def __init__(self, manifest: Path, folder: Path, pattern: str, key: str) -> None:
        self.manifest, self.folder, self.pattern, self.key = manifest, folder, pattern, key
        self.partial = manifest.with_name(f"{manifest.stem}.partial.json")
        self.header: dict[str, Any] = {}
        self.done: dict[str, Entry] = {}

    def resume(self, header: dict[str, Any]) -> bool:
        """Keep the parts of earlier calls with the same ``header`` that still have their sha256.

        The header holds the manifest's other keys, which say what the parts are made from. Returns True if the data
        set is complete, so that nothing is left to do.
        """
        self.header = json.loads(json.dumps(header))
        finished = False
        for path in (self.manifest, self.partial):
            earlier = _read(path)
            if any(earlier.get(name) != value for name, value in self.header.items()):
                continue
            entries = earlier.get(self.key, [])
            for entry in entries:
                if (
                    entry["name"] not in self.done
                    and file_sha256(self.folder / entry["name"]) == entry["sha256"]
                ):
                    self.done[entry["name"]] = entry
            finished |= path == self.manifest and all(entry["name"] in self.done for entry in entries)
        if finished:
            self.partial.unlink(missing_ok=True)
        return finished

    def write(
        self,
        make: Callable[..., tuple[bytes, Entry]],
        jobs: Mapping[str, tuple],
        processes: int = 1,
        report: Callable[[Entry], object] = lambda entry: None,
    ) -> list[Entry]:
        """Write the parts that are missing; returns the entries of all, in the order of ``jobs``.

        ``make(name, *job)`` runs in a worker process and gives the content of a part and its entry, without sha256;
        ``jobs``: a job for every part. ``report`` gets the entry of every part, of kept ones first. Parts that are not
        asked for are deleted, and so is the manifest of before.
        """
        self.done = {name: self.done[name] for name in jobs if name in self.done}
        self.manifest.unlink(missing_ok=True)
        for path in self.folder.glob(self.pattern):
            if path.name not in self.done:
                path.unlink()
        for entry in self.done.values():
            report(entry)
        missing = [(make, self.folder / name, job) for name, job in jobs.items() if name not in self.done]
        noted = -_NOTE_SECONDS
        try:
            for entry in in_processes(_write_part, missing, processes):
                self.done[entry["name"]] = entry
                report(entry)
                if time.monotonic() - noted >= _NOTE_SECONDS:
                    self._note()
                    noted = time.monotonic()
        finally:
            self._note()
        return [self.done[name] for name in jobs]

    def finish(self, content: bytes | dict[str, Any]) -> Path:
        """Write the manifest, last of all; returns its path."""
        if isinstance(content, bytes):
            write_bytes_atomically(self.manifest, content)
        else:
            write_json_atomically(self.manifest, content)
        self.partial.unlink(missing_ok=True)
        return self.manifest

    def _note(self) -> None:
        write_json_atomically(self.partial, {**self.header, self.key: list(self.done.values())})


@contextmanager
def writing(
    manifest: Path, what: str, folder: Path | None = None, pattern: str = "*.tar", key: str = "shards"
) -> Iterator[PartWriter]:
    """A writer of parts in ``folder`` (default: the manifest's own), which holds the lock of the manifest's folder.

    ``pattern``: the names of parts; ``key``: the manifest's key for their list; ``what``: named in the message of a
    process that waits for the lock.
    """
    folder = folder or manifest.parent
    with directory_lock(manifest.parent, what):
        folder.mkdir(exist_ok=True)
        for leftover in (*folder.glob(".*.tmp"), *manifest.parent.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
        yield PartWriter(manifest, folder, pattern, key)


def _write_part(make: Callable[..., tuple[bytes, Entry]], path: Path, job: tuple) -> Entry:
    """Write one part (in a worker process); returns its manifest entry."""
    content, entry = make(path.name, *job)
    write_bytes_atomically(path, content)
    return {**entry, "sha256": hashlib.sha256(content).hexdigest()}


def _read(path: Path) -> dict[str, Any]:
    """A manifest, or nothing where there is none or it is cut."""
    try:
        manifest = read_json(path)
        return manifest if isinstance(manifest, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}


# ----------------------------------------------------------------------------------------- processes and progress


def in_processes(
    function: Callable[..., Any], jobs: Sequence[tuple], processes: int, jobs_a_process: int | None = None
) -> Iterator[Any]:
    """``function(*job)`` of every job, in the order of the jobs.

    ``jobs_a_process``: after so many a process is replaced, for libraries that leak.
    """
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield function(*job)
        return
    # spawn, not fork: the parent may hold threads or a lock that a fork would copy.
    with ProcessPoolExecutor(
        min(processes, len(jobs)),
        get_context("spawn"),
        initializer=_end_with_parent,
        initargs=(os.getpid(),),
        max_tasks_per_child=jobs_a_process,
    ) as pool:
        try:
            yield from pool.map(function, *zip(*jobs, strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent(parent: int) -> None:
    """Worker start-up: end when the parent is killed, since nobody would collect the work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress_bar(what: str, total: int, unit: str, **options: Any) -> Any:
    """A tqdm bar with an estimate of the time left: twice a second on a terminal, every ten seconds in a log."""
    from tqdm import tqdm

    seconds = 0.5 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=what, unit=unit, mininterval=seconds, **options)
