"""Downloading on a Ray cluster. With Ray installed, on one of this machine; without it, what is said then."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from clipa.data import ray_cluster
from clipa.data.fetching import fetch_images
from clipa.downloads import DownloadError
from clipa.links import Download, Links

HERE = Path(__file__).parent


# What the workers run. They import this file by its name.


def doubled(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def refuses(number: int) -> int:
    raise DownloadError(f"{number:05d}.tar: not downloaded; try again")


def writes(folder: Path, number: int) -> int:
    if number:
        for _ in range(600):
            (folder / f"{number}").touch()
            time.sleep(0.05)
    return number


def dies_once(folder: Path) -> str:
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.abort()
    return "done"


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_one_line_says_what_to_install(tmp_path: Path) -> None:
    links = Links(Download(repository="laion/x", images_per_shard=2, distributor="ray"), "links.jsonl")
    (tmp_path / "links.jsonl").write_text("{}\n" * 4, encoding="utf-8")
    with pytest.raises(
        DownloadError, match=r"download\.distributor is ray, which is not installed here"
    ) as said:
        fetch_images(tmp_path, links, 2)
    assert "\n" not in str(said.value) and "the version of your cluster" in str(said.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "is not set"),
        ("127.0.0.1:9", "does not answer"),
        ("auto", "does not answer"),
        ("::1:9x", "does not answer"),
    ],
)
def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "ray", sys.modules[__name__])  # nothing of it is called
    with pytest.raises(DownloadError, match=f"RAY_ADDRESS {address}.*{said}") as found, ray_cluster.joined():
        pass
    assert "\n" not in str(found.value) and "ray start --head prints it" in str(found.value)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray cluster of two cores, as `ray start` makes it."""
    pytest.importorskip("ray")
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        head = [ray, "start", "--head", "--block", "--port=0", "--num-cpus=2", "--include-dashboard=false"]
        with open(folder / "log", "w") as log:
            running = subprocess.Popen(head, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 90
            while "--address='" not in (folder / "log").read_text() and running.poll() is None:
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.1)
            # Where other work keeps the processor busy, Ray's own processes do not find each other in time.
            assert "--address='" in (folder / "log").read_text(), (folder / "log").read_text()
            address = (folder / "log").read_text().partition("--address='")[2].partition("'")[0]
            patch.setenv("RAY_ADDRESS", address)
            yield
        finally:
            running.terminate()
            running.wait()


def test_a_running_cluster_does_all_jobs(cluster: None, tmp_path: Path) -> None:
    with ray_cluster.joined() as cores:
        assert cores == 2
        done = list(ray_cluster.in_tasks(doubled, [(number,) for number in range(7)], cores, 2))
        assert sorted(number for number, _ in done) == [0, 2, 4, 6, 8, 10, 12]
        assert os.getpid() not in {process for _, process in done} and len({one for _, one in done}) >= 4
        with pytest.raises(DownloadError, match=r"^00003\.tar: not downloaded; try again$"):
            list(ray_cluster.in_tasks(refuses, [(3,)], cores, 2))
        assert list(ray_cluster.in_tasks(dies_once, [(tmp_path,)], cores, 2)) == ["done"]


def test_what_still_runs_is_ended(cluster: None, tmp_path: Path) -> None:
    """When nothing comes any more the round ends early; nobody may write into the next one's folder."""
    with ray_cluster.joined() as cores:
        done = ray_cluster.in_tasks(writes, [(tmp_path, 1), (tmp_path, 0), (tmp_path, 2)], cores, 5)
        assert next(done) == 0
        while not (tmp_path / "1").exists():
            time.sleep(0.05)
        done.close()
        (tmp_path / "1").unlink()
        time.sleep(0.3)
        assert not (tmp_path / "1").exists()


def test_a_killed_driver_takes_its_tasks_along(cluster: None, tmp_path: Path) -> None:
    """Its lock is free at once: a second one may begin to write."""
    code = (
        "import pathlib, sys; from clipa.data import ray_cluster; from test_ray_cluster import writes\n"
        "with ray_cluster.joined() as cores: list(ray_cluster.in_tasks(writes, [(pathlib.Path(sys.argv[1]), 1)], 1, 5))"
    )
    path = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}
    )
    while not (tmp_path / "1").exists():
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    end = time.monotonic() + 20
    while (tmp_path / "1").exists() and time.monotonic() < end:
        (tmp_path / "1").unlink()
        time.sleep(0.5)
    assert not (tmp_path / "1").exists()
