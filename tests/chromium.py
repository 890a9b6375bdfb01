"""A page in Chromium, asked by a test's own script: one browser for many questions, without a driver.

It speaks the DevTools protocol over two pipes (`--remote-debugging-pipe`: JSON, messages end with a zero byte), in
real time: with virtual time a page could end before what it reads asynchronously is there.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--remote-debugging-pipe",
)
PATIENCE = 240  # seconds
LOGGED = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


@contextmanager
def browser(profile: Path) -> Iterator[Browser | None]:
    """Chromium, ended at the end; None without Chromium, outside of CI. `profile`: an empty folder."""
    command = shutil.which("chromium") or shutil.which("chromium-browser")
    if command is None and os.environ.get("CI"):
        pytest.fail("chromium is not installed: apt-get install chromium (pages are tested in it)")
    if command is None:
        print("no chromium here: the page was not looked at in a browser")
        yield None
        return
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Chromium reads from its file 3 and writes to its file 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", command, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_in, ours_out)
    finally:
        os.close(ours_out)  # it ends when its commands do
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)


class Browser:
    """What tests ask of it. A script is the body of an asynchronous function; what it throws fails the test."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._number, self._unread, self._events = 0, b"", []

    def ask(
        self,
        page: Path,
        script: str,
        address: str = "",
        width: int = 1400,
        picture: Path | None = None,
        dark: bool = False,
    ) -> Any:
        """What `script` returns (by way of JSON) in a new tab with this page, once it is loaded; `address`: ?… or #…

        `picture`: where a PNG of the window is kept after that; `dark`: as a reader who prefers dark pages sees it. A
        line on the page's console fails the test.
        """
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        window = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", session, **window)
        if dark:
            preferred = [{"name": "prefers-color-scheme", "value": "dark"}]
            self._call("Emulation.setEmulatedMedia", session, features=preferred)
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable", session)
        self._call("Page.navigate", session, url=page.as_uri() + address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())
        answer = self._call(
            "Runtime.evaluate",
            session,
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]["exception"].get("description")
        logged = [event for event in self._events if event.get("method") in LOGGED]
        self._events.clear()
        assert not logged, logged
        if picture is not None:
            picture.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", session)["data"]))
        self._call("Target.closeTarget", targetId=target)
        return answer["result"].get("value")

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        left = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while left:
            left = left[os.write(self._write, left) :]
        while (answer := self._next()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            assert select.select([self._read], [], [], max(0, end - time.monotonic()))[0], (
                "no answer of Chromium"
            )
            piece = os.read(self._read, 1 << 20)
            assert piece, "Chromium has ended"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)
