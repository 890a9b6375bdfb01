"""Checkpoints that survive kill -9, a full disk and bit rot.

A checkpoint is one safetensors file (no pickle) whose name carries its step and the SHA-256 of its bytes. It is
written to a temporary file, flushed to disk, and renamed, so it is complete or absent. Loading verifies the digest; if
it does not match, the file is named on standard error and the checkpoint before it is loaded.

The checkpoint of a stage that is sharded over several processes (:mod:`clipa.distributed`) is a folder instead: each
process writes its part, so nothing is gathered. (In all there are 12 bytes a parameter, for it and both moments: 30 GB
for G/14.) ``checkpoint.json`` has the metadata and the digest of each file, the folder's name the digest of
``checkpoint.json``; the folder is written beside its place and renamed. torch.distributed.checkpoint writes and reads
the parts, in safetensors (its own index is a pickle), so a stage may resume with another number of processes. Training
waits for it: beside the 500 steps between two checkpoints it is too short to be worth a second copy in memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, dtype
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from clipa import distributed
from clipa.files import read_json, remove_partial_weights, sha256_of, sync, write_json_atomically

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{16})(\.safetensors)?")
_INDEX = "checkpoint.json"


class CheckpointMismatch(RuntimeError):
    """A checkpoint, or the parent, was made by another configuration."""


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, each read from disk when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self.metadata: dict[str, Any] = json.loads(self._file.metadata()["clipa"])

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


class StoredShards:
    """The tensors of a sharded stage's checkpoint; each process reads what it holds of them."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self.metadata: dict[str, Any] = read_json(path / _INDEX)["metadata"]

    def shapes(self) -> dict[str, tuple[tuple[int, ...], dtype]]:
        """Shape and type of each tensor, whole, by name."""
        stored = HuggingFaceStorageReader(self._path).read_metadata().state_dict_metadata
        return {name: (tuple(one.size), one.properties.dtype) for name, one in stored.items()}

    def read_into(self, tensors: dict[str, Tensor]) -> None:
        """Fill ``tensors``, by name, in place. All processes must call this."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is, of one process
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(self._path))


def save(directory: Path, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Path:
    """Write the checkpoint of ``step`` (updates done) and delete all but the newest two.

    Raises OSError; then the earlier checkpoints are unchanged and no partial file remains.
    """
    path = write_sealed(directory, f"checkpoint-{step:09d}", tensors, {"clipa": json.dumps(metadata)})
    for old in _candidates(directory)[KEPT:]:
        _remove(old)
    return path


def write_sealed(
    directory: Path, stem: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """Write ``<stem>-<first 16 digits of its sha256>.safetensors``, complete or not at all; returns its path.

    Raises OSError; then no partial file remains. A kill leaves ``.<stem>-….partial``.
    """
    temporary = directory / f".{stem}-{os.getpid()}.partial"
    try:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"{directory}: {stem} not written ({error})") from error
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        path = directory / f"{stem}-{_digest(temporary)}.safetensors"
        os.replace(temporary, path)
        sync(directory)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def is_sealed(path: Path) -> bool:
    """Whether the bytes of a file of :func:`write_sealed` are those that its name stands for. OSError if it is gone."""
    return _digest(path) == path.stem.rpartition("-")[2]


def save_shards(directory: Path, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Path:
    """As :func:`save`, of tensors that are sharded over several processes: all call this, and each writes its part.

    The first one's ``metadata`` is written. Where one process fails all do; the earlier checkpoints are unchanged.
    """
    temporary = directory / f".checkpoint-{step:09d}.partial"
    if distributed.rank() == 0:
        temporary.mkdir()
    distributed.wait_for_all()
    try:
        dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True))
        written = sorted(temporary.glob("*.safetensors"))
        own = written[distributed.rank() :: distributed.world_size()]
        files = distributed.merged({path.name: sha256_of(path) for path in own})
        path = temporary
        if distributed.rank() == 0:
            write_json_atomically(temporary / _INDEX, {"metadata": metadata, "files": files})
            path = directory / f"checkpoint-{step:09d}-{_digest(temporary / _INDEX)}"
            _remove(path)  # a damaged one of the same content
            os.replace(temporary, path)
            sync(directory)
    except dcp.CheckpointException as error:  # of any process
        reasons = "; ".join(sorted({str(reason) for reason, _ in error.failures.values()}))
        raise OSError(f"{directory}: checkpoint of step {step} not written ({reasons})") from error
    finally:
        if distributed.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
    if distributed.rank() == 0:
        for old in _candidates(directory)[KEPT:]:
            _remove(old)
    distributed.wait_for_all()
    return path


def load_latest(
    directory: Path, fingerprint: str
) -> tuple[int, StoredTensors | StoredShards, dict[str, Any]] | None:
    """Step, tensors and metadata of the newest intact checkpoint, or None.

    Damaged ones are named on standard error and skipped. Raises CheckpointMismatch for another fingerprint. Several
    processes may call it at once.
    """
    for leftover in directory.glob(".checkpoint-*.partial"):
        _delete(leftover)
    remove_partial_weights(directory)
    candidates = _candidates(directory)
    for place, path in enumerate(candidates):
        match = _NAME.fullmatch(path.name)
        assert match
        if not _intact(path, match[2]):
            print(f"{path}: damaged (its bytes do not match its name); using the one before", file=sys.stderr)
            continue
        tensors = StoredShards(path) if path.is_dir() else StoredTensors(path)
        if tensors.metadata.get("step", int(match[1])) != int(match[1]):
            print(f"{path}: holds step {tensors.metadata['step']}, not its name's; skipped", file=sys.stderr)
            continue
        if tensors.metadata["fingerprint"] != fingerprint:
            raise CheckpointMismatch(
                f"{path}: made by configuration {tensors.metadata['fingerprint']}, this stage is {fingerprint}; "
                "move the file away to train from the start"
            )
        for old in candidates[place + KEPT :]:  # of a save that was killed before it deleted them
            _remove(old)
        return int(match[1]), tensors, tensors.metadata
    return None


def _candidates(directory: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(
        (path for path in directory.glob("checkpoint-*") if _NAME.fullmatch(path.name)), reverse=True
    )


def _intact(path: Path, digest: str) -> bool:
    """Whether the bytes of a checkpoint are those that its name stands for."""
    if path.is_file():
        return _digest(path) == digest
    try:
        if _digest(path / _INDEX) != digest:
            return False
        files = read_json(path / _INDEX)["files"]
        return files.keys() == {file.name for file in path.glob("*.safetensors")} and all(
            sha256_of(path / name) == expected for name, expected in files.items()
        )
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    """Delete a checkpoint, if it is there; a folder is never seen with a part of its files."""
    if path.is_dir():
        hidden = path.with_name(f".{path.name}.partial")
        os.replace(path, hidden)
        path = hidden
    _delete(path)


def _delete(path: Path) -> None:
    """Several processes may do this at once."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return sha256_of(path)[:16]
