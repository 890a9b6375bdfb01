"""ARO's four test sets (Yuksekgonul et al., 2023; Table 14), in the layout of the embedded world's `order` set.

=================== ============ ===================================================== =========================
set                 items in ARO image                                                 wrong captions
=================== ============ ===================================================== =========================
vg_relation         23,937       crop of a Visual Genome image to the two things       subject and object change
vg_attribution      28,748       the same                                              attributes change places
coco_order          25,010       COCO's Karpathy test images, once for each caption    four orders of its words
flickr30k_order     5,000        Flickr30k's, likewise                                 the same
=================== ============ ===================================================== =========================

The rules are those of ARO's repository (github.com/mertyg/vision-language-models-are-bows). docs/data.md says which
files must be placed by hand, and where our items differ from those behind the paper's numbers.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from clipa.data.annotation import describe_pipeline, tagged_captions
from clipa.data.captions import wrong_orders
from clipa.data.download import index_test_set
from clipa.data.samples import BadSample, decoded
from clipa.data.shards import Entry, Members, file_sha256, progress_bar, tar_bytes, writing
from clipa.downloads import DownloadError
from clipa.files import read_json, write_text_atomically
from clipa.resolved import fingerprint

VERSION = 1
"""Raised when the same files would give other items."""
ORDER_SEED = 2023
"""Seed of the orders of words; ARO's own are drawn without a seed."""
_ITEMS_PER_SHARD = 500
CONVERSION = "conversion.json"
MAX_WORDS = 30
NOTEBOOK = "aro_notebook.ipynb"

# Folders of images may stay zipped; a zip is named like its folder, except for this one.
ARCHIVED = {"images": "vgr_vga_images.zip", "flickr30k-images": "flickr30k-images.zip"}
_DRIVE = "from ARO's Google Drive, gdown"
_PLACES = {
    "visual_genome_relation.json": f"{_DRIVE} 1kX2iCHEv0CADL8dSO1nMdW-V0NqIAiP3",
    "visual_genome_attribution.json": f"{_DRIVE} 13tWvOrNOLHxl3Rm9cR3geAdHx2qR3-Tw",
    "images": f"{_DRIVE} 1qaPlrwhGNMrR3a11iopZUT_GPP_LrgP9 (vgr_vga_images.zip)",
    "flickr30k-images": "on request, forms.illinois.edu/sec/229675",
    "val2014": "python -m clipa download val2014.zip results/data/aro",
}


BY_HAND = ("visual_genome_relation.json", "visual_genome_attribution.json", "images", "flickr30k-images")
"""What must be placed in ARO's folder by hand; folders may be archives."""


def place_of(name: str) -> str:
    """Where one of ARO's files comes from."""
    return _PLACES.get(name, f"python -m clipa download {name} results/data/aro")


@dataclass(frozen=True)
class Source:
    """One set: the kind of its items, the file that lists them, how many ARO has, which of its files are downloads."""

    kind: str
    listing: str
    items: int
    downloads: tuple[str, ...] = ()


SETS = {
    "vg_relation": Source("relation", "visual_genome_relation.json", 23937, (NOTEBOOK,)),
    "vg_attribution": Source("attribute", "visual_genome_attribution.json", 28748),
    "coco_order": Source(
        "order", "coco_karpathy_test.json", 25010, ("coco_karpathy_test.json", "val2014.zip")
    ),
    "flickr30k_order": Source("order", "flickr30k_test.json", 5000, ("flickr30k_test.json",)),
}


@dataclass(frozen=True)
class Case:
    """One item without its image: ``captions`` are the right and the wrong one, in an order set the right one alone."""

    image: str
    captions: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    group: str | None = None


