"""A training set's decoded images and word pieces on disk, for the resident loader on a CPU: made once, then mapped.

One file beside the shards, ``resident-<made from>-<its own sha256>.safetensors``. The first digits are of what it was
made from: the shards' and sidecars' digests, the vocabulary's, and Pillow's version, which decides how JPEGs are
decoded. So it never stands for other data, and whoever reads it compares all of its bytes. Processes that read the same
file share its pages in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import PIL
from safetensors.torch import load_file
from torch import Tensor

from clipa.checkpoint import is_sealed, write_sealed
from clipa.data.shards import file_sha256
from clipa.data.stream import StreamSpec
from clipa.locks import directory_lock
from clipa.resolved import fingerprint

_VERSION = 1  # raised when the same shards would give other tensors


def kept(spec: StreamSpec, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``make`` returns for the training set of ``spec``, from disk if they are there and intact.

    Else they are made, under the lock of the data's folder, and written. Where they cannot be written (a full disk, a
    folder of somebody else) it is said, and the made ones are returned. Not for a ``spec`` without ``expected``: nobody
    knows then what its shards should be.
    """
    if not spec.expected:
        return make()
    stem = f"resident-{_made_from(spec)}"
    made = None
    try:
        if found := _intact(spec.directory, stem):
            return load_file(found)
        with directory_lock(spec.directory, "decoded images"):
            if not (found := _intact(spec.directory, stem)):
                for pattern in ("resident-*", ".resident-*.partial"):  # damaged, of other data, of a kill
                    for other in spec.directory.glob(pattern):
                        other.unlink(missing_ok=True)
                made = make()
                found = write_sealed(spec.directory, stem, made)
        return load_file(found)
    except OSError as error:
        print(f"{spec.directory}: decoded images are not kept for other processes: {error}", file=sys.stderr)
        return made or make()


def _made_from(spec: StreamSpec) -> str:
    shards = [[*shard, of.sha256, of.sidecar] for shard, of in zip(spec.shards, spec.expected, strict=True)]
    vocabulary = file_sha256(spec.vocabulary / "tokenizer.json")
    return fingerprint([_VERSION, PIL.__version__, vocabulary, shards])


def _intact(directory: Path, stem: str) -> Path | None:
    for path in directory.glob(f"{stem}-*.safetensors"):
        try:
            if is_sealed(path):
                return path
        except FileNotFoundError:  # another process replaces it
            continue
        print(
            f"{path}: damaged (its bytes do not match its name); decoding the images again", file=sys.stderr
        )
    return None
