"""The one reader of samples: shards in, typed members out, for training, vocabulary, parts of speech and evaluation.

A shard is a tar whose members come side by side by key: an image (jpg, jpeg, png, webp, ppm), its metadata (json) or
its caption (txt), the label of a test item (cls). Nothing else is read, and nothing is unpickled. A shard must be whole
and of the digest and count that its manifest names, else ShardError. A sample in it that is not what it should be is a
:class:`BadSample` with one of the reasons of :class:`Reason`: whoever reads leaves it out or replaces it, and counts.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from clipa.data.shards import Entry, Expected, ShardError, check_bytes, read_manifest
from clipa.data.tars import Member, members
from clipa.files import parsed

PIXELS = 1 << 26
"""Pixels that an image may have, 256 MiB once decoded. ImageNet's largest has 61 million."""
NARROWEST = 100
"""How many times longer than its shorter side an image may be: resizing that side to 224 pixels must fit in memory."""
CAPTION_BYTES = 1 << 14
"""Bytes of UTF-8 that a caption may have. The text tower sees 80 tokens at most, a two-hundredth of that; and what
takes time with the square of a caption's words ends in seconds."""
IMAGE_BYTES = 1 << 26
"""Bytes of an image's member."""
TEXT_BYTES = 1 << 20
"""Bytes of any other member: JSON takes some thirty times its bytes once it is read."""
MEMBERS = 16
"""Members that a sample may have; NegCLIP's have five."""

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
TEXTS = ("json", "txt", "cls")
FORMATS = ("JPEG", "PNG", "WEBP")
"""And PPM of one byte a colour, which is read here: PIL's reader has slow ways for others of its kinds."""
_PPM = re.compile(rb"P6\n(\d{1,5}) (\d{1,5})\n255\n")
_UNIVERSAL = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
TAGS = frozenset((*_UNIVERSAL.split(), "CONJ", "EOL", "SPACE"))
"""Universal POS, and the last three that only spaCy has."""
ANNOTATION = "annotation.json"

_BUFFER = 1 << 20
_META = re.compile(r"__[^/]*__($|/)")  # webdataset's own members, never a sample's
_NAME = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)")
_LABEL = re.compile(r"\s*\d{1,9}\s*", re.ASCII)

# Larger images than PIL warns of are refused below, before they are decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Reason(StrEnum):
    """What is wrong with a sample, as messages and stage.json name it."""

    MEMBERS = "members too many or twice"
    BYTES = "a member too large"
    NO_IMAGE = "no image"
    IMAGE = "an image that cannot be decoded"
    SIZE = "an image too large or too narrow"
    METADATA = "metadata that are no JSON object"
    NO_CAPTION = "no caption"
    CAPTION = "a caption that is no text"
    LENGTH = "a caption too long"
    LABEL = "a label that is no number"


REASONS = tuple(Reason)
"""The order of counts by reason, int64 [R]."""


class BadSample(ValueError):
    """A sample that is not what it should be. ``reason`` is what is counted."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else str(reason))
        self.reason = reason


def named(counts: Mapping[Reason, int]) -> str:
    """Counts by reason in words, the most frequent first: "3 with no image, 1 with a caption too long"."""
    return ", ".join(f"{count} with {reason}" for reason, count in Counter(counts).most_common() if count)


Tagged = tuple[list[str], list[str]]
"""A caption's words, and their parts of speech."""


@dataclass(slots=True)
class RawSample:
    """A sample as it stands in its shard: members by ending, and where each lies, (first byte, number of bytes).

    ``tagged``: words and tags of each caption, where they are asked for, which stand in ``line``; ``fault``: what is
    wrong already; ``count``: its members, those that are not read too.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    tagged: list[Tagged] | None = None
    line: str = ""
    fault: Reason | None = None
    count: int = 0

    def image_ending(self) -> str:
        """The ending of the sample's image. Raises BadSample without one."""
        self.check()
        for ending in IMAGES:
            if ending in self.members:
                return ending
        raise BadSample(Reason.NO_IMAGE)

    def image(self, ending: str | None = None) -> bytes:
        """The bytes of the sample's image, or of the member ``ending``. Raises BadSample without it."""
        ending = ending or self.image_ending()
        self.check()
        if ending not in self.members:
            raise BadSample(Reason.NO_IMAGE, ending)
        return self.members[ending]

    def check(self) -> None:
        """Raises BadSample if reading the shard has found the sample at fault."""
        if self.fault:
            raise BadSample(self.fault)


