"""Images behind the links of a list, downloaded shard by shard with img2dataset (in the data environment).

A list is split into shards as img2dataset splits it: file by file, so many links each. Many jobs may work at once, each
on its own range of shards (:func:`clipa.links.share_of`). The parts of img2dataset are called one by one and not its
command, which sees only its own folder, has no bounds on what a server sends (:mod:`clipa.data.bounded`), and takes a
shard for done whatever came. Here a shard appears in the training set's folder when it is whole: tar, then parquet,
then its statistics. Jobs look at what came (:mod:`clipa.data.yields`), wait while the network is down, and fetch shards
of an outage again. A killed job is resumed by the same call.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from clipa.data import bounded, ray_cluster
from clipa.data.shards import in_processes, progress_bar
from clipa.data.tars import members
from clipa.data.yields import (
    LISTED,
    NEIGHBOURS,
    Yield,
    digits,
    read_yield,
    read_yields,
    statistics_of,
    summary,
    to_fetch,
)
from clipa.downloads import DownloadError
from clipa.files import read_json, sync, write_json_atomically
from clipa.links import Links
from clipa.locks import directory_lock

IMAGE_SIZE = 256
"""With a border, as the authors have it (docs/data.md)."""
PIXELS = 1 << 26
"""That an image from the web may have; more are not decoded. As clipa.data.samples."""
THREADS = 128
SILENCE_SECONDS = 10
SHARDS_A_PROCESS = 5  # img2dataset's own number
PATIENCE_SECONDS = 6 * 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0
_PROBES = 64
_REFUSED = ["noai", "noimageai", "noindex", "noimageindex"]  # img2dataset's default


@dataclass(frozen=True)
class Listed:
    """One file of a list: its rows are the links of the shards from ``first`` on."""

    path: Path
    rows: int
    first: int


@dataclass(frozen=True)
class Target:
    """Where the shards of a list go, and how they are made. ``shards``: of the whole list."""

    train: Path
    work: Path
    links: Links
    shards: int
    threads: int

    def tar(self, number: int, folder: Path | None = None) -> Path:
        return Path(folder or self.train, f"{number:0{digits(self.shards)}d}.tar")


class Workers(NamedTuple):
    """Who downloads shards, and how many of them at once."""

    run: Callable[..., Iterator[Any]]
    count: int


def fetch_images(
    directory: Path,
    links: Links,
    shards: int,
    wanted: range | None = None,
    processes: int = 1,
    threads: int = THREADS,
    patience: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Download the shards ``wanted`` (none: all) of a data source into ``directory/train``; what is there is kept.

    ``shards``: how many the list must have, by the scale's file; ``patience``: seconds to wait while the network is
    down. ``processes``: of this machine; where a Ray cluster downloads, its cores count instead. Returns
    :func:`clipa.data.yields.summary` of the shards wanted. Raises DownloadError.
    """
    directory = Path(directory).absolute()  # processes on other nodes start elsewhere
    files = _list(directory, links, shards)
    wanted = range(shards) if wanted is None else wanted
    work = directory / "train" / ".fetching" / f"{wanted.start}-{wanted.stop}"
    target = Target(directory / "train", work, links, shards, threads)
    near = range(max(0, wanted.start - NEIGHBOURS), min(shards, wanted.stop + NEIGHBOURS))
    minimum = links.download.minimum_yield
    with (
        directory_lock(work, f"download of shards {wanted.start} to {wanted.stop - 1}"),
        _workers(links.download.distributor, processes) as workers,
    ):
        while True:
            there = read_yields(target.train, near, shards)
            missing, again = to_fetch(there, wanted, minimum)
            if not missing and not again:
                break
            if again:
                print(f"{len(again)} shards were fetched during an outage; fetched again", flush=True)
                _await_network(target, files, there, patience)
            fetches = {one.number: one.fetches for one in there}
            todo = {number: fetches.get(number, 0) + 1 for number in sorted([*missing, *again])}
            _fetch(target, files, todo, workers, minimum)
        _clear(work)
    return summary([one for one in there if one.number in wanted])


@contextmanager
def _workers(distributor: str, processes: int) -> Iterator[Workers]:
    """Those that the scale's file asks for (``download.distributor``)."""
    if distributor == "ray":
        with ray_cluster.joined() as cores:
            yield Workers(ray_cluster.in_tasks, cores)
    else:
        yield Workers(in_processes, processes)


