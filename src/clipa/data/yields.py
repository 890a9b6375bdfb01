"""What img2dataset's statistics say of a download: how many links gave an image, why the others did not, and which
shards were fetched while the network was down.

Beside each shard ``NNNNN.tar`` lies ``NNNNN_stats.json``. An outage leaves shards that look finished: all there, few
images. They are told from the lists' dead links by their neighbours, and by failures of a kind that goes away.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipa.downloads import DownloadError
from clipa.files import read_json

STATISTICS = "_stats.json"
LISTED = "listed.json"
"""In the folder of a training set: the list that it is downloaded from."""
NEIGHBOURS = 64
FETCHES = 3
"""A shard that has been fetched so often, each time with the network there, is as good as it gets."""
_MARGIN = 0.05
_SIGMAS = 5.0
_STATISTICS_BYTES = 1 << 25
_MOST_NAMED = 8
_MOST_SHARDS = 10**7

# The first pattern that occurs in a message. Transient failures are those that an outage causes; a host that is gone
# for ever gives the same ones, which is why neighbours decide.
TRANSIENT = {
    "name does not resolve": r"name or service not known|name resolution|nodename|getaddrinfo|Errno -[235]\b",
    "connection refused": r"connection refused|Errno 111\b",
    "unreachable": r"unreachable|no route to host|Errno 10[01]\b|Errno 113\b",
    "timed out": r"timed out|timeout|Errno 110\b",
    "cut off": r"reset by peer|IncompleteRead|remote end closed|EOF occurred|broken pipe|Errno 10[34]\b|Errno 32\b",
    "HTTP 429 or 5xx": r"HTTP Error (429|5\d\d)",
}
LASTING = {
    "HTTP 404 or 410": r"HTTP Error (404|410)",
    "HTTP 401 or 403": r"HTTP Error (401|403)",
    "redirects in a circle": r"infinite loop",
    "other HTTP error": r"HTTP Error",
    "certificate or TLS": r"certificate|\bSSL\b|\bTLS\b|tlsv1|wrong version number",
    "forbidden by the host (noai, noindex)": r"X-Robots-Tag",
    "too large or too slow": r"the answer (has more|took more) than",
    "no link": r"unknown url type|urlopen error no host|nonnumeric port|invalid url|control characters|can't contain",
    "no image, or a broken one": r"decoding|cv2|OpenCV|image|NoneType",
}
OTHER = "other"
_KINDS = [
    (name, re.compile(pattern, re.IGNORECASE)) for name, pattern in [*TRANSIENT.items(), *LASTING.items()]
]


def kind_of(message: str) -> str:
    """The kind of failure that one of img2dataset's messages is."""
    return next((name for name, pattern in _KINDS if pattern.search(message[:1000])), OTHER)


@dataclass(frozen=True)
class Yield:
    """What came of one shard's links. ``fetches``: how often it was fetched."""

    number: int
    count: int
    successes: int
    failures: Counter[str] = field(default_factory=Counter)
    fetches: int = 1

    @property
    def rate(self) -> float:
        return self.successes / max(self.count, 1)

    @property
    def transient(self) -> float:
        """Share of the links that failed in a way that goes away."""
        return sum(self.failures[name] for name in TRANSIENT) / max(self.count, 1)


def statistics_of(tar: Path) -> Path:
    """Where img2dataset's statistics of a shard are."""
    return tar.with_name(f"{tar.stem}{STATISTICS}")


def read_yield(path: Path) -> Yield:
    """What ``NNNNN_stats.json`` says. Raises DownloadError where it is none of img2dataset's."""
    try:
        if path.stat().st_size > _STATISTICS_BYTES:
            raise ValueError("too large")
        content = read_json(path)
        number = int(path.name.removesuffix(STATISTICS))
        counts = [content["count"], content["successes"], content.get("fetches", 1)]
        failures: Counter[str] = Counter()
        for message, times in content.get("status_dict", {}).items():
            counts.append(times)
            if message != "success":
                failures[kind_of(message)] += times
        if any(type(count) is not int or count < 0 for count in counts) or counts[1] > counts[0]:
            raise ValueError("counts that are none")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DownloadError(
            f"{path}: no statistics of img2dataset; delete it and its shard and download again"
        ) from None
    return Yield(number, counts[0], counts[1], failures, counts[2])


def digits(shards: int) -> int:
    """How many digits a shard's number has in its name, of so many shards."""
    return max(5, len(str(shards - 1)))


def read_yields(directory: Path, numbers: range | None = None, shards: int = 0) -> list[Yield]:
    """Of every shard of a folder that has statistics, by number; ``numbers``: of these only, of ``shards`` in all.

    Raises DownloadError.
    """
    if numbers is None:
        paths = [
            path
            for path in directory.glob(f"*{STATISTICS}")
            if path.name.removesuffix(STATISTICS).isdecimal()
        ]
    else:
        names = (f"{number:0{digits(shards)}d}{STATISTICS}" for number in numbers)
        paths = [path for name in names if (path := directory / name).is_file()]
    return sorted(map(read_yield, paths), key=lambda one: one.number)


# ---------------------------------------------------------------------------------------------------------- outages


