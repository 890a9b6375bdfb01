"""Where a number comes from: code, packages, machine. No torch, no path, no host name."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from clipa.files import SHA256

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "clip-benchmark",
    "numpy",
    "pillow",
    "tokenizers",
    "webdataset",
    "spacy",
    "safetensors",
)
STAMP = ".source.json"
IMAGE_DIGEST = SHA256.replace("^", "^sha256:")
CONTAINER = {"CLIPA_CONTAINER_IMAGE": ("image", IMAGE_DIGEST), "CLIPA_CONTAINER_LOCK": ("lock", SHA256)}
"""Environment variables that tell which container this is, with the names of what they tell. An image cannot hold its
own digest, so who starts it passes that; envs/Containerfile sets the lock's."""
_DECISIVE = ("src", "config", "workflow", "envs")
_SOURCE = Path(__file__).resolve().parent
READING = {
    *(
        "accept",
        "cli",
        "demo",
        "estimate",
        "evaluate",
        "export",
        "fits",
        "law",
        "memory",
        "plan",
        "protocols",
        "published",
        "recipes",
        "records",
        "released",
    ),
    *("render", "schema", "schemas", "stages", "standalone", "stats"),
}
"""Modules and folders of the package that no training runs: an edit there does not make other code of it. What stages
and recipes decide is in a stage's content."""


def commit() -> tuple[str | None, bool | None]:
    """The commit of the code that runs (40 hex digits), and whether what decides numbers differs from it.

    That is code, configuration, workflow and locks; figures drawn again do not make a measurement dirty.
    Where git does not know this file (a copy, an installed package, no git), what :func:`write_stamp` left beside the
    sources speaks; (None, None) without it.
    """
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return _stamped()
    head = _git("rev-parse", "--verify", "HEAD")
    changes = _git("status", "--porcelain", "--", *(f":(top){folder}" for folder in _DECISIVE))
    if head is None or changes is None:
        return None, None
    return head.strip(), bool(changes.strip())


def code(*also: str) -> str:
    """Digest (12 hex digits) of the package's files that a training runs, and ``also`` these of READING, uncommitted
    edits included.

    Known also without git. A commit that changes nothing of them leaves it as it is. A few milliseconds.
    """
    digest = hashlib.sha256()
    for path in sorted(_SOURCE.rglob("*")):
        name = path.relative_to(_SOURCE)
        if path.suffix in (".py", ".json") and name.parts[0].removesuffix(".py") not in READING.difference(
            also
        ):
            digest.update(f"{name.as_posix()} {_git_digest(path)}\n".encode())
    return digest.hexdigest()[:12]


def write_stamp() -> Path:
    """Write ``.source.json``: the commit, and git's digest of every file in it that decides numbers. Returns its path.

    For a machine that gets the sources without git's folder: there it tells which commit ran, and whether a file
    differs from it. Raises ValueError where git does not know the sources.
    """
    head, listed = (
        _git("rev-parse", "--verify", "HEAD"),
        _git("ls-tree", "-r", "--full-tree", "HEAD", *_DECISIVE),
    )
    if head is None or listed is None:
        raise ValueError("the sources are no git checkout: there is no commit to stamp them with")
    entries = (line.partition("\t") for line in listed.splitlines())
    files = {name: entry.split()[2] for entry, _, name in entries}
    path = _root() / STAMP
    path.write_text(json.dumps({"commit": head.strip(), "files": files}, indent=1) + "\n", encoding="utf-8")
    return path


def _stamped() -> tuple[str | None, bool | None]:
    try:
        stamp = json.loads((_root() / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, None
    found = {
        path.relative_to(_root()).as_posix(): path
        for folder in _DECISIVE
        for path in (_root() / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in path.parent.name
    }
    same = found.keys() == stamp["files"].keys() and all(
        _git_digest(path) == stamp["files"][name] for name, path in found.items()
    )
    return stamp["commit"], not same


def _git_digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _root() -> Path:
    return _SOURCE.parents[1]


def packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones of ``names``, without importing any."""
    versions = {name: version for name in names if (version := _version(name)) is not None}
    return {"python": platform.python_version(), **versions}


@cache
def _version(name: str) -> str | None:
    """Kept for the process, which cannot exchange what it has imported; reading it takes some milliseconds."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """How many cores this process may use; systems that cannot bind a process to some give it all."""
    bound = getattr(os, "sched_getaffinity", None)
    return len(bound(0)) if bound else os.cpu_count() or 1


def hardware(accelerator: str | None = None) -> str:
    """Processor (and ``accelerator``'s name, if the caller used one), e.g. ``AMD EPYC 9654, 2 cores``."""
    parts = [_processor(), f"{cores()} cores"]
    return ", ".join([*parts, accelerator] if accelerator else parts)


def container() -> dict[str, str]:
    """Digests of the container around this process, ``image`` and ``lock``, as CONTAINER's variables tell them.

    Empty outside of one. Raises ValueError, in one line, for a value that is no such digest.
    """
    found = {}
    for variable, (name, pattern) in CONTAINER.items():
        told = os.environ.get(variable)
        if told and not re.fullmatch(pattern, told):
            raise ValueError(
                f"the environment variable {variable} is {told[:100]!r}: expected {pattern[1:-1]}, "
                "or unset it (docs/environments.md)"
            )
        if told:
            found[name] = told
    return found


def now() -> str:
    """The time in UTC, to the second: ``2023-05-11T09:30:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(accelerator: str | None = None) -> dict[str, Any]:
    """``commit``, ``dirty``, ``packages``, ``hardware``, and in a container ``container``: what stage.json and records
    share. Raises ValueError for a container's malformed digest."""
    head, dirty = commit()
    described = {"commit": head, "dirty": dirty, "packages": packages(), "hardware": hardware(accelerator)}
    inside = container()
    return described | ({"container": inside} if inside else {})


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_SOURCE, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _processor() -> str:
    try:
        listing = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", listing, re.MULTILINE)
    # Some names hold a slash or "@ 2.5GHz"; a record must not look like holding a path.
    return re.sub(r"\s+", " ", match[1].replace("/", " ")).strip() if match else platform.machine()
