"""One writer per directory, also after Snakemake was killed and started again.

Jobs of the first start may still be running as orphans when the second start submits the same jobs. The lock is held by
the process that writes, names that process, and ends with it: the kernel releases ``flock`` however the holder dies.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipa.files import naming

LOCK_NAME = ".lock"


def lock_holder(directory: Path) -> int | None:
    """Process id of the live process that holds the lock of ``directory``, or None."""
    try:
        with open(directory / LOCK_NAME, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0)
    except FileNotFoundError:
        pass
    return None


@contextmanager
def directory_lock(directory: Path, what: str, poll_seconds: float = 0.5) -> Iterator[bool]:
    """Hold the lock of ``directory`` (created if missing); wait, and say so, while another live process has it.

    Yields True if it had to wait: what the other process was making may be there now, so look before working.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Not through a symbolic link: the lock's content is overwritten.
    number = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(number, "r+b", buffering=0) as file:  # a buffer would fail once more when it is closed
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    pid = lock_holder(directory)
                    print(
                        f"{what}: process {pid} is already at work in {directory}; waiting for it "
                        f"(to end it instead: kill {pid})",
                        file=sys.stderr,
                        flush=True,
                    )
                waited = True
                time.sleep(poll_seconds)
        with naming(directory / LOCK_NAME):
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()).encode())
        yield waited