def _list(directory: Path, links: Links, shards: int) -> list[Listed]:
    """The files of the list; noted in ``train/listed.json``. DownloadError where it is another list than before, or has
    another number of shards than the scale's file says.
    """
    place, each, first = directory / links.listed, links.download.images_per_shard, 0
    paths = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    if not paths:
        raise DownloadError(f"{place}: no list of links; download it first (snakemake data --config scale=…)")
    files = []
    for path in paths:
        try:
            rows = _json_lines(path) if path == place else _parquet_rows(path)
        except (OSError, ValueError) as error:  # pyarrow's are both
            raise DownloadError(f"{path}: no list of links ({error}); download it again") from None
        files.append(Listed(path, rows, first))
        first += -(-rows // each)
    if first != shards:
        raise DownloadError(
            f"{place}: {sum(file.rows for file in files)} links are {first} shards of {each}; the scale's file says "
            f"shards: {shards}; write {first} there, before anything is trained"
        )
    noted = {
        "shards": first,
        "images_per_shard": each,
        "files": [[str(file.path.relative_to(directory)), file.rows] for file in files],
    }
    path = directory / "train" / LISTED
    path.parent.mkdir(exist_ok=True)
    if not path.is_file():
        write_json_atomically(path, noted)
    elif read_json(path) != noted:
        raise DownloadError(f"{path}: shards there are of another list than {place}; move {path.parent} away")
    return files


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path).num_rows


def _json_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


# --------------------------------------------------------------------------------------------------------- one round


def _fetch(
    target: Target, files: list[Listed], todo: dict[int, int], workers: Workers, minimum_yield: float
) -> None:
    """Fetch shards (number → how often, this time included). Ends early when nothing comes any more."""
    _clear(target.work)
    _slice(target, files, todo)
    bar = progress_bar("shards", len(todo), "shard")
    jobs = [(target, number, fetches) for number, fetches in todo.items()]
    dead = 0
    try:
        with bar, closing(workers.run(_fetch_shard, jobs, workers.count, SHARDS_A_PROCESS)) as done:
            for one in done:
                bar.update()
                bar.set_postfix_str(f"{one.rate:.0%} of the last")
                dead = dead + 1 if one.rate < minimum_yield / 2 and one.transient > 0.5 else 0
                if dead >= 2 * workers.count and dead < len(todo):
                    break
    except BrokenProcessPool:
        raise DownloadError(
            f"{target.work}: a process was killed, most often for want of memory; ask for more, or for fewer processes"
        ) from None


def _slice(target: Target, files: list[Listed], todo: dict[int, int]) -> None:
    """Write the links of each shard as img2dataset's downloader reads them."""
    import pyarrow as arrow

    asked = target.links.download
    each = asked.images_per_shard
    names = {asked.url_column: "url", asked.caption_column: "caption"}
    for file in files:
        inside = [number for number in todo if file.first <= number < file.first - (-file.rows // each)]
        if not inside:
            continue
        table = _read(file.path, [*target.links.more_columns, asked.caption_column, asked.url_column])
        table = table.rename_columns([names.get(name, name) for name in table.column_names])
        for number in inside:
            rows = table.slice((number - file.first) * each, each)
            with arrow.ipc.new_file(target.work / f"{number}.feather", rows.schema) as writer:
                writer.write_table(rows)


def _read(path: Path, columns: list[str]) -> Any:
    import pyarrow.json
    import pyarrow.parquet

    try:
        table = (
            pyarrow.parquet.read_table(path, columns=columns)
            if path.suffix == ".parquet"
            else pyarrow.json.read_json(path)
        )
        return table.select(columns)
    except (OSError, ValueError, KeyError) as error:
        raise DownloadError(
            f"{path}: cannot be read with columns {', '.join(columns)} ({error}); name them in the scale's file "
            "(download.url_column, caption_column), or download the list again"
        ) from None


def _fetch_shard(target: Target, number: int, fetches: int) -> Yield:
    """Download one shard and put it in its place; returns what came (in a worker process)."""
    folder = target.work / str(number)
    shutil.rmtree(folder, ignore_errors=True)  # of a process that died on another node
    folder.mkdir()
    tar = target.tar(number, folder)
    try:
        _downloader(target, folder).download_shard((number, str(target.work / f"{number}.feather")))
        found = read_yield(statistics_of(tar))
        with open(tar, "rb") as file:
            written = sum(member.name.endswith(".json") for member in members(file))
    except OSError:
        raise
    except Exception as error:  # img2dataset's, pyarrow's, those of a broken tar
        said = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"{target.tar(number)}: not downloaded ({said}); try again") from None
    if written != found.successes:
        raise DownloadError(
            f"{target.tar(number)}: {written} of {found.successes} images were written (is the disk full?); try again"
        )
    _place(tar, target.tar(number), fetches)
    shutil.rmtree(folder)
    return read_yield(statistics_of(target.tar(number)))


def _downloader(target: Target, folder: Path) -> Any:
    """img2dataset's, with the settings of its command that the authors name, else its defaults."""
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(PIXELS)  # before OpenCV is loaded
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    bounded.install()
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    return Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=Resizer(IMAGE_SIZE, "border", False),
        thread_count=target.threads,
        save_caption=True,
        extract_exif=True,
        output_folder=str(folder),
        column_list=[*target.links.more_columns, "caption", "url"],
        timeout=SILENCE_SECONDS,
        number_sample_per_shard=target.links.download.images_per_shard,
        oom_shard_count=digits(target.shards),
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=set(_REFUSED),
    )


