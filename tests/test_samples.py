"""The one reader of samples: what is bad is counted by reason, limits hold, and shards are whole or refused."""

import contextlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipa.data import samples
from clipa.data.annotation import WORLD, annotate, load_entry_parts
from clipa.data.download import index_training
from clipa.data.negclip import write_negatives
from clipa.data.samples import BadSample, RawSample, Reason, ShardReader, samples_of
from clipa.data.shards import ShardError, read_manifest, tar_bytes
from clipa.data.vocabulary import VocabularyError, load_tokenizer, train_vocabulary
from clipa.downloads import DownloadError
from clipa.files import sha256_of, with_digest
from clipa.resolved import write
from clipa.train import train_stage
from small_training import BATCH, STEPS, resolved, tiny_stages
from small_world import draw_small_world
from written_shards import write_manifest, write_shards

SOURCE = Path(__file__).parents[1] / "src"


def png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, made without its pixels in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    packer, row = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def webp(width: int, height: int) -> bytes:
    """An animated WebP's header that claims a canvas, and nothing to draw on it."""
    canvas = struct.pack("<I", 2) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def facts(captions: object) -> dict[str, bytes]:
    return {"json": json.dumps({"captions": captions}).encode()}


BAD: dict[str, tuple[dict[str, bytes | None], Reason]] = {
    "null": (facts([None]), Reason.CAPTION),
    "a number": (facts([7]), Reason.CAPTION),
    "a list in a list": (facts([["a"]]), Reason.CAPTION),
    "text for a list": (facts("abc"), Reason.CAPTION),
    "a lone surrogate": (facts(["a \ud800 b"]), Reason.CAPTION),
    "a caption of 1 MB": (facts(["a" * 1_000_000]), Reason.LENGTH),
    "a text of 1 MB": ({"json": None, "txt": b"a" * 1_000_000}, Reason.LENGTH),
    "not UTF-8": ({"json": None, "txt": b"caf\xe9"}, Reason.CAPTION),
    "JSON that is a list": ({"json": b"[1]"}, Reason.METADATA),
    "JSON that is null": ({"json": b"null"}, Reason.METADATA),
    "JSON that is cut": ({"json": b'{"captions": ["a'}, Reason.METADATA),
    "JSON in a thousand lists": ({"json": b"[" * 100_000}, Reason.METADATA),
    "JSON with a number of 5000 digits": ({"json": b'{"a": ' + b"1" * 5000 + b"}"}, Reason.METADATA),
    "JSON of 2 MB": ({"json": b'{"a": "' + b"b" * (2 << 20) + b'"}'}, Reason.BYTES),
    "neither JSON nor text": ({"json": None, "txt": None}, Reason.NO_CAPTION),
    "no image": ({"jpg": None}, Reason.NO_IMAGE),
    "no picture": ({"jpg": b"no picture"}, Reason.IMAGE),
    "a vector drawing": ({"jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, Reason.IMAGE),
    "179 megapixels": ({"jpg": png(14000, 12800)}, Reason.SIZE),
    "169 megapixels": ({"jpg": None, "png": png(13000, 13000)}, Reason.SIZE),
    "a canvas of 268 megapixels": ({"jpg": None, "webp": webp(16383, 16383)}, Reason.SIZE),
    "one pixel high": ({"jpg": None, "png": png(1_000_000, 1)}, Reason.SIZE),
    "thirty members": ({f"{i}.json": b"{}" for i in range(30)}, Reason.MEMBERS),
}


def changed(members: dict[str, bytes], change: dict[str, bytes | None]) -> dict[str, bytes]:
    return {ending: content for ending, content in (members | change).items() if content is not None}


def rewrite(shard: Path, change: Callable[[int, dict[str, bytes]], dict[str, bytes]]) -> None:
    """Change the members of each sample of a shard, and let the manifest name the new bytes."""
    members = [
        (f"{sample.key}.{ending}", content)
        for number, sample in enumerate(samples_of(shard))
        for ending, content in change(number, sample.members).items()
    ]
    shard.write_bytes(tar_bytes(members))
    manifest = shard.parent / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for entry in content["shards"]:
        entry["sha256"] = sha256_of(shard.parent / entry["name"])
    manifest.write_text(json.dumps(content), encoding="utf-8")


# --------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    draw_small_world(tiny_stages()[0].scale, root, ())
    return root


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", str(world), str(tmp_path / "copy")], check=True)
    return tmp_path / "copy"


def train_of(root: Path) -> Path:
    return next((root / "data").iterdir()) / "train"


TRAINED = """
import json, resource, sys
from pathlib import Path
from clipa.resolved import read
from clipa.train import train_stage
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = json.loads(train_stage(read(Path(sys.argv[1]))).read_text())["replaced_samples"]
memory = peak()
after = json.loads(train_stage(read(Path(sys.argv[2]))).read_text())["replaced_samples"]
print(json.dumps([before, after, peak() - memory]))
"""


def test_every_kind_of_bad_sample_is_trained_through_and_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each among good ones, in a process of its own: no more memory is used than for good ones."""
    shards = sorted(train_of(root).glob("*.tar"))
    assert len(shards) * 3 > len(BAD)
    for place, shard in enumerate(shards):
        some = list(BAD.values())[place * 3 : place * 3 + 3]
        rewrite(
            shard, lambda n, members, some=some: changed(members, some[n][0]) if n < len(some) else members
        )
    monkeypatch.setattr("clipa.train.BAD_SAMPLES_LIMIT", 1)
    stage = resolved(tiny_stages()[0], root)
    counted = json.loads(train_stage(stage).read_text(encoding="utf-8"))["replaced_samples"]
    expected = {str(reason) for _, reason in BAD.values()}
    assert set(counted) <= expected and len(counted) > 5
    assert sum(counted.values()) > STEPS * BATCH / 256 * len(BAD) / 2


@pytest.mark.parametrize("size", [(14000, 12800), (13000, 13000)])
def test_a_bomb_of_pixels_takes_no_memory(world: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    roots = [tmp_path / "good", tmp_path / "bomb"]
    for copy in roots:
        subprocess.run(["cp", "-r", str(world), str(copy)], check=True)
    bomb = png(*size)
    for shard in sorted(train_of(roots[1]).glob("*.tar")):
        rewrite(shard, lambda n, members: members | {"jpg": bomb} if n == 0 else members)
    files = [str(write(resolved(tiny_stages()[0], copy))) for copy in roots]
    done = subprocess.run([sys.executable, "-c", TRAINED, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after, kilobytes = json.loads(done.stdout.splitlines()[-1])
    assert not before and list(after) == [Reason.SIZE] and after[Reason.SIZE] > 1
    assert kilobytes < 100_000


def test_past_the_limit_it_stops_in_one_line_with_the_counts(root: Path) -> None:
    for shard in train_of(root).glob("*.tar"):
        rewrite(
            shard,
            lambda n, members: (
                changed(members, BAD["null" if n % 6 else "no image"][0]) if n % 3 == 0 else members
            ),
        )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "clipa", "train", str(write(resolved(tiny_stages()[0], root)))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    counts = r"\(\d+ with [a-z ]+, \d+ with [a-z ]+\)"
    said = rf"clipa train: .*/train: \d+ of \d+ samples are bad {counts}; check the data"
    assert re.fullmatch(said, done.stderr.strip().splitlines()[-1])
    assert {str(Reason.CAPTION), str(Reason.NO_IMAGE)} <= set(re.findall(r"\d with ([a-z ]+)", done.stderr))


def test_counts_survive_a_resume(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipa import train

    for shard in sorted(train_of(root).glob("*.tar"))[:4]:
        rewrite(shard, lambda n, members: changed(members, BAD["null"][0]) if n < 2 else members)
    monkeypatch.setattr(train, "BAD_SAMPLES_LIMIT", 1)
    whole = json.loads(train_stage(resolved(tiny_stages()[0], root, "whole")).read_text(encoding="utf-8"))
    stage, rate = resolved(tiny_stages()[0], root, "cut"), train.learning_rate

    def stopped(step: int, *others: object) -> float:
        if step == 7:
            raise KeyboardInterrupt
        return rate(step, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "learning_rate", stopped)
        train_stage(stage)
    resumed = json.loads(train_stage(stage).read_text(encoding="utf-8"))
    assert resumed["replaced_samples"] == whole["replaced_samples"] != {}


def test_png_and_webp_are_trained_on(root: Path) -> None:
    def in_another_format(number: int, members: dict[str, bytes]) -> dict[str, bytes]:
        ending = ("jpeg", "png", "webp")[number % 3]
        buffer = io.BytesIO()
        Image.open(io.BytesIO(members["jpg"])).save(buffer, ending)
        return {ending: buffer.getvalue(), **{e: c for e, c in members.items() if e != "jpg"}}

    for shard in train_of(root).glob("*.tar"):
        rewrite(shard, in_another_format)
    made = train_stage(resolved(tiny_stages()[0], root))
    assert json.loads(made.read_text(encoding="utf-8"))["replaced_samples"] == {}


def test_a_manifest_of_other_counts_is_refused(root: Path) -> None:
    path = train_of(root) / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for runs, more in (("many", 1), ("few", -2)):  # one too many, then one too few
        for entry in content["shards"]:
            entry["samples"] += more
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ShardError, match=r"\.tar: \d+ samples, the manifest says \d+; draw or download"):
            train_stage(resolved(tiny_stages()[0], root, runs))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"shards": [', "not a manifest"),
        ("[]", "not a manifest"),
        ('{"shards": [{"name": "../0.tar", "sha256": "0", "samples": 1}]}', "not an entry of shards"),
        ('{"shards": [{"name": "0.tar", "sha256": "0", "samples": "1"}]}', "not an entry of shards"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ShardError, match=rf"manifest\.json: {says}.*; draw or download the data again"):
        read_manifest(tmp_path)


# -------------------------------------------------------------------------------------------------------- the parser


def sample(**members: bytes) -> RawSample:
    return RawSample("0", members)


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_has_its_reason(kind: str, tmp_path: Path) -> None:
    change, reason = BAD[kind]
    good = {"jpg": png(8, 8), "txt": b"a cat", **facts(["a cat"])}
    members = [(f"0.{ending}", content) for ending, content in changed(good, change).items()]
    (tmp_path / "0.tar").write_bytes(tar_bytes(members))
    [found] = samples_of(tmp_path / "0.tar")
    with pytest.raises(BadSample) as error:
        samples.image_of(found)
        samples.captions_of(found)
    assert error.value.reason is reason


BYTES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(str.encode),
    st.sampled_from([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8L"]).flatmap(
        lambda start: st.binary(max_size=200).map(lambda rest: start + rest)
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["captions", "caption", "kind"]), inner),
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=400, deadline=None)
@given(BYTES | JSON, BYTES, BYTES)
def test_any_bytes_are_a_sample_or_a_bad_sample(content: bytes, text: bytes, image: bytes) -> None:
    found = sample(json=content, txt=text, jpg=image, cls=content)
    for read in (
        samples.image_of,
        samples.captions_of,
        samples.metadata_of,
        samples.lines_of,
        samples.label_of,
    ):
        try:
            read(found)
        except BadSample as error:
            assert error.reason in Reason and "\n" not in str(error)
    with contextlib.suppress(BadSample):
        assert [caption.encode() for caption in samples.captions_of(sample(txt=text))] == [text]


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    noise = Image.effect_noise((40, 30), 80).convert("RGB")
    made = []
    for kind in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        made.append(buffer.getvalue())
    return made


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_picture_is_one_or_a_bad_sample(pictures: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(pictures)))
    for place, bit in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 7)), max_size=9)
    ):
        content[place] ^= 1 << bit
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert samples.decoded(content).mode == "RGB"
    except BadSample as error:
        assert error.reason in (Reason.IMAGE, Reason.SIZE)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shard")
    write_shards(root, 1, 32)
    return root / "00000.tar"


def damaged(shard: Path, tmp_path: Path, place: int, bit: int) -> Path:
    content = bytearray(shard.read_bytes())
    content[place] ^= 1 << bit
    (tmp_path / "00000.tar").write_bytes(content)
    return tmp_path / "00000.tar"


@pytest.mark.parametrize("member", [0, 1, 42, 95])
@pytest.mark.parametrize("byte", [0, 9, 124, 130, 148, 156, 257, 400])
def test_one_flipped_bit_of_a_header_is_never_the_end(
    shard: Path, tmp_path: Path, member: int, byte: int
) -> None:
    """`clipa index` wrote 14 of 32 samples as the truth."""
    import tarfile

    with tarfile.open(shard) as archive:
        offset = archive.getmembers()[member].offset
    damaged(shard, tmp_path, offset + byte, 2)
    with pytest.raises(ShardError, match=r"00000\.tar: not a whole tar file: unreadable after \d+ samples"):
        index_training(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("rest", [b"", bytes(512), bytes(1024), bytes(1024) + b"x" + bytes(511)])
def test_only_a_whole_archive_is_one(shard: Path, tmp_path: Path, rest: bytes) -> None:
    end = shard.read_bytes().rstrip(b"\0")
    whole = end + bytes(-len(end) % 512)
    (tmp_path / "0.tar").write_bytes(whole + rest)
    if rest == bytes(1024):
        assert len(list(samples_of(tmp_path / "0.tar"))) == 32
    else:
        with pytest.raises(ShardError, match="end mark"):
            list(samples_of(tmp_path / "0.tar"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_shard_is_read_or_refused(
    shard: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(shard.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert len(list(samples_of(path))) <= 32
    except ShardError as error:
        assert "\n" not in str(error)


def test_counts_are_those_of_img2dataset(shard: Path, tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(shard.read_bytes())
    statistics = tmp_path / "00000_stats.json"
    statistics.write_text('{"count": 40, "successes": 33}', encoding="utf-8")
    with pytest.raises(
        DownloadError, match=r"00000\.tar: 32 samples, 00000_stats\.json says 33; delete both"
    ):
        index_training(tmp_path)
    statistics.write_text("{", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"00000_stats\.json: no statistics of img2dataset"):
        index_training(tmp_path)
    statistics.write_text('{"count": 40, "successes": 32}', encoding="utf-8")
    [entry] = json.loads(index_training(tmp_path).read_text(encoding="utf-8"))["shards"]
    assert entry["samples"] == 32


# ---------------------------------------------------------------------------- vocabulary, parts of speech, negatives


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two shards of captions with gold tags, of which five samples are bad."""
    write_shards(tmp_path / "train", 2, 40)
    kinds = ("null", "a caption of 1 MB", "JSON that is a list", "a lone surrogate", "a caption of 1 MB")
    rewrite(
        tmp_path / "train/00001.tar",
        lambda n, members: changed(members, BAD[kinds[n]][0]) if n < len(kinds) else members,
    )
    return tmp_path


COUNTED = (
    "2 with a caption that is no text, 2 with a caption too long, 1 with metadata that are no JSON object"
)


def test_the_vocabulary_leaves_bad_captions_out(texts: Path, capsys: pytest.CaptureFixture) -> None:
    began = time.monotonic()
    made = json.loads(train_vocabulary(texts, 160).read_text(encoding="utf-8"))
    assert made["statistics"]["captions"] == 150 and time.monotonic() - began < 20
    assert capsys.readouterr().err.strip() == f"{texts}/train: 5 samples left out: {COUNTED}"


def test_the_longest_caption_that_is_taken_hangs_nothing(tmp_path: Path) -> None:
    """As one word, and as words of one kind, all of which might change places."""
    write_shards(tmp_path / "train", 1, 8)
    long = [
        "a" * samples.CAPTION_BYTES,
        "ab" * (samples.CAPTION_BYTES // 2),
        "a " * (samples.CAPTION_BYTES // 2),
    ]
    rewrite(tmp_path / "train/00000.tar", lambda n, members: members | (facts(long) if n == 0 else {}))
    began = time.monotonic()
    train_vocabulary(tmp_path, 700)
    assert time.monotonic() - began < 20


def test_a_bad_sample_has_a_line_without_tags(texts: Path, capsys: pytest.CaptureFixture) -> None:
    manifest = json.loads(annotate(texts, 1, WORLD).read_text(encoding="utf-8"))
    assert capsys.readouterr().err.strip().endswith(f"{texts}/train: 5 samples without tags: {COUNTED}")
    lines = (texts / "train/00001.pos.jsonl").read_text(encoding="utf-8").splitlines()
    assert (
        len(lines) == 40
        and [bool(json.loads(line)["captions"]) for line in lines] == [False] * 5 + [True] * 35
    )
    assert (
        "bad_samples" not in manifest["sidecars"][0]
        and sum(manifest["sidecars"][1]["bad_samples"].values()) == 5
    )
    [window] = [ShardReader(texts / "train", "00001.tar", 40, tagged=True).window(0, 40)]
    assert window[4].tagged == [] and len(samples.tagged_captions_of(window[5])[1]) == 2


@pytest.mark.parametrize(
    "verb", [lambda root: train_vocabulary(root, 160), lambda root: annotate(root, 1, WORLD)]
)
def test_a_truncated_shard_makes_neither_vocabulary_nor_tags(texts: Path, verb: Callable) -> None:
    shard = texts / "train/00000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2 // 512 * 512])
    with pytest.raises(ShardError, match=r"00000\.tar: sha256 is \w{16}, its manifest names \w{16};"):
        verb(texts)
    write_manifest(texts / "train", {"00000.tar": 40, "00001.tar": 40})
    with pytest.raises(ShardError, match=r"00000\.tar: not a whole tar file: .*; draw or download it again"):
        verb(texts)
    shard.write_bytes(content)
    write_manifest(texts / "train", {"00000.tar": 41, "00001.tar": 40})
    with pytest.raises(ShardError, match=r"00000\.tar: 40 samples, the manifest says 41"):
        verb(texts)


def digest_again(train: Path) -> None:
    path = train / "annotation.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for entry in content["sidecars"]:
        entry["sha256"] = sha256_of(train / entry["name"])
    path.write_text(json.dumps(with_digest(content)), encoding="utf-8")


def tagged_window(train: Path) -> list[RawSample]:
    return ShardReader(train, "00000.tar", 40, tagged=True).window(0, 40)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"NOUN"', '"NOUM"', r"line 1: 'NOUM' is no part of speech: tag the captions again"),
        ('"NOUN"', "7", r"line 1: 7 is no part of speech"),
        ('["NOUN"', '["ADJ","NOUN"', r"line \d: not one tag for every word"),
        ('{"key"', '["key"', r"line 1: .*: tag the captions again"),
        ('"captions":[{', '"captions":[{},{', r"line 1: 'words'"),
    ],
)
def test_changed_tags_are_refused(texts: Path, old: str, new: str, says: str) -> None:
    annotate(texts, 1, WORLD)
    sidecar = texts / "train/00000.pos.jsonl"
    sidecar.write_text(sidecar.read_text("utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(
        ShardError, match=r"00000\.pos\.jsonl: sha256 is \w{16}, its manifest names \w{16}; tag"
    ):
        tagged_window(texts / "train")
    with pytest.raises(ShardError, match=r"00000\.pos\.jsonl: sha256 is"):
        write_negatives(texts, 1)
    digest_again(texts / "train")
    with pytest.raises(ShardError, match=rf"00000\.pos\.jsonl: {says}"):
        tagged_window(texts / "train")


def test_a_sidecar_of_other_lines_is_refused(texts: Path) -> None:
    annotate(texts, 1, WORLD)
    sidecar = texts / "train/00000.pos.jsonl"
    lines = sidecar.read_text("utf-8").splitlines(keepends=True)
    sidecar.write_text("".join([*lines, lines[0]]), encoding="utf-8")
    digest_again(texts / "train")
    with pytest.raises(ShardError, match=r"00000\.pos\.jsonl: more lines than the 40 samples of 00000\.tar"):
        tagged_window(texts / "train")
    row = json.loads(lines[0])
    row["captions"].pop()
    sidecar.write_text("".join([json.dumps(row) + "\n", *lines[1:]]), encoding="utf-8")
    digest_again(texts / "train")
    with pytest.raises(ShardError, match=r"00000\.pos\.jsonl: line 1: 1 captions, but 2 in sample 000000000"):
        samples.tagged_captions_of(tagged_window(texts / "train")[0])
    sidecar.unlink()
    with pytest.raises(ShardError, match=r"00000\.pos\.jsonl: cannot be read .*; tag the captions again"):
        tagged_window(texts / "train")
    (texts / "train/annotation.json").write_text("{", encoding="utf-8")
    with pytest.raises(ShardError, match=r"annotation\.json: not a manifest .*; tag the captions again"):
        tagged_window(texts / "train")


def test_every_file_of_a_vocabulary_is_checked(texts: Path) -> None:
    train_vocabulary(texts, 160)
    annotate(texts, 1, WORLD)
    home = texts / "vocabulary"
    for name, read in (
        ("entries.json", load_entry_parts),
        ("tokenizer_config.json", load_tokenizer),
        ("tokenizer.json", load_tokenizer),
    ):
        read(home)
        whole = (home / name).read_text(encoding="utf-8")
        other = whole.replace('"NOUN"', '"VERB"', 1) if name == "entries.json" else whole + " "
        assert other != whole
        (home / name).write_text(other, encoding="utf-8")
        with pytest.raises(VocabularyError, match=re.escape(name)):
            read(home)
        (home / name).write_text(whole, encoding="utf-8")
