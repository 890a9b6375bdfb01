"""Manifests of what img2dataset and CLIP_benchmark's copies look like on disk."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from clipa import crosschecks
from clipa.config import load_scale
from clipa.data.download import index_test_set, index_training
from clipa.data.shards import ShardError
from clipa.downloads import DownloadError, check_test_set, load_downloads, table_of_test_sets


def shard(path: Path, samples: int, suffixes: tuple[str, ...]) -> None:
    """A tar of ``samples`` samples, each with one member for every suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for i in range(samples):
            for suffix in suffixes:
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                content = f"{path.name} {i} {suffix}".encode() * 40
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("processes", [1, 2])
def test_training_shards(tmp_path, processes):
    for name, samples in (("00000.tar", 5), ("00001.tar", 3)):
        shard(tmp_path / name, samples, ("jpg", "txt", "json"))
        (tmp_path / name).with_name(name.replace(".tar", "_stats.json")).write_text(
            json.dumps({"count": 7, "successes": samples}), encoding="utf-8"
        )
    manifest = json.loads(index_training(tmp_path, processes).read_text(encoding="utf-8"))
    assert [(entry["name"], entry["samples"]) for entry in manifest["shards"]] == [
        ("00000.tar", 5),
        ("00001.tar", 3),
    ]
    content = (tmp_path / "00001.tar").read_bytes()
    assert manifest["shards"][1]["sha256"] == hashlib.sha256(content).hexdigest()


def test_other_data_has_another_fingerprint(tmp_path):
    marks = set()
    for samples in (3, 3, 4):
        shard(tmp_path / "00000.tar", samples, ("jpg", "txt"))
        marks.add(json.loads(index_training(tmp_path).read_text(encoding="utf-8"))["fingerprint"])
    assert len(marks) == 2


def test_a_truncated_shard_is_named(tmp_path):
    shard(tmp_path / "00000.tar", 5, ("jpg",))
    content = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(content[:2000])
    with pytest.raises(ShardError, match=r"00000\.tar: not a whole tar file"):
        index_training(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_no_shards_is_said(tmp_path):
    with pytest.raises(DownloadError, match="no shards; download the data first"):
        index_training(tmp_path)


def test_set_in_the_benchmark_s_layout(tmp_path):
    home = tmp_path / "imagenet1k"
    for i in range(2):
        shard(home / "test" / f"{i}.tar", 4, ("webp", "cls"))
    (home / "test" / "nshards.txt").write_text("2\n", encoding="utf-8")
    (home / "classnames.txt").write_text("tench\ngoldfish\n", encoding="utf-8")
    first = json.loads(index_test_set(home).read_text(encoding="utf-8"))
    assert (first["name"], first["n"], first["files"]) == ("imagenet1k", 8, ["classnames.txt"])
    (home / "classnames.txt").write_text("tench\ngold fish\n", encoding="utf-8")
    second = json.loads(index_test_set(home).read_text(encoding="utf-8"))
    assert second["fingerprint"] != first["fingerprint"]

    (home / "test" / "1.tar").unlink()
    with pytest.raises(DownloadError, match="1 shards of 2; download it again"):
        index_test_set(home)


def test_the_table_has_every_test_set_of_the_paper_and_the_page_has_the_table():
    known = load_downloads()
    asked = {name.partition("/")[0] for name in crosschecks.test_sets(load_scale("paper")).values()}
    assert set(known.test_sets) == asked and len(asked) == 28
    page = Path("docs/data.md").read_text(encoding="utf-8")
    table = page.split("<!-- test sets: begin (clipa data sets) -->\n")[1].split("<!-- test sets: end")[0]
    assert table == "".join(f"{line}\n" for line in table_of_test_sets(known))


def test_another_test_set_than_the_table_s_is_refused():
    known = load_downloads()
    check_test_set("imagenet1k", 50_000, "0" * 12, known)
    check_test_set("plain", 1, "0" * 12, known)
    with pytest.raises(DownloadError, match=r"10000 items, config/downloads\.yaml says 50000 .* by hand"):
        check_test_set("imagenet1k", 10_000, "0" * 12, known)
    pinned = {"fingerprint": "f" * 12}
    sets = {**known.test_sets, "imagenet-a": known.test_sets["imagenet-a"].model_copy(update=pinned)}
    with pytest.raises(DownloadError, match=r"fingerprint is 000000000000, .* says ffffffffffff"):
        check_test_set("imagenet-a", 7500, "0" * 12, known.model_copy(update={"test_sets": sets}))
