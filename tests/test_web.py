"""Downloads from servers on this machine that change, lie, break off, or never answer; and a hub of their own."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipa.cli import main
from clipa.data import web
from clipa.data.web import download, fetch
from clipa.downloads import DownloadError, Downloads, load_downloads
from loopback import served

CONTENT = bytes(range(256)) * 40
OTHER = bytes(reversed(CONTENT))


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Server:
    """Serves ``content`` with its ETag, and ranges of it; the other fields are its faults."""

    def __init__(self) -> None:
        self.content, self.tagged, self.conditional = CONTENT, True, True
        self.short = 0  # bytes that are announced and not sent, once
        self.extra = b""  # sent beyond what is announced
        self.announced: str | None = None  # in place of the truth
        self.sized = True
        self.delay = 0.0  # seconds between pieces of 1024 bytes
        self.silent = False
        self.location: str | None = None
        self.asked: list[tuple[str | None, str | None]] = []

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked, condition = request.headers["Range"], request.headers["If-Range"]
        self.asked.append((asked, condition))
        if self.silent:
            time.sleep(3)
            return
        if self.location and request.path == "/moved":
            request.send_response(302)
            request.send_header("Location", self.location)
            request.end_headers()
            return
        if request.path == "/missing":
            request.send_error(404)
            return
        tag = f'"{hashlib.md5(self.content).hexdigest()}"'
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if self.conditional and condition != tag:
            start = 0
        if start >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.tagged:
            request.send_header("ETag", tag)
        if self.sized:
            request.send_header("Content-Length", self.announced or str(len(self.content) - start))
        request.end_headers()
        self._send(request, self.content[start : len(self.content) - self.short] + self.extra)

    def _send(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        self.short = 0
        try:
            for first in range(0, len(body), 1024):
                request.wfile.write(body[first : first + 1024])
                time.sleep(self.delay)
        except OSError:  # the client was killed, or has seen enough
            pass


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    behaviour = Server()
    with served(behaviour.answer) as address:
        yield behaviour, f"{address}/val2014.zip"


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def refusal(*arguments: object) -> str:
    with pytest.raises(DownloadError) as raised:
        fetch(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ------------------------------------------------------------------------------------------------- single files


def test_a_download_goes_on_where_it_was(server, tmp_path):
    behaviour, url = server
    path = tmp_path / "aro" / "val2014.zip"
    behaviour.short = 1000
    assert "the connection ended after 9240 of 10240 bytes); try again" in refusal(url, path)
    assert not path.exists()
    assert fetch(url, path, sha256(CONTENT), len(CONTENT)).read_bytes() == CONTENT
    tag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert behaviour.asked == [(None, None), ("bytes=9240-", tag)]
    fetch(url, path)
    assert len(behaviour.asked) == 2 and left(path.parent) == ["val2014.zip"]


@pytest.mark.parametrize("conditional", [True, False], ids=["If-Range obeyed", "If-Range ignored"])
def test_a_file_that_changed_meanwhile_is_not_glued_together(server, tmp_path, conditional):
    behaviour, url = server
    behaviour.short, behaviour.conditional = 1000, conditional
    refusal(url, tmp_path / "x")
    behaviour.content = OTHER
    assert fetch(url, tmp_path / "x").read_bytes() == OTHER
    assert left(tmp_path) == ["x"]


def test_without_an_etag_nothing_is_resumed(server, tmp_path):
    behaviour, url = server
    behaviour.short, behaviour.tagged = 1000, False
    refusal(url, tmp_path / "x")
    behaviour.content = OTHER
    assert fetch(url, tmp_path / "x").read_bytes() == OTHER
    assert behaviour.asked == [(None, None)] * 2


def test_a_download_that_was_whole_but_not_named_yet_is_done_again(server, tmp_path):
    behaviour, url = server
    (tmp_path / "x.partial").write_bytes(CONTENT)
    (tmp_path / "x.partial.etag").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT
    assert [asked for asked, _ in behaviour.asked] == ["bytes=10240-", None]


def test_killed_midway_it_goes_on(server, tmp_path):
    behaviour, url = server
    behaviour.content, behaviour.delay = CONTENT * 300, 0.002
    program = f"from clipa.data.web import fetch; fetch({url!r}, {str(tmp_path / 'x')!r})"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (tmp_path / "x.partial").exists() and (tmp_path / "x.partial").stat().st_size:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    got = (tmp_path / "x.partial").stat().st_size
    assert 0 < got < len(behaviour.content) and not (tmp_path / "x").exists()
    behaviour.delay = 0
    assert fetch(url, tmp_path / "x").read_bytes() == behaviour.content
    assert behaviour.asked[-1][0] == f"bytes={got}-" and left(tmp_path) == ["x"]


def test_other_bytes_than_pinned_are_refused_and_deleted(server, tmp_path):
    _, url = server
    said = refusal(url, tmp_path / "x", sha256(OTHER))
    assert sha256(CONTENT) in said and sha256(OTHER) in said and left(tmp_path) == []
    (tmp_path / "x").write_bytes(CONTENT)  # and so is an earlier download
    assert f"{tmp_path / 'x'}: {sha256(CONTENT)}, expected" in refusal(url, tmp_path / "x", sha256(OTHER))
    assert fetch(url, tmp_path / "y", f"md5:{hashlib.md5(CONTENT).hexdigest()}").read_bytes() == CONTENT


def test_a_server_that_lies_about_the_size(server, tmp_path):
    behaviour, url = server
    assert "announces 10240 bytes, config/downloads.yaml says 9" in refusal(url, tmp_path / "x", None, 9)
    assert left(tmp_path) == ["x.partial.etag"]
    behaviour.announced = "1000"  # and sends more: never written
    assert fetch(url, tmp_path / "x").stat().st_size == 1000
    behaviour.announced = "99999999999999999"
    assert "GB are free; make space" in refusal(url, tmp_path / "y")
    behaviour.announced = "-7"
    assert "does not say how large it is" in refusal(url, tmp_path / "y")


def test_an_endless_answer_is_not_written(server, tmp_path):
    behaviour, url = server
    behaviour.sized = False
    assert "does not say how large it is" in refusal(url, tmp_path / "x")
    behaviour.extra = CONTENT
    assert "more than the 10240 bytes" in refusal(url, tmp_path / "x", None, len(CONTENT))
    assert sum(path.stat().st_size for path in tmp_path.glob("x*")) <= len(CONTENT) + 100
    behaviour.extra = b""
    assert fetch(url, tmp_path / "x", None, len(CONTENT)).read_bytes() == CONTENT


def test_a_server_that_never_answers(server, tmp_path, monkeypatch):
    behaviour, url = server
    behaviour.silent = True
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.3)
    started = time.monotonic()
    assert "timed out" in refusal(url, tmp_path / "x")
    assert time.monotonic() - started < 3


def test_a_download_that_is_refused_is_one_line(server, tmp_path):
    behaviour, url = server
    assert "/missing: not downloaded (HTTP Error 404" in refusal(
        url.replace("val2014.zip", "missing"), tmp_path / "x"
    )
    assert "refused" in refusal("http://127.0.0.1:9/x.json", tmp_path / "x.json")
    for address in ("http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"):
        assert f"{address}: not an https address" in refusal(address, tmp_path / "x")
        behaviour.location = address
        assert "not" in refusal(url.replace("val2014.zip", "moved"), tmp_path / "x")
    assert left(tmp_path) == []


# -------------------------------------------------------------------------------------------------- what is pinned


def test_what_is_not_pinned_is_refused(server, tmp_path, capsys):
    _, url = server
    one = load_downloads().files["val2014.zip"].model_copy(update={"url": url, "digest": None, "bytes": None})
    known = Downloads.model_construct(files={"val2014.zip": one}, repositories={})
    with pytest.raises(DownloadError, match=r"files\.val2014\.zip\.digest is null.*--unpinned"):
        download("val2014.zip", tmp_path, known)
    assert left(tmp_path) == []
    assert download("val2014.zip", tmp_path, known, unpinned=True).read_bytes() == CONTENT
    assert sha256(CONTENT) in capsys.readouterr().out
    with pytest.raises(DownloadError, match=r"has no 'val2015\.zip' \(did you mean val2014\.zip\?\)"):
        download("val2015.zip", tmp_path, known)


def test_the_verb_names_file_and_key(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["download", "laion/relaion400m", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "config/downloads.yaml: repositories.laion/relaion400m.revision is null: paste the commit" in said
    assert said.count("\n") == 1 and left(tmp_path) == []


REVISION, FILES = "a" * 40, {"test/0.tar": CONTENT, "classnames.txt": b"tench\n", "model.bin": b"pickle"}


def hub(request: http.server.BaseHTTPRequestHandler) -> None:
    """Just enough of the Hugging Face hub for one data set at one commit; ``REVISION[::-1]`` has other bytes."""
    path = request.path.partition("?")[0]
    root, body, headers = "/api/datasets/some/set", b"", {"X-Repo-Commit": REVISION}
    if path == f"{root}/revision/{REVISION}" or path == root:
        files = [{"rfilename": name} for name in FILES]
        body = json.dumps({"id": "some/set", "sha": REVISION, "siblings": files}).encode()
    elif path == f"{root}/tree/{REVISION}":
        tree = [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            }
            for name, content in FILES.items()
        ]
        body = json.dumps(tree).encode()
    elif (name := path.removeprefix(f"/datasets/some/set/resolve/{REVISION}/")) in FILES:
        body = FILES[name]
        headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        if hub.flipped:
            body = bytes([body[0] ^ 1]) + body[1:]
    else:
        request.send_error(404)
        return
    request.send_response(200)
    for key, value in (headers | {"Content-Length": str(len(body))}).items():
        request.send_header(key, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


@pytest.fixture
def known(monkeypatch) -> Iterator[Downloads]:
    hub.flipped = False
    with served(hub) as address:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # `make test` sets it
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        values = {"kind": "dataset", "revision": REVISION, "files": ["test/*", "*.txt"]}
        yield Downloads.model_validate({"files": {}, "repositories": {"some/set": values}, "test_sets": {}})


def test_a_repository_is_taken_at_its_commit(known, tmp_path):
    assert download("some/set", tmp_path / "set", known) == tmp_path / "set"
    found = {
        str(path.relative_to(tmp_path / "set")): path.read_bytes()
        for path in (tmp_path / "set").rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }
    assert found == {name: FILES[name] for name in ("test/0.tar", "classnames.txt")}


def test_a_repository_with_other_bytes_or_commit_is_refused(known, tmp_path):
    hub.flipped = True
    with pytest.raises(DownloadError, match=r"git-sha1 is [0-9a-f]{40}, some/set at a{40} has [0-9a-f]{40}"):
        download("some/set", tmp_path / "set", known)
    one = known.repositories["some/set"].model_copy(update={"revision": "b" * 40})
    other = known.model_copy(update={"repositories": {"some/set": one}})
    with pytest.raises(DownloadError, match="some/set: not downloaded") as raised:
        download("some/set", tmp_path / "other", other)
    assert "\n" not in str(raised.value)


def test_a_repository_without_a_commit_is_refused(known, tmp_path, capsys):
    one = known.repositories["some/set"].model_copy(update={"revision": None})
    known = known.model_copy(update={"repositories": {"some/set": one}})
    with pytest.raises(DownloadError, match=r"huggingface\.co/datasets/some/set/commits/main"):
        download("some/set", tmp_path, known)
    download("some/set", tmp_path, known, unpinned=True)
    assert f"repositories.some/set.revision: {REVISION}" in capsys.readouterr().out
