"""Locks of directories: who holds one, on which host, and disks whose locks are NFS's or none."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clipa import locks
from clipa.locks import Holder, LockError, directory_lock, lock_holder

HOLD = """
import sys, time
from pathlib import Path
from clipa.locks import directory_lock
with directory_lock(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def holding(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_with_its_host_and_the_lock_ends_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holding(tmp_path)
    holder = lock_holder(tmp_path)
    assert holder == Holder(process.pid, socket.gethostname()) and holder.ended_by == f"kill {process.pid}"

    def end(_: float) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    monkeypatch.setattr(locks.time, "sleep", end)
    with directory_lock(tmp_path, "a second") as waited:
        assert waited and lock_holder(tmp_path) == Holder(os.getpid(), socket.gethostname())
    said = capsys.readouterr().err
    assert (
        f"a second: process {process.pid} on {socket.gethostname()} is already at work in {tmp_path}" in said
    )
    assert lock_holder(tmp_path) is None


def test_a_process_of_another_host_is_ended_there(tmp_path: Path) -> None:
    with directory_lock(tmp_path, "a test"):
        (tmp_path / ".lock").write_text("17 node7", encoding="utf-8")
        holder = lock_holder(tmp_path)
        assert str(holder) == "process 17 on node7" and holder.ended_by == "ssh node7 kill 17"
        for content in ("", "17", "\xff\x00 x", "-1 h"):
            (tmp_path / ".lock").write_bytes(content.encode("latin-1"))
            assert lock_holder(tmp_path).host


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client's flock: a byte-range lock, for which the handle must be allowed to write, or to read."""
    real = fcntl.flock

    def flock(number: int, operation: int) -> None:
        writes = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not writes:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(number, operation)

    monkeypatch.setattr(locks.fcntl, "flock", flock)


@pytest.mark.usefixtures("nfs")
@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_a_holder_is_found_on_nfs(tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a lock file that may not be written: another user's."""
    with directory_lock(tmp_path, "a test"):
        if mode == 0o444:
            real = os.open

            def unwritable(path, flags, *others):
                if flags & os.O_RDWR:
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return real(path, flags, *others)

            monkeypatch.setattr(locks.os, "open", unwritable)
        assert lock_holder(tmp_path) == Holder(os.getpid(), socket.gethostname())
    assert lock_holder(tmp_path) is None


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(number: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with (
        pytest.raises(
            LockError, match=r"this disk has no locks \(No locks available\), .*; mount it with flock"
        ),
        directory_lock(tmp_path, "a test"),
    ):
        pass
