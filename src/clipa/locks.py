"""One writer per directory, also after Snakemake was killed and started again.

Jobs of the first start may still be running as orphans when the second start submits the same jobs. The lock is held by
the process that writes, names that process and its host, and ends with it: the kernel releases ``flock`` however the
holder dies. On NFS the client asks the server for it, so it holds between hosts (where the disk is mounted with locks);
an exclusive lock needs a handle that may write there. Whether nodes of a cluster see each other's locks is what
``clipa preflight --profile`` looks at.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clipa.files import naming

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class LockError(RuntimeError):
    """The disk has no locks; one line."""


class Holder(NamedTuple):
    """The process that holds a lock. ``pid`` is 0 where it has not said which it is."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def ended_by(self) -> str:
        """The command that ends it."""
        kill = f"kill {self.pid}"
        return kill if self.host == socket.gethostname() else f"ssh {self.host} {kill}"


def lock_holder(directory: Path) -> Holder | None:
    """The live process that holds the lock of ``directory``, or None. Raises LockError where the disk has no locks."""
    try:
        number = _opened(directory / LOCK_NAME)
    except FileNotFoundError:
        return None
    with open(number, "rb") as file:
        return None if _taken(file.fileno(), directory) else _named(file.read(1000))


def _opened(path: Path) -> int:
    """A handle that may write, as NFS wants for an exclusive lock; else one that reads."""
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _taken(number: int, directory: Path) -> bool:
    """Take the lock; False where another process has it."""
    writes = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    try:
        fcntl.flock(number, (fcntl.LOCK_EX if writes else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise LockError(
            f"{directory}: this disk has no locks ({error.strerror}), so that two jobs might write the same files; "
            "mount it with flock (Lustre) or without nolock (NFS), or choose another directory"
        ) from None
    return True


def _named(content: bytes) -> Holder:
    pid, _, host = content.decode("utf-8", "replace").strip().partition(" ")
    return Holder(int(pid) if pid.isdecimal() else 0, host or socket.gethostname())


@contextmanager
def directory_lock(directory: Path, what: str, poll_seconds: float = 0.5) -> Iterator[bool]:
    """Hold the lock of ``directory`` (created if missing); wait, and say so, while another live process has it.

    Yields True if it had to wait: what the other process was making may be there now, so look before working. Raises
    LockError where the disk has no locks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Not through a symbolic link: the lock's content is overwritten.
    number = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(number, "r+b", buffering=0) as file:  # a buffer would fail once more when it is closed
        waited = False
        while not _taken(number, directory):
            if not waited and (holder := lock_holder(directory)):
                print(
                    f"{what}: {holder} is already at work in {directory}; waiting for it "
                    f"(to end it instead: {holder.ended_by})",
                    file=sys.stderr,
                    flush=True,
                )
                waited = True
            time.sleep(poll_seconds)
        with naming(directory / LOCK_NAME):
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} {socket.gethostname()}".encode())
        yield waited
