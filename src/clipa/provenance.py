"""Where a number comes from: code, packages, machine. No torch, no path, no host name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

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
_DECISIVE = ("src", "config", "workflow", "envs")
_SOURCE = Path(__file__).resolve().parent


def commit() -> tuple[str | None, bool | None]:
    """The commit of the code that runs (40 hex digits), and whether what decides numbers differs from it.

    That is code, configuration, workflow and locks; pictures drawn again do not make a measurement dirty.
    (None, None) where this file is not tracked by git (an installed package) or git is missing.
    """
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    head = _git("rev-parse", "--verify", "HEAD")
    changes = _git("status", "--porcelain", "--", *(f":(top){folder}" for folder in _DECISIVE))
    if head is None or changes is None:
        return None, None
    return head.strip(), bool(changes.strip())


def packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones of ``names``, without importing any."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **versions}


def hardware(accelerator: str | None = None) -> str:
    """Processor (and ``accelerator``'s name, if the caller used one), e.g. ``AMD EPYC 9654, 2 cores``."""
    parts = [_processor(), f"{len(os.sched_getaffinity(0))} cores"]
    return ", ".join([*parts, accelerator] if accelerator else parts)


def now() -> str:
    """The time in UTC, to the second: ``2023-05-11T09:30:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(accelerator: str | None = None) -> dict[str, Any]:
    """``commit``, ``dirty``, ``packages`` and ``hardware``: what stage.json and records share."""
    head, dirty = commit()
    return {"commit": head, "dirty": dirty, "packages": packages(), "hardware": hardware(accelerator)}


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