def outages(shards: Sequence[Yield], minimum_yield: float) -> list[Yield]:
    """The shards that were fetched during an outage, of all that are there (by number).

    Such a shard's rate is lower than that of the best fifth of its neighbours (or than the median of all, so that a
    long outage does not hide among its own), by 5 % of the links and by five standard deviations; and so much more of
    its links than of theirs failed in a way that goes away. Where all is down there are no neighbours to compare with:
    a shard with less than half of ``minimum_yield`` whose links mostly failed like that counts, too.
    """
    if not shards:
        return []
    rates = sorted(one.rate for one in shards)
    median = rates[len(rates) // 2]
    passing = sorted(one.transient for one in shards)[len(shards) // 2]
    found = []
    for place, one in enumerate(shards):
        near = _neighbours(shards, place)
        usual = max(_quantile([other.rate for other in near], 0.8), median)
        excess = one.transient - min(_quantile([other.transient for other in near], 0.2), passing)
        margin = max(_MARGIN, _SIGMAS * math.sqrt(usual * (1 - usual) / max(one.count, 1)))
        below = one.rate < usual - margin and excess > margin
        dead = one.rate < minimum_yield / 2 and one.transient > 0.5
        if below or dead:
            found.append(one)
    return found


def _neighbours(shards: Sequence[Yield], place: int) -> Sequence[Yield]:
    first = max(0, min(place - NEIGHBOURS // 2, len(shards) - NEIGHBOURS))
    return shards[first : first + NEIGHBOURS]


def _quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def to_fetch(
    shards: Sequence[Yield], wanted: Iterable[int], minimum_yield: float
) -> tuple[list[int], list[int]]:
    """Of the shards ``wanted`` those that are missing, and those of an outage that were fetched less than three times.

    ``shards``: what is there, by number; more than those wanted, so that there are neighbours.
    """
    there = [one.number for one in shards]
    again = {one.number for one in outages(shards, minimum_yield) if one.fetches < FETCHES}

    def is_there(number: int) -> bool:
        place = bisect_left(there, number)
        return place < len(there) and there[place] == number

    wanted = list(wanted)
    missing = [number for number in wanted if not is_there(number)]
    return missing, [number for number in wanted if number in again]


# ------------------------------------------------------------------------------------------------- before a manifest


def expected_shards(directory: Path) -> int | None:
    """How many shards the list gives, as the first download job noted; None where the shards came otherwise."""
    path = directory / LISTED
    try:
        count = read_json(path)["shards"]
        if type(count) is not int or not 1 <= count <= _MOST_SHARDS:
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise DownloadError(f"{path}: names no number of shards; delete it and download again") from None
    return count


def check_complete(directory: Path, expected: int, minimum_yield: float) -> None:
    """Raise DownloadError unless a download is complete: all shards and their statistics, no outage, enough images."""
    shards = read_yields(directory)
    tars = {int(path.stem) for path in directory.glob("*.tar") if path.stem.isdecimal()}
    missing, again = to_fetch(shards, range(expected), minimum_yield)
    missing = sorted({*missing, *(set(range(expected)) - tars)})
    more = sorted(tars - set(range(expected)))
    again_by = "the same download command fetches them"
    if missing:
        raise DownloadError(
            f"{directory}: {len(missing)} of {expected} shards are missing ({_some(missing)}); {again_by}"
        )
    if more:
        raise DownloadError(
            f"{directory}: {len(more)} shards more than the {expected} of the list ({_some(more)}); they belong to "
            "another list: move them away"
        )
    if again:
        raise DownloadError(
            f"{directory}: {len(again)} of {expected} shards were fetched during an outage ({_some(again)}); "
            f"{again_by} again"
        )
    links, images = sum(one.count for one in shards), sum(one.successes for one in shards)
    if images < minimum_yield * links:
        raise DownloadError(
            f"{directory}: {images} of {links} links gave an image, {images / max(links, 1):.1%}, which is less than "
            f"download.minimum_yield ({minimum_yield:.1%}); look at `clipa data report`, and lower it in the scale's "
            "file if no more is left"
        )


def _some(numbers: Sequence[int]) -> str:
    names = [f"{number:05d}" for number in numbers[:_MOST_NAMED]]
    return ", ".join(names + ["…"] * (len(numbers) > _MOST_NAMED))


def summary(shards: Sequence[Yield]) -> dict[str, Any]:
    """Links, images, share, and failures by kind, of some shards."""
    links, images = sum(one.count for one in shards), sum(one.successes for one in shards)
    failures = sum((one.failures for one in shards), Counter())
    return {
        "shards": len(shards),
        "links": links,
        "images": images,
        "yield": images / max(links, 1),
        "failures": dict(failures.most_common()),
    }


def lines_of(came: dict[str, Any]) -> Iterator[str]:
    """A :func:`summary` for people."""
    links = max(came["links"], 1)
    yield (
        f"{came['shards']:,} shards: {came['images']:,} images for {came['links']:,} links, yield {came['yield']:.1%}"
    )
    for name, count in came["failures"].items():
        passing = " (goes away)" if name in TRANSIENT else ""
        yield f"  {count:>13,}  {count / links:6.1%}  {name}{passing}"
