"""A full disk: a command on a small tmpfs whose size lets it fail at different places.

It must refuse in one line that names a path, leave nothing half-written, and finish once there is space, with the bytes
of an undisturbed call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import processes
from .outcomes import IMPOSSIBLE, LEFTOVER, REFUSED, SAME, STOPPED, UNCLEAR, Case, Outcome, judge
from .world import BESIDE, VERBS, World

KIND = "full-disk"
_ROOMY = "256m"
_PAGE = 4096
_TEMPORARY = re.compile(r"(^|/)\.[^/]*\.(tmp|partial)$")


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """For every command, sizes from no room at all to one page too few."""
    for verb in [*VERBS, *BESIDE]:
        if quick and verb not in ("draw-train", "train", "accept"):
            continue
        for tenths in (0, 6) if quick else (0, 5) if verb == "run" else range(10):
            yield Case(
                KIND, f"{verb}@{tenths}0%", lambda verb=verb, tenths=tenths: fill(world, verb, tenths / 10)
            )
        if not quick and verb != "run":
            yield Case(KIND, f"{verb}@last-page", lambda verb=verb: fill(world, verb, None))


def fill(world: World, verb: str, share: float | None) -> Outcome:
    """Run ``verb`` with room for ``share`` of what it writes (None: all but a page), then again with enough."""
    try:
        with small_disk(world.root) as home:
            shutil.copytree(world.state(verb), home, symlinks=True, dirs_exist_ok=True)
            before = used(home)
            room = max(0, needed(world, verb) - _PAGE) if share is None else int(needed(world, verb) * share)
            resize(home, str(max(before + room, before)))
            return filled(world, verb, home)
    except PermissionError as error:
        return IMPOSSIBLE, str(error)


def filled(world: World, verb: str, home: Path) -> Outcome:
    """What ``verb`` does on the full disk, and after that."""
    words = world.words(verb, home)
    ended = processes.run(home, words)
    outcome = judge(ended)
    if outcome is not None:
        if outcome[0] != REFUSED:
            return outcome
        if not re.search(r"\w[/.]\w", outcome[1].partition(":")[2]) or "Errno" in outcome[1].split(":")[1]:
            return UNCLEAR, f"names no path: {outcome[1]}"
        left = [str(path.relative_to(home)) for path in home.rglob("*") if _TEMPORARY.search(str(path))]
        if left:
            return LEFTOVER, f"{', '.join(left[:3])} after: {outcome[1]}"
    resize(home, _ROOMY)
    again = judge(processes.run(home, words))
    if again is not None:
        return (STOPPED if again[0] == REFUSED else again[0]), f"with space again: {again[1]}"
    found = world.compare(home, verb)
    return (REFUSED, outcome[1]) if found[0] == SAME and outcome else found


def needed(world: World, verb: str) -> int:
    """Bytes of pages that the files have which ``verb`` adds."""
    before, after = (
        sum(
            -(-path.stat().st_size // _PAGE) * _PAGE
            for path in world.state(verb, when).rglob("*")
            if path.is_file()
        )
        for when in ("before", "after")
    )
    return max(after - before, 4 * _PAGE)


@contextmanager
def small_disk(root: Path) -> Iterator[Path]:
    """A tmpfs, with much space at first. PermissionError where mounting is not allowed."""
    home = Path(tempfile.mkdtemp(prefix="disk-", dir=root))
    mount("-t", "tmpfs", "-o", f"size={_ROOMY}", "tmpfs", str(home))
    try:
        yield home
    finally:
        unmount(home)


def resize(home: Path, size: str) -> None:
    mount("-o", f"remount,size={size}", str(home))


def used(home: Path) -> int:
    found = os.statvfs(home)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def mount(*words: str) -> None:
    """PermissionError where this is not allowed."""
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError(f"mounting is not possible here: {error}") from None
    if done.returncode:
        raise PermissionError(f"mounting is not possible here: {done.stderr.strip()}")


def unmount(place: Path) -> None:
    """Unmount ``place``, whatever still uses it, and remove the folder."""
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
    place.rmdir()