def _place(new: Path, tar: Path, fetches: int) -> None:
    """Move a shard, its parquet file and its statistics to where training reads; of two fetches the better one stays.

    The statistics go first and come last: a shard without them is missing.
    """
    statistics = statistics_of(tar)
    content = read_json(statistics_of(new))
    if statistics.is_file() and read_yield(statistics).successes >= content["successes"]:
        write_json_atomically(statistics, read_json(statistics) | {"fetches": fetches})
        return
    statistics.unlink(missing_ok=True)
    for ending in (".tar", ".parquet"):
        sync(new.with_suffix(ending))
        os.replace(new.with_suffix(ending), tar.with_suffix(ending))
    sync(tar.parent)
    write_json_atomically(statistics, content | {"fetches": fetches})


def _clear(work: Path) -> None:
    """Remove what an earlier call left in its working folder."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".feather":
            path.unlink()


# --------------------------------------------------------------------------------------------------------- the network


def _await_network(target: Target, files: list[Listed], there: list[Yield], patience: float) -> None:
    """Return when links that gave an image before answer again. DownloadError when they don't for ``patience`` s."""
    urls, needed = _probes(target, files, there)
    bounded.install()
    pause, began = _FIRST_PAUSE, time.monotonic()
    while True:
        with ThreadPoolExecutor(len(urls)) as pool:
            answered = sum(pool.map(_answers, urls))
        if answered >= max(1, needed * len(urls)):
            return
        waited = time.monotonic() - began
        if waited + pause > patience:
            raise DownloadError(
                f"{target.train}: after {waited:.0f} s, {answered} of {len(urls)} links that should answer do: has "
                "this node a way to the internet? The same command resumes"
            )
        print(
            f"the network is down ({answered} of {len(urls)} links answer); next look in {pause:.0f} s",
            flush=True,
        )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _probes(target: Target, files: list[Listed], there: list[Yield]) -> tuple[list[str], float]:
    """Links that gave an image before, of the best shards, and which share of them must answer; without any, the list's
    own, of which a quarter of the least yield must.
    """
    import pyarrow.parquet

    urls: list[str] = []
    best = sorted(there, key=lambda one: -one.rate)[:4]
    for one in best:
        if one.successes:
            path = target.tar(one.number).with_suffix(".parquet")
            rows = pyarrow.parquet.read_table(path, columns=["url", "status"]).to_pydict()
            came = [url for url, status in zip(*rows.values(), strict=True) if status == "success"]
            urls += came[:: max(1, len(came) // (_PROBES // 4))][: _PROBES // 4]
    if urls:
        return urls, 0.5
    column = target.links.download.url_column
    links = _read(files[0].path, [column]).column(column).to_pylist()
    return links[:: max(1, len(links) // _PROBES)][:_PROBES], target.links.download.minimum_yield / 4


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=SILENCE_SECONDS) as answer:
            answer.read()
        return True
    except Exception:  # links are anything; urllib and http.client have no common base for their errors
        return False
