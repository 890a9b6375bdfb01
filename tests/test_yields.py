"""Yields of a download: shards of an outage among dead links, and what is refused before a manifest is written."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipa.cli import main
from clipa.data.download import index_training
from clipa.data.reporting import report
from clipa.data.yields import (
    FETCHES,
    TRANSIENT,
    Yield,
    kind_of,
    outages,
    read_yield,
    read_yields,
    to_fetch,
)
from clipa.downloads import DownloadError
from clipa.links import COCO, Download, Links, share_of
from test_download import shard

LINKS = 10_000
GONE, REFUSED = "HTTP 404 or 410", "connection refused"


def usual(number: int, rate: float = 0.66, slow: float = 0.04, seed: int = 0) -> Yield:
    """A shard whose links are dead by chance, some of them with hosts that do not answer."""
    generator = random.Random(f"{seed} {number}")
    images, refused = (
        round(generator.gauss(LINKS * share, (LINKS * share * (1 - share)) ** 0.5)) for share in (rate, slow)
    )
    return Yield(number, LINKS, images, Counter({REFUSED: refused, GONE: LINKS - images - refused}))


def outage(number: int, share: float) -> Yield:
    """A shard of which that share of the images was lost to a network that was down."""
    before = usual(number)
    lost = int(before.successes * share)
    return Yield(number, LINKS, before.successes - lost, before.failures + Counter({REFUSED: lost}))


@settings(deadline=None, max_examples=25)
@given(
    first=st.integers(0, 150),
    length=st.integers(1, 75),
    edge=st.floats(0.15, 1),
    seed=st.integers(0, 3),
)
def test_an_outage_is_found_and_nothing_else(first: int, length: int, edge: float, seed: int) -> None:
    shards = [usual(number, seed=seed) for number in range(200)]
    down = range(first, min(first + length, 200))
    for number in down:
        shards[number] = outage(number, edge if number == down[0] else 1.0)
    assert [one.number for one in outages(shards, 0.5)] == list(down)


def test_the_outage_of_the_issue_is_found() -> None:
    """400 links a shard; the server went away in the fifth: most shards are down, and all that are are found."""
    images = [400, 400, 400, 400, 107, 86, 0, 0, 0, 0, 0, 0]
    shards = [Yield(i, 400, n, Counter({REFUSED: 400 - n})) for i, n in enumerate(images)]
    assert [one.number for one in outages(shards, 0.5)] == list(range(4, 12))


def test_all_down_from_the_start_is_found() -> None:
    shards = [Yield(i, 400, 0, Counter({"name does not resolve": 400})) for i in range(5)]
    assert len(outages(shards, 0.5)) == 5


def test_dead_links_are_no_outage() -> None:
    """A shard of links that are gone has few images and is not fetched again: it would bring nothing."""
    shards = [usual(number) for number in range(40)]
    shards[7] = Yield(7, LINKS, 900, Counter({GONE: 9100}))
    assert not outages(shards, 0.5)


def test_a_shard_is_fetched_three_times_at_most() -> None:
    shards = [usual(number) for number in range(40)]
    for fetches in range(1, FETCHES + 1):
        bad = outage(7, 0.9)
        shards[7] = Yield(7, LINKS, bad.successes, bad.failures, fetches)
        assert to_fetch(shards, range(41), 0.5) == ([40], [7] if fetches < FETCHES else [])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("<urlopen error [Errno -2] Name or service not known>", "name does not resolve"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "name does not resolve"),
        ("<urlopen error [Errno 111] Connection refused>", "connection refused"),
        ("<urlopen error [Errno 101] Network is unreachable>", "unreachable"),
        ("<urlopen error timed out>", "timed out"),
        ("The read operation timed out", "timed out"),
        ("IncompleteRead(5120 bytes read, 4096 more expected)", "cut off"),
        ("[Errno 104] Connection reset by peer", "cut off"),
        ("Remote end closed connection without response", "cut off"),
        ("HTTP Error 503: Service Unavailable", "HTTP 429 or 5xx"),
        ("HTTP Error 429: Too Many Requests", "HTTP 429 or 5xx"),
        ("HTTP Error 404: Not Found", "HTTP 404 or 410"),
        ("HTTP Error 403: Forbidden", "HTTP 401 or 403"),
        (
            "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.\n"
            "The last 30x error message was:\nFound",
            "redirects in a circle",
        ),
        ("HTTP Error 418: I'm a teapot", "other HTTP error"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "certificate or TLS"),
        ("Use of image disallowed by X-Robots-Tag directive", "forbidden by the host (noai, noindex)"),
        ("Image decoding error", "no image, or a broken one"),
        ("the answer has more than 67108864 bytes", "too large or too slow"),
        ("unknown url type: 'images/1.jpg'", "no link"),
        ("whatever", "other"),
    ],
)
def test_messages_of_img2dataset_have_kinds(message: str, kind: str) -> None:
    assert kind_of(message) == kind


def test_transient_failures_are_those_of_an_outage() -> None:
    assert GONE not in TRANSIENT and REFUSED in TRANSIENT


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"count": 1}',
        '{"count": 1, "successes": 2}',
        '{"count": 1, "successes": -1}',
        '{"count": 9, "successes": 1, "status_dict": {"x": "y"}}',
        '{"count": true, "successes": 0}',
    ],
)
def test_what_is_no_statistics_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "00000_stats.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DownloadError, match=r"00000_stats\.json: no statistics of img2dataset; delete"):
        read_yield(path)


# ------------------------------------------------------------------------------------------------- jobs, manifest


@settings(deadline=None, max_examples=25)
@given(shards=st.integers(1, 300_000), parts=st.integers(1, 256))
def test_every_shard_belongs_to_one_job(shards: int, parts: int) -> None:
    ranges = [share_of(shards, part, parts) for part in range(parts)]
    assert ranges[0].start == 0 and ranges[-1].stop == shards
    assert all(one.stop == other.start for one, other in pairwise(ranges))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_more_than_256_jobs_are_refused() -> None:
    asked = Download(repository="laion/x", images_per_second=10)
    with pytest.raises(ValueError, match=r"download\.hours: 41408 shards are 959 jobs of 12 h .* raise one"):
        asked.jobs(41408)
    assert COCO.download.jobs(83) == 1


def downloaded(train: Path, images: dict[int, int], listed: int = 6, links: int = 20) -> None:
    """Shards with so many images each, as a download leaves them; all failures are refused connections."""
    for number, count in images.items():
        shard(train / f"{number:05d}.tar", count, ("jpg", "txt", "json"))
        failures = {"success": count, "<urlopen error [Errno 111] Connection refused>": links - count}
        statistics = {"count": links, "successes": count, "status_dict": failures, "fetches": 1}
        (train / f"{number:05d}_stats.json").write_text(json.dumps(statistics), encoding="utf-8")
    (train / "listed.json").write_text(json.dumps({"shards": listed}), encoding="utf-8")


WHOLE = dict.fromkeys(range(6), 15)


def test_a_complete_download_gets_a_manifest(tmp_path: Path) -> None:
    downloaded(tmp_path, WHOLE)
    manifest = json.loads(index_training(tmp_path, 1, 6, 0.7).read_text(encoding="utf-8"))
    assert [entry["samples"] for entry in manifest["shards"]] == [15] * 6


@pytest.mark.parametrize(
    ("images", "minimum", "said"),
    [
        ({0: 15, 1: 15, 3: 15, 5: 15}, 0.5, r"2 of 6 shards are missing \(00002, 00004\)"),
        ({**WHOLE, 6: 15}, 0.5, r"1 shards more than the 6 of the list \(00006\)"),
        (WHOLE | {4: 2}, 0.5, r"1 of 6 shards were fetched during an outage \(00004\)"),
        (WHOLE, 0.8, r"90 of 120 links gave an image, 75\.0%, which is less than download\.minimum_yield"),
    ],
)
def test_an_incomplete_download_gets_no_manifest(
    tmp_path: Path, images: dict[int, int], minimum: float, said: str
) -> None:
    downloaded(tmp_path, images)
    with pytest.raises(DownloadError, match=said) as refused:
        index_training(tmp_path, 1, 6, minimum)
    assert "\n" not in str(refused.value) and not (tmp_path / "manifest.json").exists()


def test_a_tar_without_statistics_or_statistics_without_a_tar_are_missing(tmp_path: Path) -> None:
    downloaded(tmp_path, WHOLE)
    (tmp_path / "00001.tar").unlink()
    (tmp_path / "00003_stats.json").unlink()
    with pytest.raises(DownloadError, match=r"2 of 6 shards are missing \(00001, 00003\)"):
        index_training(tmp_path, 1, 6, 0.5)


def test_shards_from_elsewhere_are_counted_against_the_scale_s_file(tmp_path: Path) -> None:
    shard(tmp_path / "00000.tar", 3, ("jpg", "txt"))
    with pytest.raises(DownloadError, match="1 shards, the scale's file says shards: 2"):
        index_training(tmp_path, 1, 2)
    shard(tmp_path / "00001.tar", 0, ("jpg", "txt"))
    with pytest.raises(DownloadError, match=r"1 of 2 shards are empty \(00001\.tar"):
        index_training(tmp_path, 1, 2)


def test_the_report(tmp_path: Path) -> None:
    downloaded(tmp_path, WHOLE | {4: 2})
    links = Links(Download(repository="laion/x"), "metadata")
    table = tmp_path / "shards.csv"
    lines = list(report(tmp_path, links, 6, tmp_path, 3, table))
    assert lines[0] == "6 shards: 77 images for 120 links, yield 64.2%"
    assert lines[1].split() == ["43", "35.8%", "connection", "refused", "(goes", "away)"]
    assert any(line.startswith("outages: 1 shards to be fetched again") for line in lines)
    assert any(line == "  00004: 2 of 20 (10.0%); 18 connection refused" for line in lines)
    rows = table.read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("shard,links,images,fetches,name does not resolve,connection refused")
    assert rows[5].startswith("4,20,2,1,0,18,")
    assert len(read_yields(tmp_path, range(2, 4), 6)) == 2


def test_a_drawn_world_has_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("fetch", "report"):
        assert main(["data", what, "--scale", "micro-v1"]) == 1
        said = capsys.readouterr().err
        assert (
            said.startswith("clipa data: scale micro-v1 draws its data; there is") and said.count("\n") == 1
        )
