"""Power loss: an ext4 file system on a loop device, and a copy of the device while a command works.

The command is frozen before one of its file events, or has just ended; the device is copied as it is then, without what
only the page cache has. The copy is mounted, which replays the journal, and looked at: where a stage.json says that a
stage is finished, its model must be whole; and the command, started again there, must end with the bytes of an
undisturbed one.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import processes
from .disks import mount, unmount
from .kills import again, spread
from .outcomes import DIFFERENT, IMPOSSIBLE, UNCLEAR, Case, Outcome
from .world import VERBS, World, contents

KIND = "power-loss"
_SIZE = "96M"
_OPTIONS = "loop,commit=300"
"""The journal is written when a program asks for it, not by the clock: this is the harder case."""


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """For every command that writes, some of its file events, and its end."""
    for verb in [*VERBS, "annotate-gold", "train-released"]:
        if quick and verb != "train":
            continue
        with world.copy(verb) as home:
            watch = processes.Watch(home)
            processes.run(home, world.words(verb, home), watch)
        if not quick:
            for event in spread(list(range(1, watch.events + 1)), 24 if verb in ("train", "finetune") else 6):
                yield Case(KIND, f"{verb}@{event}", lambda verb=verb, event=event: lose(world, verb, event))
        yield Case(KIND, f"{verb}@end", lambda verb=verb: lose(world, verb, None))


def lose(world: World, verb: str, event: int | None) -> Outcome:
    """Lose power before file event number ``event`` of ``verb``, or (None) right after its end."""
    folder = Path(tempfile.mkdtemp(prefix="power-", dir=world.root))
    disk, copy = folder / "disk.img", folder / "copy.img"
    try:
        with disk_of(disk, folder / "disk", new=True) as home:
            shutil.copytree(world.state(verb), home, symlinks=True, dirs_exist_ok=True)
            subprocess.run(["sync", "-f", str(home)], check=True)
            watch = processes.Watch(home, event, signal.SIGSTOP)
            with processes.running(home, world.words(verb, home), watch) as command:
                ended = command.wait()
                if (event is None) != (ended is not None):
                    return UNCLEAR, "it did not come to this event"
                how = f"power lost before {watch.event}" if event else "power lost after its end"
                subprocess.run(["cp", "--sparse=always", str(disk), str(copy)], check=True)
        with disk_of(copy, folder / "copy") as home:
            return recovered(world, verb, home, how)
    except PermissionError as error:
        return IMPOSSIBLE, str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recovered(world: World, verb: str, home: Path, how: str) -> Outcome:
    """Look at the disk after the power loss, and start ``verb`` again."""
    found, wanted = contents(home), contents(world.state(verb, "after"))
    for path in [path for path in found if path.endswith("/stage.json")]:
        folder = path.removesuffix("stage.json") + "open_clip/"
        wrong = [name for name in wanted if name.startswith(folder) and found.get(name) != wanted[name]]
        if wrong:
            return DIFFERENT, f"{how}: stage.json is there, and {wrong[0]} is not whole"
    return again(world, verb, home, world.words(verb, home), how)


@contextmanager
def disk_of(image: Path, place: Path, new: bool = False) -> Iterator[Path]:
    """The file system in the file ``image``, mounted. PermissionError where that is not allowed."""
    place.mkdir()
    if new:
        subprocess.run(["truncate", "-s", _SIZE, str(image)], check=True)
        made = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, text=True, check=False)
        if made.returncode:
            raise PermissionError(f"mkfs.ext4 is not possible here: {made.stderr.strip()}")
    mount("-o", _OPTIONS, str(image), str(place))
    try:
        yield place
    finally:
        unmount(place)
