"""Checkpoints that survive kill -9, a full disk and bit rot.

A checkpoint is one safetensors file (no pickle) whose name carries its step and the SHA-256 of its bytes. It is
written to a temporary file, flushed to disk, and renamed, so it is complete or absent. Loading verifies the digest; if
it does not match, the file is named on standard error and the checkpoint before it is loaded.

It holds the full state dict, also of a sharded stage (:mod:`clipa.distributed`): the first process gathers it in host
memory, 12 bytes a parameter (parameter and both moments), 30 GB for G/14, and writes it without a second copy. The
other processes wait a minute or two (the digest takes a second a gigabyte), which is little beside the time between two
checkpoints of a stage that large. In return a stage may resume with another world size. torch.distributed.checkpoint
would write shards in parallel, but its index is a pickle, and a set of files has neither one digest nor one rename.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipa.files import sha256_of, sync

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{16})\.safetensors")


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


def save(directory: Path, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Path:
    """Write the checkpoint of ``step`` (updates done) and delete all but the newest two.

    Raises OSError; then the earlier checkpoints are unchanged and no partial file remains.
    """
    temporary = directory / f".checkpoint-{os.getpid()}.partial"
    try:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, temporary, metadata={"clipa": json.dumps(metadata)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"{directory}: checkpoint of step {step} not written ({error})") from error
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        path = directory / f"checkpoint-{step:09d}-{_digest(temporary)}.safetensors"
        os.replace(temporary, path)
        sync(directory)
    finally:
        temporary.unlink(missing_ok=True)
    for old in _candidates(directory)[KEPT:]:
        old.unlink()
    return path


def load_latest(directory: Path, fingerprint: str) -> tuple[int, StoredTensors, dict[str, Any]] | None:
    """Step, tensors and metadata of the newest intact checkpoint, or None.

    Damaged ones are named on standard error and skipped. Raises CheckpointMismatch for another fingerprint. Several
    processes may call it at once.
    """
    for leftover in directory.glob(".checkpoint-*.partial"):
        leftover.unlink(missing_ok=True)
    candidates = _candidates(directory)
    for place, path in enumerate(candidates):
        match = _NAME.fullmatch(path.name)
        assert match
        if _digest(path) != match[2]:
            print(f"{path}: damaged (its bytes do not match its name); using the one before", file=sys.stderr)
            continue
        tensors = StoredTensors(path)
        if tensors.metadata.get("step", int(match[1])) != int(match[1]):
            print(f"{path}: holds step {tensors.metadata['step']}, not its name's; skipped", file=sys.stderr)
            continue
        if tensors.metadata["fingerprint"] != fingerprint:
            raise CheckpointMismatch(
                f"{path}: made by configuration {tensors.metadata['fingerprint']}, this stage is {fingerprint}; "
                "move the file away to train from the start"
            )
        for old in candidates[place + KEPT :]:  # of a save that was killed before it deleted them
            old.unlink(missing_ok=True)
        return int(match[1]), tensors, tensors.metadata
    return None


def _candidates(directory: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(
        (path for path in directory.glob("checkpoint-*") if _NAME.fullmatch(path.name)), reverse=True
    )


def _digest(path: Path) -> str:
    return sha256_of(path)[:16]
