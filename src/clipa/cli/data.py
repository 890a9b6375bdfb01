"""The verb ``data``: downloads of image lists, and what came of them."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from pathlib import Path

from clipa.cli.verbs import add_verb, data_of

PYTHON = Path(".venv-data/bin/python")
"""Of the environment that `make data` installs; img2dataset is in no other."""

_ABOUT = """

fetch    Downloads the images of a list, with img2dataset from the data environment (make data). With --part 2/48 one
         job's range of the shards; without it whatever is missing, or was fetched during an outage. A call that was
         killed is resumed by the same call. While the network is down it waits. With `download.distributor: ray` in the
         scale's file a Ray cluster downloads, which runs already and which RAY_ADDRESS=HOST:PORT names.
report   Prints what came: images for links, failures by kind, the shards of an outage, sizes of images, lengths of
         captions and how many of them each text length cuts.
sets     Prints the paper's 28 test sets: items, source, terms, and how to place one by hand."""


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    data = add_verb(
        verbs,
        "data",
        lambda chosen: {"fetch": _fetch, "report": _report, "sets": _sets}[chosen.what](chosen),
        "download the images of a list, or report what came of a download",
        "fetch --scale paper --source LAION-2B --part 0/243 --processes 16",
    )
    data.description += _ABOUT
    data.add_argument("what", choices=("fetch", "report", "sets"))
    data.add_argument("--source", metavar="NAME", help="another data source of the scale, as LAION-2B")
    data.add_argument("--part", type=_part, metavar="I/N", help="fetch: part I of 0 … N-1 (default: all)")
    data.add_argument(
        "--processes",
        type=int,
        default=1,
        help="processes of this machine (default: 1); on a Ray cluster its cores count",
    )
    data.add_argument(
        "--threads", type=int, default=128, help="fetch: links at once in a process (default: 128)"
    )
    data.add_argument(
        "--patience", type=float, default=6, metavar="HOURS", help="fetch: wait so long for the network (6)"
    )
    data.add_argument(
        "--samples-of", type=int, default=8, metavar="N", help="report: read the samples of N shards (8)"
    )
    data.add_argument("--table", type=Path, metavar="FILE", help="report: write a row for each shard, as CSV")


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with I below N, as 0/48")
    return int(match[1]), int(match[2])


def _fetch(chosen: argparse.Namespace) -> int:
    from clipa.downloads import DownloadError

    scale, data, directory = data_of(chosen)
    if scale.data.kind == "pictograms":
        raise ValueError(f"scale {scale.name} draws its data; there is nothing to download")
    if importlib.util.find_spec("img2dataset") is None:
        _in_data_environment()
        raise DownloadError("img2dataset is not installed here, and there is no .venv-data: make data")
    from clipa.data.fetching import fetch_images
    from clipa.data.yields import lines_of
    from clipa.links import links_of, share_of

    part, parts = chosen.part or (0, 1)
    wanted = share_of(data.shards, part, parts)
    came = fetch_images(
        directory,
        links_of(data.download),
        data.shards,
        wanted,
        chosen.processes,
        chosen.threads,
        chosen.patience * 3600,
    )
    print(*lines_of(came), sep="\n")
    return 0


def _in_data_environment() -> None:
    """Go on in the data environment where there is one: the same command, the same process."""
    if PYTHON.is_file():
        source = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        sys.stdout.flush()
        os.execve(PYTHON, [str(PYTHON), "-m", "clipa", *sys.argv[1:]], os.environ | {"PYTHONPATH": path})


def _report(chosen: argparse.Namespace) -> int:
    from clipa.data.reporting import report
    from clipa.links import links_of
    from clipa.resolved import data_slug

    scale, data, directory = data_of(chosen)
    if data.shards is None:
        raise ValueError(f"scale {scale.name} draws its data; there is no download to report")
    vocabulary = directory.parent / data_slug(scale.data) / "vocabulary"
    links = links_of(data.download)
    for line in report(directory / "train", links, data.shards, vocabulary, chosen.samples_of, chosen.table):
        print(line)
    return 0


def _sets(chosen: argparse.Namespace) -> int:
    from clipa.downloads import load_downloads, table_of_test_sets

    print(*table_of_test_sets(load_downloads()), sep="\n")
    return 0
