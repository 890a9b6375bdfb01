"""Files that hold either their old content or all of the new one, whatever interrupts the writing."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SHA256 = "^[0-9a-f]{64}$"
"""A digest in a file's, a record's or a variable's text, as a regular expression."""


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError of the block the path of what was written, where the system gave none: on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def write_bytes_atomically(path: str | Path, content: bytes) -> None:
    """Write so that `path` holds either its old content or all of `content`, whatever happens.

    A temporary file in the same folder is written, synced and renamed, then the folder is synced. The
    temporary is removed if anything fails. Raises OSError as the file system gives it, with the path.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def gzipped(content: bytes) -> bytes:
    """``content`` as a gzip stream of the same bytes for every Python, with one zlib.

    Its header names no time, and always the same system: byte 9 (RFC 1952), where Python 3.12 writes 3, and 3.13 255.
    """
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[9] = 3
    return bytes(packed)


def parsed(content: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError, and nothing else, for whatever is none, however deep or long."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | Path) -> Any:
    """What a JSON file says. Raises OSError, or ValueError for what is no JSON."""
    return parsed(Path(path).read_bytes())


@cache
def unique_keys() -> Any:
    """PyYAML's safe loader (a class), with a key that occurs twice as an error: it would silently take the last."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(
                        None, None, "a key must be a word or a number", key.start_mark
                    )
                name = self.construct_object(key, deep=deep)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name!r} occurs twice", key.start_mark
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader


def digest(content: Any) -> str:
    """The sha256 (hexadecimal) of ``content`` (anything JSON can hold), independent of key order and layout."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def with_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON document that names the digest of all else in it, as ``digest``."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return content | {"digest": digest(content)}


def check_digest(document: Any) -> None:
    """Raise ValueError unless ``document`` is one of :func:`with_digest`, unchanged."""
    if not isinstance(document, dict) or "digest" not in document:
        raise ValueError("names no digest of itself")
    if (found := with_digest(document)["digest"]) != document["digest"]:
        raise ValueError(f"digest is {found[:16]}, it names {str(document['digest'])[:16]}")


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(directory: Path) -> dict[str, str]:
    """Flush every file of a directory, and the directory, to disk; returns the sha256 of each by name."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    for path in [*files, directory]:
        sync(path)
    return {path.name: sha256_of(path) for path in files}


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk. Raises OSError."""
    if os.name == "nt" and path.is_dir():  # Windows opens no directories and keeps names by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write text atomically, in UTF-8 with the line ends it has, whatever the locale.

    What killed writers of this file have left is removed. Whoever writes bytes does so once for a whole folder: it may
    have tens of thousands of parts.
    """
    _remove_leftovers(Path(path))
    write_bytes_atomically(path, text.encode("utf-8"))


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of ``path`` that killed processes of this machine have left."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{platform.node()}-*.tmp"):
        writer = leftover.stem.rpartition("-")[2]
        if writer.isascii() and writer.isdigit() and not process_lives(int(writer)):
            leftover.unlink(missing_ok=True)


def process_lives(pid: int) -> bool:
    """Whether this machine has a process of that number, whosever it is."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def write_json_atomically(path: str | Path, content: Any) -> None:
    """Write one JSON document atomically: keys in the order given, indented, newline at the end.

    Raises ValueError for NaN and infinities (no JSON has them), before anything is written.
    """
    write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_partial_weights(directory: Path) -> None:
    """Delete what a kill left of safetensors' own temporary file, which has six random letters or digits."""
    for path in directory.glob(".tmp??????"):
        path.unlink(missing_ok=True)