# ------------------------------------------------------------------------------------------------ typed members


Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge, in pixels."""


def image_of(sample: RawSample) -> Image.Image:
    """The sample's image, RGB. Raises BadSample."""
    return decoded(sample.image())


def decoded(content: bytes) -> Image.Image:
    """The image in a JPEG, PNG, WebP or PPM, RGB. Its size is checked before any pixel is decoded. Raises BadSample."""
    with _opened(content) as image:
        return image.convert("RGB")


def decoded_for(
    content: bytes, crop: Callable[[int, int], Box], target: int | None = None
) -> tuple[Image.Image, Box]:
    """As :func:`decoded`, with the box in it that ``crop(width, height)`` chooses in the image as it is stored.

    ``target``: the box will be resized to so many pixels; then a JPEG is decoded at a half, a quarter or an eighth of
    its size (:func:`reduction_for`), from the low frequencies of its 8 × 8 blocks, and the box is in pixels of that.
    None, and all other formats: as stored. Raises BadSample.
    """
    with _opened(content) as image:
        width, height = image.size
        box = crop(width, height)
        if target is not None and image.format == "JPEG" and (by := reduction_for(box, target)) > 1:
            image.draft(
                None, (width // by, height // by)
            )  # takes the largest of 1, 2, 4, 8 that leaves as much
            box = tuple(edge / by for edge in box)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB"), box


def reduction_for(box: Box, target: int) -> int:
    """The largest of 1, 2, 4 and 8 by which a ``box`` can be reduced and keep ``target`` pixels in both directions."""
    side = min(box[2] - box[0], box[3] - box[1])
    return next((by for by in (8, 4, 2) if side >= by * target), 1)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """A JPEG, PNG, WebP or PPM of allowed size, not yet decoded. What goes wrong with it inside raises BadSample."""
    try:
        with _ppm(content) or Image.open(io.BytesIO(content), formats=FORMATS) as image:
            short, long = sorted(image.size)
            if long * short > PIXELS or long > NARROWEST * short:
                raise BadSample(Reason.SIZE, f"{image.width} × {image.height}")
            yield image
    except (
        BadSample,
        MemoryError,
    ):  # short of memory: not the sample's fault, and it must not change what is read
        raise
    except Image.DecompressionBombError:
        raise BadSample(Reason.SIZE) from None
    except Exception as error:  # PIL's parsers raise almost anything: SyntaxError, struct.error, IndexError
        raise BadSample(Reason.IMAGE, type(error).__name__) from None


def _ppm(content: bytes) -> Image.Image | None:
    """The image in a PPM; None where it is none. ValueError where its size is not that of its content."""
    header = _PPM.match(content)
    if header is None:
        return None
    width, height, pixels = int(header[1]), int(header[2]), content[header.end() :]
    if len(pixels) != 3 * width * height:  # before anything of that size is made
        raise ValueError(f"{len(pixels)} bytes for {width} × {height} pixels")
    return Image.frombytes("RGB", (width, height), pixels)


def metadata_of(sample: RawSample) -> dict[str, Any]:
    """The sample's json member. Raises BadSample where there is none, or it is no JSON object."""
    sample.check()
    if "json" not in sample.members:
        raise BadSample(Reason.METADATA, "none")
    try:
        facts = parsed(sample.members["json"].decode("utf-8"))
    except ValueError as error:
        raise BadSample(Reason.METADATA, type(error).__name__) from None
    if not isinstance(facts, dict):
        raise BadSample(Reason.METADATA, type(facts).__name__)
    return facts


def captions_of(sample: RawSample) -> list[str]:
    """All captions of a sample, at least one: ``captions`` of its metadata, else its txt, else ``caption``.

    Raises BadSample where one of them is no text, too long, or there is none.
    """
    facts = metadata_of(sample) if "json" in sample.members else {}
    sample.check()
    if captions := facts.get("captions"):
        return texts(captions)
    if "txt" in sample.members:
        return [_text(sample.members["txt"])]
    if facts.get("caption") is None:
        raise BadSample(Reason.NO_CAPTION)
    return texts([facts["caption"]])


def tagged_captions_of(sample: RawSample) -> tuple[list[str], list[list[str]]]:
    """All captions of a sample, and the tags of each one's words. Raises BadSample, or ShardError for lack of tags."""
    captions, tagged = captions_of(sample), sample.tagged or ()
    if len(captions) != len(tagged):
        raise ShardError(
            f"{sample.line}: {len(tagged)} captions, but {len(captions)} in sample {sample.key}: tag the captions again"
        )
    return captions, [tags for _, tags in tagged]


def lines_of(sample: RawSample) -> list[str]:
    """The lines of the sample's txt member: the captions of a test item. Raises BadSample without one."""
    sample.check()
    if "txt" not in sample.members:
        raise BadSample(Reason.NO_CAPTION)
    try:
        lines = texts(sample.members["txt"].decode("utf-8").splitlines())
    except UnicodeDecodeError:
        raise BadSample(Reason.CAPTION, "not UTF-8") from None
    if not lines:
        raise BadSample(Reason.NO_CAPTION)
    return lines


def label_of(sample: RawSample) -> int:
    """The sample's cls member, the number of a class. Raises BadSample."""
    sample.check()
    try:
        text = sample.members["cls"].decode("ascii")
    except (KeyError, UnicodeDecodeError):
        raise BadSample(Reason.LABEL) from None
    if not _LABEL.fullmatch(text):
        raise BadSample(Reason.LABEL, repr(text[:20]))
    return int(text)


def texts(values: Any) -> list[str]:
    """``values`` if it is a list of texts of at most CAPTION_BYTES each. Raises BadSample otherwise."""
    if not isinstance(values, list):
        raise BadSample(Reason.CAPTION, f"{type(values).__name__} for a list")
    for value in values:
        if not isinstance(value, str):
            raise BadSample(Reason.CAPTION, type(value).__name__)
        try:
            length = len(value) if value.isascii() else len(value.encode("utf-8"))
        except UnicodeEncodeError:
            raise BadSample(Reason.CAPTION, "a lone surrogate") from None
        if length > CAPTION_BYTES:
            raise BadSample(Reason.LENGTH, f"{length} bytes")
    return values


def _text(content: bytes) -> str:
    if len(content) > CAPTION_BYTES:
        raise BadSample(Reason.LENGTH, f"{len(content)} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSample(Reason.CAPTION, "not UTF-8") from None


# ------------------------------------------------------------------------------------------------------- shards


def read_shard(
    directory: Path, entry: Entry, endings: tuple[str, ...] = IMAGES + TEXTS, tagged: bool = False
) -> Iterator[RawSample]:
    """All samples of the shard that a manifest's ``entry`` names: its sha256 first, its number of samples last.

    ``tagged``: with their captions' words and tags, from the sidecar beside the shard. Raises ShardError.
    """
    path, count = Path(directory) / entry["name"], 0
    check_bytes(path, entry["sha256"])
    found = samples_of(path, endings)
    for sample in with_tags(found, path) if tagged else found:
        count += 1
        yield sample
    if count != entry["samples"]:
        raise miscounted(path, count, entry["samples"])


def miscounted(path: Path, found: int, expected: int) -> ShardError:
    return ShardError(f"{path}: {found} samples, the manifest says {expected}; draw or download it again")


def samples_of(path: Path, endings: tuple[str, ...] = IMAGES + TEXTS) -> Iterator[RawSample]:
    """The samples of a whole tar, grouped as webdataset groups them: by what stands before a name's first dot.

    Of members whose ending's last part is in ``endings`` the bytes are read. Raises ShardError where the file is not a
    whole tar: tarfile takes a damaged header for the end, so what stands there must be the end mark.
    """
    sample: RawSample | None = None
    read = 0
    try:
        with (
            open(path, "rb", buffering=_BUFFER) as file,
            closing(members(file)) as found,
        ):
            for member in found:
                parts = _NAME.fullmatch(member.name)
                if not member.plain or not parts or _META.match(member.name):
                    continue
                key, ending = parts[1], parts[2].lower()
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample, read = RawSample(key), read + 1
                _add(sample, member, ending, file, endings)
    except (ShardError, MemoryError):
        raise
    except Exception as error:  # of a tar: TarError, EOFError, OSError, ValueError, RecursionError
        raise ShardError(
            f"{path}: not a whole tar file: unreadable after {read} samples ({_line(error)}); draw or download it again"
        ) from None
    if sample is not None:
        yield sample


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _add(sample: RawSample, member: Member, ending: str, file: Any, endings: tuple[str, ...]) -> None:
    """Read a member of ``sample`` if it is one of ``endings``, within all limits; else say what is wrong with it."""
    sample.count += 1
    kind = ending.rpartition(".")[2]
    if sample.count > MEMBERS or ending in sample.places:
        sample.fault = Reason.MEMBERS
    if sample.fault or kind not in endings:
        return
    if member.size > (IMAGE_BYTES if kind in IMAGES else TEXT_BYTES):
        sample.fault = Reason.BYTES
        return
    sample.places[ending] = member.place, member.size
    file.seek(member.place)
    content = file.read(member.size)
    if len(content) != member.size:
        raise EOFError(f"{member.name} is cut short")
    sample.members[ending] = content


class ShardReader:
    """Sequential reader of one shard that returns windows of raw samples.

    ``samples``: how many the manifest says; ``tagged``: each gets its captions' words and parts of speech;
    ``expected``: compared with the bytes before they are read (None: the bytes are trusted); ``sidecars``: the folder
    with the parts of speech, where it is not the shard's.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        samples: int,
        tagged: bool,
        expected: Expected | None = None,
        sidecars: Path | None = None,
    ) -> None:
        self.path, self.samples, self.next = directory / name, samples, 0
        if expected is not None:
            expected.check(self.path)
        found = samples_of(self.path)
        self._samples = with_tags(found, self.path, expected, sidecars) if tagged else found

    def window(self, first: int, size: int) -> list[RawSample]:
        """``size`` samples from the ``first`` on, which must not have been read. ShardError if they cannot be read."""
        for _ in range(self.next, first):
            self._following()
        window = [self._following() for _ in range(size)]
        if self.next == self.samples and next(self._samples, None) is not None:
            raise miscounted(self.path, self.next + 1, self.samples)
        return window

    def _following(self) -> RawSample:
        sample = next(self._samples, None)
        if sample is None:
            raise miscounted(self.path, self.next, self.samples)
        self.next += 1
        return sample


# ----------------------------------------------------------------------------------------- parts of speech beside


def with_tags(
    samples: Iterator[RawSample],
    shard: Path,
    expected: Expected | None = None,
    folder: Path | None = None,
) -> Iterator[RawSample]:
    """Every sample with its captions' words and tags, from the sidecar beside ``shard``, or in ``folder``.

    Raises ShardError where there is no sidecar, it is not of the digest that is ``expected`` (without one, that
    annotation.json names), or not of these samples.
    """
    sidecar = (folder or shard.parent) / f"{shard.stem}.pos.jsonl"
    sha256, again = (expected.sidecar, expected.again) if expected else (None, False)
    if sha256 is None and (sha256 := sidecar_digests(sidecar.parent).get(sidecar.name)) is None:
        raise ShardError(f"{sidecar.parent / ANNOTATION}: names no {sidecar.name}: tag the captions again")
    lines = tagged_lines(sidecar, sha256, again)
    number = 0
    for number, sample in enumerate(samples, 1):
        key, tagged = next(lines, ("the end", []))
        if key != sample.key:
            raise ShardError(f"{sidecar}: {key} where {sample.key} is expected: tag the captions again")
        sample.tagged, sample.line = tagged, f"{sidecar}: line {number}"
        yield sample
    if next(lines, None) is not None:
        raise ShardError(f"{sidecar}: more lines than the {number} samples of {shard.name}: tag them again")


def tagged_lines(sidecar: Path, sha256: str, again: bool = False) -> Iterator[tuple[str, list[Tagged]]]:
    """(key, words and tags of each caption) of every line of a sidecar, its digest checked first. Raises ShardError."""
    check_bytes(sidecar, sha256, again, cure="tag the captions again (python -m clipa annotate)")
    with open(sidecar, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _tagged_line(line)
            except (ValueError, KeyError, TypeError) as error:
                raise ShardError(
                    f"{sidecar}: line {number}: {_line(error)}: tag the captions again (python -m clipa annotate)"
                ) from None


def _tagged_line(line: bytes) -> tuple[str, list[Tagged]]:
    row = parsed(line.decode("utf-8"))
    tagged = [(caption["words"], caption["tags"]) for caption in row["captions"]]
    for words, tags in tagged:
        if not (isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)):
            raise ValueError("not one tag for every word")
        if unknown := [tag for tag in tags if not isinstance(tag, str) or tag not in TAGS]:
            raise ValueError(f"{unknown[0]!r} is no part of speech")
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a word that is no text")
    if not isinstance(row["key"], str):
        raise ValueError("a key that is no text")
    return row["key"], tagged


def sidecar_digests(directory: Path) -> dict[str, str]:
    """The sha256 of every sidecar of a training set, by name. Raises ShardError where the captions are not tagged."""
    path = directory / ANNOTATION
    try:
        state = path.stat()
    except OSError:
        raise ShardError(f"{path}: missing: tag the captions first (python -m clipa annotate)") from None
    return _sidecar_digests(directory, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=2)
def _sidecar_digests(directory: Path, state: tuple[int, ...]) -> dict[str, str]:
    """Read again when ``state`` has changed."""
    return {one["name"]: one["sha256"] for one in read_manifest(directory, ANNOTATION)["sidecars"]}
