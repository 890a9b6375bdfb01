"""Commands of clipa in processes of their own, which can be killed or frozen at a chosen file event.

Importing torch takes longer than most attacks, so this process imports the package once and forks: every command is
a process with its own session, working directory and output, and dies by real signals.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LIMIT_SECONDS = 120.0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_TEXT = slice(8, 512)


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (minus the signal), what it said, and what it took."""

    code: int
    said: str
    seconds: float
    peak_mb: int
    timed_out: bool
    events: int
    event: str

    @property
    def error(self) -> str | None:
        """The one line that a refused command prints; None where there is none, or more than one."""
        lines = [line for line in self.said.splitlines() if line.startswith("clipa ")]
        return lines[0] if len(lines) == 1 else None


def preload() -> None:
    """Import what the commands import. Nothing is computed here: threads would not survive the fork."""
    import spacy
    import torch  # noqa: F401

    import clipa.accept
    import clipa.cli.planning
    import clipa.data.annotation
    import clipa.data.aro
    import clipa.data.drawing
    import clipa.data.negclip
    import clipa.data.resident
    import clipa.evaluate
    import clipa.law
    import clipa.standalone
    import clipa.train

    spacy.blank("en")
    with contextlib.suppress(ImportError):
        import clipa.cli.verify  # noqa: F401


class Watch:
    """Counts file events below a folder, and acts on the process at one of them.

    An event is a file opened for writing, renamed, removed or synced, or a folder made or removed, seen by an audit
    hook (fsync by a wrapper) *before* it happens. What a library writes without Python, as safetensors does, is not
    seen; the events before and after it are.
    """

    def __init__(self, root: Path, at: int | None = None, number: int = signal.SIGKILL) -> None:
        self.root, self.at, self.number = f"{root.resolve()}{os.sep}", at, number
        self.shared = mmap.mmap(-1, 512)

    def install(self) -> None:
        """In the process that is watched, from now on."""
        fsync = os.fsync

        def synced(descriptor: int) -> None:
            self._count("fsync")
            fsync(descriptor)

        os.fsync = synced
        sys.addaudithook(self._heard)

    def _heard(self, name: str, arguments: tuple) -> None:
        if name == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif name in _CHANGES:
            path = arguments[1] if name == "os.rename" else arguments[0]
        else:
            return
        with contextlib.suppress(TypeError):
            place = os.path.abspath(os.fsdecode(path))
            if place.startswith(self.root):
                self._count(f"{name.removeprefix('os.')} {place.removeprefix(self.root)}")

    def _count(self, what: str) -> None:
        count = int.from_bytes(self.shared[:8], "little") + 1
        self.shared[:8] = count.to_bytes(8, "little")
        if count == self.at:
            text = what.encode()[-500:]
            self.shared[_TEXT] = text.ljust(504, b"\0")
            os.kill(os.getpid(), self.number)

    @property
    def events(self) -> int:
        return int.from_bytes(self.shared[:8], "little")

    @property
    def event(self) -> str:
        return self.shared[_TEXT].rstrip(b"\0").decode("utf-8", "replace")


class Command:
    """A running command of clipa (or a function), in ``home``; ``memory_mb``: how much more it may allocate."""

    def __init__(
        self,
        home: Path,
        words: list[str] | Callable[[], int],
        watch: Watch | None = None,
        memory_mb: int | None = None,
    ) -> None:
        self.memory_mb = memory_mb
        self.watch, self.began, self.output = watch, time.monotonic(), tempfile.TemporaryFile()  # noqa: SIM115
        self.frozen = self.timed_out = False
        sys.stdout.flush()
        self.shared_mb = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
        self.pid = os.fork()
        if self.pid == 0:
            self._become(home, words)

    def _become(self, home: Path, words: list[str] | Callable[[], int]) -> None:
        code = 1
        try:
            os.setsid()
            os.chdir(home)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (1, 2):
                os.dup2(self.output.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            if self.memory_mb:
                limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (limit + (self.memory_mb << 20),) * 2)
            if self.watch:
                self.watch.install()
            if callable(words):
                code = words()
            else:
                from clipa.cli import main

                sys.argv = ["clipa", *words]
                code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code or 0)

    def wait(self, limit: float = LIMIT_SECONDS, until: Callable[[], bool] = lambda: False) -> Ended | None:
        """How it ended, within ``limit`` seconds: else all of its session is killed. None when it froze at its event,
        or when ``until()`` holds before it ends.
        """
        ends = time.monotonic() + limit
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                self.frozen = True
                return None
            if pid:
                break
            if time.monotonic() > ends:
                self.timed_out = True
                self._kill()
                ends = float("inf")
            elif until():
                return None
            time.sleep(0.005)
        self.output.seek(0)
        said = self.output.read().decode("utf-8", "replace").replace("\r", "\n")
        self.output.close()
        watch = self.watch
        return Ended(
            os.waitstatus_to_exitcode(status),
            said,
            time.monotonic() - self.began,
            (used.ru_maxrss >> 10) - self.shared_mb,
            self.timed_out,
            watch.events if watch else 0,
            watch.event if watch else "",
        )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and every process that it started, and wait for its end."""
        self._kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _kill(self) -> None:
        """All of its session, or only it where it has none yet."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.signal(signal.SIGKILL)


@contextlib.contextmanager
def running(
    home: Path,
    words: list[str] | Callable[[], int],
    watch: Watch | None = None,
    memory_mb: int | None = None,
) -> Iterator[Command]:
    """A running command that is not left behind."""
    command = Command(home, words, watch, memory_mb)
    try:
        yield command
    finally:
        command.kill()


def run(
    home: Path,
    words: list[str] | Callable[[], int],
    watch: Watch | None = None,
    limit: float = LIMIT_SECONDS,
    memory_mb: int | None = None,
) -> Ended:
    """Run a command to its end."""
    with running(home, words, watch, memory_mb) as command:
        ended = command.wait(limit)
        assert ended, "a command that is run to its end does not freeze"
        return ended
