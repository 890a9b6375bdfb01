"""Downloading shards: the network goes away and comes back, jobs are cut off, servers send without end. img2dataset
itself is not in the test environment; what stands for it here writes the files that it writes (benchmarks/downloads.py
runs the real one).
"""

import http.server
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipa.data import bounded, fetching
from clipa.data.download import index_training
from clipa.data.fetching import Target, fetch_images
from clipa.downloads import DownloadError
from clipa.links import Download, Links
from test_download import shard

REFUSED = "<urlopen error [Errno 111] Connection refused>"
GONE = "HTTP Error 404: Not Found"
LINKS, IMAGES = 40, 30


class Web(http.server.BaseHTTPRequestHandler):
    """What a link does is its path."""

    def do_GET(self) -> None:
        self.server.asked += 1
        kind = self.path.strip("/")
        try:
            if kind == "headers":
                self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                for number in range(1000):
                    self.wfile.write(b"X-%d: y\r\n" % number)
                    time.sleep(0.05)
            self.send_response(302 if kind == "file" else 200)
            if kind == "file":
                self.send_header("Location", "file:///etc/hostname")
            if kind == "cut":
                self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"picture")
            while kind in ("endless", "drip"):
                self.wfile.write(bytes(65536) if kind == "endless" else b"x")
                time.sleep(0 if kind == "endless" else 0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.daemon_threads, server.asked = True, 0
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SECONDS", 0.6)
    monkeypatch.setattr(bounded, "BYTES", 1 << 20)
    monkeypatch.setattr(urllib.request, "_opener", None)
    bounded.install()


def read(web: http.server.ThreadingHTTPServer, kind: str) -> bytes:
    """As img2dataset reads a link."""
    with urllib.request.urlopen(f"http://127.0.0.1:{web.server_port}/{kind}", timeout=10) as answer:
        return answer.read()


@pytest.mark.usefixtures("opener")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("endless", "the answer has more than 1048576 bytes"),
        ("drip", "the answer took more than 1 s|timed out"),
        ("headers", "the answer took more than 1 s|timed out"),
        ("cut", "IncompleteRead"),
        ("file", "Redirection to url 'file:///etc/hostname' is not allowed"),
    ],
)
def test_an_answer_has_so_many_bytes_and_seconds(web, kind: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        read(web, kind)


@pytest.mark.usefixtures("opener")
def test_a_picture_is_read_and_nothing_but_http_is_opened(web, tmp_path: Path) -> None:
    assert read(web, "picture") == b"picture"
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    for link in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x", "data:,x", "gopher://x"):
        with pytest.raises(OSError, match="unknown url type"):
            urllib.request.urlopen(link, timeout=1)


# ------------------------------------------------------------------------------------------------------------ shards


class Internet:
    """Whether links answer. ``fetched``: the shards that were asked for; after so many it goes away."""

    def __init__(self) -> None:
        self.fetched: list[int] = []
        self.goes_after: int | None = None
        self.fails: dict[int, Exception] = {}

    @property
    def there(self) -> bool:
        return self.goes_after is None or len(self.fetched) <= self.goes_after


class Downloader:
    """Leaves in its folder what img2dataset's leaves."""

    def __init__(self, internet: Internet, target: Target, folder: Path) -> None:
        self.internet, self.target, self.folder = internet, target, folder

    def download_shard(self, row: tuple[int, str]) -> None:
        number, _ = row
        self.internet.fetched.append(number)
        if number in self.internet.fails:
            raise self.internet.fails.pop(number)
        images = IMAGES if self.internet.there else 0
        tar = self.target.tar(number, self.folder)
        shard(tar, images, ("jpg", "txt", "json"))
        tar.with_suffix(".parquet").write_bytes(b"rows")
        kinds = {"success": images, GONE: LINKS - IMAGES, REFUSED: IMAGES - images}
        statistics = {"count": LINKS, "successes": images, "status_dict": kinds}
        tar.with_name(f"{tar.stem}_stats.json").write_text(json.dumps(statistics), encoding="utf-8")


LIST = Links(Download(repository="laion/x", images_per_shard=LINKS), "links.jsonl")


@pytest.fixture
def internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Internet:
    """A list of twelve shards, and an internet that is there."""
    (tmp_path / "links.jsonl").write_text("{}\n" * (12 * LINKS - 5), encoding="utf-8")
    found = Internet()
    monkeypatch.setattr(fetching, "_slice", lambda *_: None)
    monkeypatch.setattr(fetching, "_downloader", lambda *asked: Downloader(found, *asked))
    return found


def images(directory: Path) -> list[int]:
    paths = sorted((directory / "train").glob("*_stats.json"))
    return [json.loads(path.read_text(encoding="utf-8"))["successes"] for path in paths]


def test_jobs_of_three_ranges_make_one_set(internet: Internet, tmp_path: Path) -> None:
    for part in range(3):
        came = fetch_images(tmp_path, LIST, 12, range(4 * part, 4 * part + 4))
        assert (came["shards"], came["links"], came["images"]) == (4, 4 * LINKS, 4 * IMAGES)
    assert internet.fetched == list(range(12)) and images(tmp_path) == [IMAGES] * 12
    assert (
        json.loads(index_training(tmp_path / "train", 1, 12, 0.7).read_text())["shards"][11]["samples"] == 30
    )
    fetch_images(tmp_path, LIST, 12)
    assert len(internet.fetched) == 12, "what is there is not fetched again"
    left = [path for path in (tmp_path / "train" / ".fetching").rglob("*") if path.is_file()]
    assert {path.name for path in left} == {".lock"}


def test_an_outage_is_waited_for_and_its_shards_fetched_again(
    internet: Internet,
    web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Down after four shards. Nothing is fetched while links do not answer; then all that the outage took."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
    probes = [[dead] * 4, [f"http://127.0.0.1:{web.server_port}/picture"] * 4]
    monkeypatch.setattr(fetching, "_probes", lambda *_: (probes[0], 0.5))
    internet.goes_after = 4

    def pause(seconds: float) -> None:
        assert len(internet.fetched) <= 4 + 3, "nothing is fetched that cannot come"
        probes.pop(0)
        internet.goes_after = None
        monkeypatch.setattr(fetching, "_probes", lambda *_: (probes[0], 0.5))

    asked: list[str] = []
    real = fetching._answers
    monkeypatch.setattr(fetching, "_answers", lambda url: asked.append(url) or real(probes[0][0]))
    monkeypatch.setattr(fetching.time, "sleep", pause)
    fetch_images(tmp_path, LIST, 12)
    assert images(tmp_path) == [IMAGES] * 12 and web.asked == 4
    assert "the network is down (0 of 4 links answer); next look in 5 s" in capsys.readouterr().out
    fetches = json.loads((tmp_path / "train/00004_stats.json").read_text(encoding="utf-8"))["fetches"]
    assert fetches == 2


def test_a_network_that_stays_away_ends_the_job(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    internet.goes_after = 0
    monkeypatch.setattr(fetching, "_probes", lambda *_: (["http://127.0.0.1:9/x"], 0.5))
    with pytest.raises(DownloadError, match="0 of 1 links that should answer do: has this node a way"):
        fetch_images(tmp_path, LIST, 12, patience=0)
    internet.goes_after = None
    monkeypatch.setattr(fetching, "_await_network", lambda *_: None)
    fetch_images(tmp_path, LIST, 12)
    assert images(tmp_path) == [IMAGES] * 12


def test_a_job_that_was_cut_off_goes_on(internet: Internet, tmp_path: Path) -> None:
    internet.fails[5] = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        fetch_images(tmp_path, LIST, 12)
    (tmp_path / "train/00002_stats.json").unlink()  # killed while it was put into its place
    fetch_images(tmp_path, LIST, 12)
    assert internet.fetched == [*range(6), 2, *range(5, 12)] and images(tmp_path) == [IMAGES] * 12


def test_of_two_fetches_the_better_stays(internet: Internet, tmp_path: Path) -> None:
    fetch_images(tmp_path, LIST, 12, range(1))
    target = Target(tmp_path / "train", tmp_path / "work", LIST, 12, 1)
    before = target.tar(0).read_bytes()
    internet.goes_after = 0
    target.work.mkdir()
    fetching._fetch_shard(target, 0, 2)
    statistics = json.loads((tmp_path / "train/00000_stats.json").read_text(encoding="utf-8"))
    assert target.tar(0).read_bytes() == before
    assert (statistics["successes"], statistics["fetches"]) == (IMAGES, 2)


def test_images_that_were_not_written_are_noticed(
    internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """img2dataset counts an image, and goes on when writing it fails."""
    real = Downloader.download_shard

    def forgetful(self, row) -> None:
        real(self, row)
        shard(self.target.tar(row[0], self.folder), IMAGES - 1, ("jpg", "txt", "json"))

    monkeypatch.setattr(Downloader, "download_shard", forgetful)
    with pytest.raises(DownloadError, match=r"00000\.tar: 29 of 30 images were written"):
        fetch_images(tmp_path, LIST, 12)
    assert not list((tmp_path / "train").glob("*.tar"))


def test_another_list_is_refused(internet: Internet, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"475 links are 12 shards of 40; .* says shards: 11; write 12 there"
    ):
        fetch_images(tmp_path, LIST, 11)
    fetch_images(tmp_path, LIST, 12, range(1))
    (tmp_path / "links.jsonl").write_text("{}\n" * (12 * LINKS), encoding="utf-8")
    with pytest.raises(DownloadError, match=r"listed\.json: shards there are of another list"):
        fetch_images(tmp_path, LIST, 12)
