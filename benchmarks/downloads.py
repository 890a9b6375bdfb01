"""A download from a server that misbehaves, goes down in the middle, while a job is killed: what arrives, by shard.

    .venv-data/bin/python benchmarks/downloads.py              # minutes on two cores; needs .venv, too
    .venv-data/bin/python benchmarks/downloads.py --command    # img2dataset's own command, to compare
    .venv-data/bin/python benchmarks/downloads.py --ray        # on a Ray cluster of this machine (docs/data.md)

The list has 12 shards of 400 links on this machine's loopback. Of each hundred 75 give an image (three by a redirect);
8 answer 404, 3 403, 2 nothing, 2 a part of what they announce, 3 a page of HTML, 1 an image of 12,000 × 12,000 pixels,
1 an endless body, 1 a byte a second, 2 redirect in a circle, 1 answers 503 and 1 redirects to a file of this machine.
Three jobs of four shards each run at once (`clipa data fetch`). When five shards are there, the server is killed for a
while and one job with it; the job is started again. Then `clipa index`, `clipa vocabulary` and `clipa data report`. The
images must be those of an undisturbed run, each once.

With `--ray` a cluster of two cores is started (`ray start --head`), which does the work of all three jobs.
With `--command` bodies without end are left out: img2dataset's own command would never end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SHARDS, LINKS, PARTS = 12, 400, 3
KINDS = ["404"] * 8 + ["403"] * 3 + ["silent"] * 2 + ["cut"] * 2 + ["html"] * 3 + ["large", "endless", "drip"]
KINDS += ["circle"] * 2 + ["503", "file"] + ["moved"] * 3
KINDS += ["image"] * (100 - len(KINDS))
ARRIVES = {"image", "moved"}
DOWN_SECONDS = 30


def kind_of(number: int) -> str:
    """What the link ``number`` does; spread, the same for each run."""
    return KINDS[number * 37 % 100]


# ------------------------------------------------------------------------------------------------------------- server


def large_png() -> bytes:
    """A PNG of 12,000 × 12,000 pixels, 140 kB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    side = 12_000
    rows = zlib.compress(bytes((side + 1) * side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def serve(port: int, endless: bool) -> None:
    """Answer for ever on 127.0.0.1."""
    import cv2
    import numpy

    generator = numpy.random.default_rng(0)
    pictures = [
        cv2.imencode(".jpg", generator.integers(0, 255, (side, 2 * side, 3), numpy.uint8))[1].tobytes()
        for side in (60, 150, 300)
    ]
    large = large_png()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.rpartition("/")[2])
            kind = "image" if self.path.startswith("/there/") else kind_of(number)
            with contextlib.suppress(OSError):
                self.answer(kind, number)

        def answer(self, kind: str, number: int) -> None:
            if kind in ("404", "403", "503"):
                self.send_error(int(kind))
            elif kind in ("moved", "circle", "file"):
                self.send_response(302)
                there = {"moved": f"/there/{number}", "circle": self.path, "file": "file:///etc/hostname"}
                self.send_header("Location", there[kind])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif kind == "silent":
                time.sleep(20)
            elif kind in ("endless", "drip"):
                self.send_response(200)
                self.end_headers()
                while endless:
                    self.wfile.write(bytes(1 << 16) if kind == "endless" else b"x")
                    time.sleep(0 if kind == "endless" else 1)
            else:
                body = {"html": b"<html>gone</html>", "large": large}.get(kind, pictures[number % 3])
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if kind == "cut" else body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()


class Host:
    """The server as a process that can be killed and started again."""

    def __init__(self, port: int, endless: bool) -> None:
        self.command = [sys.executable, __file__, "--serve", str(port)] + ([] if endless else ["--finite"])
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


# --------------------------------------------------------------------------------------------------------- the attack


def prepare(home: Path, port: int, distributor: str = "multiprocessing") -> Path:
    """The project's configuration with a scale of this list, and the list; returns the data's folder."""
    import pyarrow
    import pyarrow.parquet

    shutil.copytree(ROOT / "config", home / "config")
    scale = {
        "extends": "paper",
        "vocabulary_size": 300,  # made of these captions: bert-base-uncased's would have to be downloaded
        "data": {
            "shards": SHARDS,
            "lanes": 4,
            "download": {"repository": "laion/relaion400m", "images_per_shard": LINKS, "minimum_yield": 0.6}
            | {"distributor": distributor},
        },
    }
    (home / "config" / "scales" / "attacked.yaml").write_text(yaml.safe_dump(scale), encoding="utf-8")
    sys.path.insert(0, str(ROOT / "src"))
    from clipa.config import load_scale
    from clipa.resolved import data_slug

    data = home / "results" / "data" / data_slug(load_scale("attacked", home / "config").data)
    (data / "metadata").mkdir(parents=True)
    for part in range(2):  # two files of a list, half the links each
        numbers = range(part * SHARDS * LINKS // 2, (part + 1) * SHARDS * LINKS // 2)
        table = {
            "URL": [f"http://127.0.0.1:{port}/{number}" for number in numbers],
            "TEXT": [
                f"a picture of the number {number} " + "and more " * (number % 12) for number in numbers
            ],
        }
        pyarrow.parquet.write_table(pyarrow.table(table), data / "metadata" / f"part-{part}.parquet")
    return data


def clipa(home: Path, python: str, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [python, "-m", "clipa", *words, "--scale", "attacked"]
    return subprocess.Popen(command, cwd=home, env=environment, start_new_session=True)


def part_of(home: Path, part: int) -> subprocess.Popen[str]:
    words = ("data", "fetch", "--part", f"{part}/{PARTS}", "--processes", "1", "--threads", "64")
    return clipa(home, sys.executable, *words)


def images(train: Path) -> dict[str, list[str]]:
    """The links of the images in each shard."""
    import json

    found = {}
    for path in sorted(train.glob("*.tar")):
        with tarfile.open(path) as archive:
            found[path.stem] = [
                json.load(archive.extractfile(member))["url"]
                for member in archive
                if member.name.endswith(".json")
            ]
    return found


def attack(home: Path, python: str, port: int, distributor: str) -> bool:
    data = prepare(home, port, distributor)
    train = data / "train"
    host = Host(port, endless=True)
    time.sleep(3)
    began = time.monotonic()
    jobs = [part_of(home, part) for part in range(PARTS)]
    while len(list(train.glob("*_stats.json"))) < 5:
        time.sleep(0.2)
    host.kill()
    os.killpg(jobs[1].pid, signal.SIGKILL)
    print(
        f"{time.monotonic() - began:.0f} s: server and job 1 killed; images by shard: {counts(train)}",
        flush=True,
    )
    time.sleep(DOWN_SECONDS)
    print(
        f"{time.monotonic() - began:.0f} s: server starts again, and so does job 1: {counts(train)}",
        flush=True,
    )
    host.start()
    jobs[1] = part_of(home, 1)
    codes = [job.wait() for job in jobs]
    print(f"{time.monotonic() - began:.0f} s: jobs ended with {codes}: {counts(train)}", flush=True)
    completed = clipa(home, sys.executable, "data", "fetch").wait()
    indexed = clipa(home, python, "index", "train").wait() or clipa(home, python, "vocabulary").wait()
    clipa(home, python, "data", "report").wait()
    host.kill()
    arrived = [url for urls in images(train).values() for url in urls]
    due = {number for number in range(SHARDS * LINKS) if kind_of(number) in ARRIVES}
    same = Counter(arrived) == Counter(f"http://127.0.0.1:{port}/{number}" for number in due)
    left = [str(path.relative_to(train)) for path in train.rglob("*") if path.suffix in (".feather", ".tmp")]
    print(
        f"images: {len(arrived)}, due: {len(due)}, each once and no other: {same}; left over: {left or 'nothing'}"
    )
    return same and not left and [*codes, completed, indexed] == [0] * (PARTS + 2)


@contextlib.contextmanager
def ray_cluster(home: Path) -> Iterator[None]:
    """A Ray cluster of two cores, which RAY_ADDRESS then names."""
    command = [
        Path(sys.executable).with_name("ray"),
        "start",
        "--head",
        "--block",
        "--port=0",
        "--num-cpus=2",
    ]
    command += ["--include-dashboard=false", "--object-store-memory=100000000"]
    log = home / "ray.log"
    with open(log, "w") as file:
        running = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        )
    try:
        while not (address := log.read_text().partition("--address='")[2].partition("'")[0]):
            if running.poll() is not None:
                sys.exit(f"ray start: {log.read_text()}")
            time.sleep(0.5)
        os.environ["RAY_ADDRESS"] = address
        print(f"Ray at {address}", flush=True)
        yield
    finally:
        running.terminate()
        running.wait()


def compare(home: Path, port: int) -> None:
    """img2dataset's own command in the same outage, and again after it."""
    data = prepare(home, port)
    host = Host(port, endless=False)
    time.sleep(3)
    words = [
        "--url_list",
        data / "metadata",
        "--input_format",
        "parquet",
        "--url_col",
        "URL",
        "--caption_col",
        "TEXT",
    ]
    words += ["--output_format", "webdataset", "--output_folder", data / "train", "--processes_count", "2"]
    words += ["--number_sample_per_shard", LINKS, "--thread_count", "64", "--incremental_mode", "incremental"]
    command = [Path(sys.executable).with_name("img2dataset"), *map(str, words)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(list((data / "train").glob("*_stats.json"))) < 5:
        time.sleep(0.2)
    host.kill()
    code = first.wait()
    print(f"img2dataset, server killed: exit code {code}: {counts(data / 'train')}", flush=True)
    host.start()
    time.sleep(3)
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    print(f"img2dataset again, server back: exit code {code}: {counts(data / 'train')}", flush=True)
    host.kill()


def counts(train: Path) -> str:
    import json

    found = [
        (json.loads(path.read_text())["successes"] if path.is_file() else "-")
        for path in (train / f"{number:05d}_stats.json" for number in range(SHARDS))
    ]
    return " ".join(map(str, found))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", default=str(ROOT / ".venv/bin/python"), help="of the training environment"
    )
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--command", action="store_true", help="img2dataset's own command instead")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster; Ray must be installed here")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--finite", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, not chosen.finite)
    with tempfile.TemporaryDirectory(prefix="downloads-") as folder:
        if chosen.command:
            compare(Path(folder), chosen.port)
            return 0
        home, distributor = Path(folder), "ray" if chosen.ray else "multiprocessing"
        with ray_cluster(home) if chosen.ray else contextlib.nullcontext():
            good = attack(home, chosen.python, chosen.port, distributor)
        print("survived" if good else "FAILED")
        return not good


if __name__ == "__main__":
    sys.exit(main())