class Images:
    """Encoded images by their paths below a folder, whose top folders may still be archives (``val2014.zip``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._last: tuple[str, bytes] = ("", b"")

    def read(self, name: str) -> bytes:
        """The bytes of a whole image. Raises DownloadError when it is missing or broken."""
        if name != self._last[0]:  # an image is read once for each of its captions, in a row
            content = self._content(name)
            try:
                decoded(content)
            except BadSample as error:
                raise DownloadError(
                    f"{self._folder / name}: not a whole image ({error}); get it again"
                ) from None
            self._last = (name, content)
        return self._last[1]

    def _content(self, name: str) -> bytes:
        path, top = self._folder / name, name.partition("/")[0]
        if path.is_file():
            return path.read_bytes()
        archive = self._folder / ARCHIVED.get(top, f"{top}.zip")
        try:
            if top not in self._archives and archive.is_file():
                self._archives[top] = zipfile.ZipFile(archive)
            if top in self._archives and name in self._archives[top].NameToInfo:
                return self._archives[top].read(name)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise DownloadError(f"{archive}: cannot be read ({error}); get it again") from None
        raise DownloadError(f"{path}: missing; get it: {_PLACES.get(top, top)} (docs/data.md)")


def convert(
    name: str, sources: Path, home: Path, tagger: str, items_per_shard: int = _ITEMS_PER_SHARD
) -> Path:
    """Make the set ``name`` of SETS in ``home`` from the files in ``sources``; returns the path of its manifest.

    An interrupted conversion is resumed; ``conversion.json`` says what the shards were made from. ``tagger`` is a spaCy
    pipeline, for the orders of words. Raises DownloadError for a file that is missing or broken, AnnotationError
    without the pipeline, ValueError for an unknown set.
    """
    if name not in SETS:
        raise ValueError(f"{name!r} is no set of ARO: choose from {', '.join(SETS)}")
    source, sources, home = SETS[name], Path(sources), Path(home)
    cases = read_cases(name, sources)
    about = _about(name, sources, tagger, items_per_shard)
    header = {"fingerprint": fingerprint(about), **about}
    images = Images(sources)
    jobs = {
        f"{number}.tar": (name, cases[start : start + items_per_shard], start, tagger, images)
        for number, start in enumerate(range(0, len(cases), items_per_shard))
    }
    with writing(home / CONVERSION, f"conversion of ARO's {name}", home / "test") as parts:
        write_text_atomically(home / "dataset_type.txt", "order\n")
        write_text_atomically(home / "test" / "nshards.txt", f"{len(jobs)}\n")
        if not parts.resume(header):
            (home / "manifest.json").unlink(missing_ok=True)
            with progress_bar(f"converting {name}", len(cases), "item") as bar:
                shards = parts.write(_convert_shard, jobs, report=lambda entry: bar.update(entry["samples"]))
            parts.finish({**header, "shards": shards})
    if len(cases) != source.items:
        print(f"{home.name}: {len(cases)} items, ARO has {source.items}", file=sys.stderr, flush=True)
    return index_test_set(home)


def read_cases(name: str, sources: Path) -> list[Case]:
    """The items of a set, in the order of its listing. Raises DownloadError when that is missing or not as expected."""
    source = SETS[name]
    rows = _json(sources / source.listing)
    try:
        if source.kind == "order":
            return [Case(row["image"], (clean(text),)) for row in rows for text in row["caption"]]
        left_out = excluded_relations(sources / NOTEBOOK) if source.kind == "relation" else frozenset()
        return [_crop_case(row, left_out) for row in rows]
    except (KeyError, TypeError, IndexError) as error:
        raise DownloadError(
            f"{sources / source.listing}: not ARO's listing ({error!r}); get it: {place_of(source.listing)}"
        ) from None


def _crop_case(row: dict[str, Any], left_out: frozenset[str]) -> Case:
    group = row["relation_name"] if "relation_name" in row else "_".join(row["attributes"])
    left, top = row["bbox_x"], row["bbox_y"]
    box = (left, top, left + row["bbox_w"], top + row["bbox_h"])
    captions = (row["true_caption"], row["false_caption"])
    return Case(f"images/{row['image_path']}", captions, box, None if group in left_out else group)


def excluded_relations(notebook: Path) -> frozenset[str]:
    """The relations that ARO's notebook leaves out of the mean of VG-Relation: symmetric ones, and rare ones.

    Read from the list that one of its cells calls ``symmetric``; nothing is executed. Raises DownloadError.
    """
    for cell in _json(notebook).get("cells", []):
        try:
            statements = ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else []
        except SyntaxError:  # a cell of the notebook's own commands
            continue
        for statement in statements:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "symmetric":
                return frozenset(ast.literal_eval(statement.value))
    raise DownloadError(f"{notebook}: has no list `symmetric`; get it again: {place_of(NOTEBOOK)}")


def clean(caption: str) -> str:
    """A caption as ARO shows it to a model: lower case, without .!"()*#:;~, at most 30 words."""
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", caption.lower()).split()[:MAX_WORDS])


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise DownloadError(f"{path}: missing; get it: {place_of(path.name)} (docs/data.md)") from None
    except ValueError as error:
        raise DownloadError(f"{path}: not JSON ({error}); get it again: {place_of(path.name)}") from None


