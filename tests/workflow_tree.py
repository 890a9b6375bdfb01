"""A folder in which the workflow runs as in a fresh clone, with a scale's file and SLURM partitions of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
_LINKED = ("Snakefile", "workflow", "profiles", "envs", "src", "results/published")
_COPIED = ("config", "slurm")


def workflow_tree(
    tree: Path, scale: str, changes: Mapping[str, Any], partitions: Mapping[str, str] | None = None
) -> Path:
    """Make ``tree``, whose scale ``scale`` has the keys of ``changes`` in the place of its own.

    ``partitions``: those of ``slurm/config.yaml`` (``cpu``, ``gpu``, ``internet``) that are called otherwise.
    """
    for name in (*_LINKED, *_COPIED):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if name in _LINKED:
            (tree / name).symlink_to(ROOT / name)
        else:
            shutil.copytree(ROOT / name, tree / name)
    file = tree / "config" / "scales" / f"{scale}.yaml"
    changed = {**yaml.safe_load(file.read_text(encoding="utf-8")), **changes}
    file.write_text(yaml.safe_dump(changed), encoding="utf-8")
    profile = tree / "slurm" / "config.yaml"
    lines = profile.read_text(encoding="utf-8").splitlines()
    for kind, name in (partitions or {}).items():
        [place] = [number for number, line in enumerate(lines) if line.startswith(f"  {kind}: ")]
        lines[place] = f"  {kind}: {name}"
    profile.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tree
