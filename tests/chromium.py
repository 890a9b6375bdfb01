"""Pages as Chromium has them after their scripts have run."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path

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
)


def program() -> str | None:
    """Chromium; None where there is none, outside of CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and os.environ.get("CI"):
        pytest.fail("chromium is not installed: apt-get install chromium (the pages are tested in it)")
    if found is None:
        print("no chromium here: the page was not looked at in a browser")
    return found


def scripted(page: Path, script: str, name: str = "scripted.html") -> Path:
    """A copy of the page beside it with a script of the test at its end."""
    before, end, after = page.read_text(encoding="utf-8").rpartition("</body>")
    copy = page.with_name(name)
    copy.write_text(f"{before}<script>{script}</script>{end}{after}", encoding="utf-8")
    return copy


def document(address: str, profile: Path, *flags: str, milliseconds: int = 5000) -> tuple[str, str] | None:
    """The document after its scripts have run for so long (of virtual time), and what the browser logged."""
    chromium = program()
    if chromium is None:
        return None
    done = subprocess.run(
        [
            chromium,
            *FLAGS,
            f"--user-data-dir={profile}",
            *flags,
            f"--virtual-time-budget={milliseconds}",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removeprefix("<!DOCTYPE html>"), done.stderr


def said(document: str, name: str) -> str:
    """What a script left in `document.body.dataset`."""
    found = re.search(rf'<body[^>]*? data-{name}="([^"]*)"', document)
    assert found, f"the script did not come to its end: no data-{name}"
    return html.unescape(found[1])