def _about(name: str, sources: Path, tagger: str, items_per_shard: int) -> dict[str, Any]:
    """Everything that the items depend on but the images."""
    texts = {SETS[name].listing, *(file for file in SETS[name].downloads if not file.endswith(".zip"))}
    about = {
        "set": name,
        "version": VERSION,
        "items_per_shard": items_per_shard,
        "sha256": {file: file_sha256(sources / file) for file in sorted(texts)},
    }
    if SETS[name].kind == "order":
        about |= {"seed": ORDER_SEED, "tagger": describe_pipeline(tagger)}
    return about


def _convert_shard(
    shard: str, name: str, cases: Sequence[Case], first: int, tagger: str, images: Images
) -> tuple[bytes, Entry]:
    """Items ``first``, ``first`` + 1, …: of each its image and ``{"kind", "captions", perhaps "group"}``."""
    options = _options(name, cases, first, tagger)
    members: Members = []
    for index, (case, captions) in enumerate(zip(cases, options, strict=True), first):
        content, suffix = images.read(case.image), "jpg"
        if case.box is not None:
            content, suffix = crop(content, case.box, case.image), "png"
        facts: dict[str, Any] = {"kind": SETS[name].kind, "captions": captions}
        if case.group is not None:
            facts["group"] = case.group
        text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
        members += [(f"{index:06d}.{suffix}", content), (f"{index:06d}.json", text.encode("utf-8"))]
    return tar_bytes(members), {"name": shard, "samples": len(cases)}


def _options(name: str, cases: Sequence[Case], first: int, tagger: str) -> Iterator[list[str]]:
    """Right and wrong captions of items ``first``, ``first`` + 1, …

    In order sets a space is put between any two words of BERT's basic tokenizer, in the right caption as in the wrong
    ones, so that spaces do not give the right one away.
    """
    if SETS[name].kind != "order":
        yield from (list(case.captions) for case in cases)
        return
    own = zlib.crc32(name.encode())
    tagged = tagged_captions(tagger, [case.captions[0] for case in cases])
    for index, (words, tags) in enumerate(tagged, first):
        seeds = numpy.random.SeedSequence([ORDER_SEED, own, index])
        slots = [[i for i, tag in enumerate(tags) if tag in kind] for kind in (("NOUN", "PROPN"), ("ADJ",))]
        right = " ".join(words)
        yield [
            right,
            *wrong_orders(right, words, slots, numpy.random.Generator(numpy.random.PCG64(seeds))),
        ]


def crop(content: bytes, box: tuple[float, float, float, float], name: str) -> bytes:
    """The part of an encoded image inside ``box`` (left, top, right, bottom), as PNG: no pixel changes.

    As in ARO, what lies outside the image is black. Raises DownloadError for an empty box.
    """
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DownloadError(f"{name}: the box {box} is empty; get the listing again")
    written = io.BytesIO()
    decoded(content).crop(box).save(written, "PNG")
    return written.getvalue()
