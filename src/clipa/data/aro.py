"""ARO's four test sets (Yuksekgonul et al., 2023; Table 14), in the layout of the embedded world's `order` set.

=================== ============ ===================================================== =========================
set                 items in ARO picture                                               wrong captions
=================== ============ ===================================================== =========================
vg_relation         23,937       crop of a Visual Genome picture to the two things     subject and object change
vg_attribution      28,748       the same                                              attributes change places
coco_order          25,010       COCO's Karpathy test pictures, once for each caption  four orders of its words
flickr30k_order     5,000        Flickr30k's, likewise                                 the same
=================== ============ ===================================================== =========================

What ARO does was read from its repository (github.com/mertyg/vision-language-models-are-bows); docs/data.md says which
files a person must place, and where our sets are not the very items behind the paper's numbers.
"""

from __future__ import annotations

import ast
import hashlib
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
from PIL import Image

from clipa.data.download import DownloadError, fetch, index_test_set
from clipa.data.orders import wrong_orders
from clipa.files import write_bytes_atomically, write_json_atomically, write_text_atomically
from clipa.locks import directory_lock
from clipa.runs import fingerprint

VERSION = 1
"""Raised when the same files would give other items."""
ORDER_SEED = 2023
"""Names the stream that the orders of words are drawn from; ARO's own draws have no seed."""
ITEMS_PER_SHARD = 500
CONVERSION = "conversion.json"
MAX_WORDS = 30
NOTEBOOK = "aro_notebook.ipynb"
_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/datasets"
_REPOSITORY = "https://raw.githubusercontent.com/mertyg/vision-language-models-are-bows"

DOWNLOADS = {
    "coco_karpathy_test.json": f"{_LAVIS}/coco_karpathy_test.json",
    "flickr30k_test.json": f"{_LAVIS}/flickr30k_test.json",
    "val2014.zip": "http://images.cocodataset.org/zips/val2014.zip",
    NOTEBOOK: f"{_REPOSITORY}/42dbb5e264043afeacf583892d198bf5d0f0396a/notebooks/"
    "Replicate%20ARO!%20VG-Relation%2C%20VG-Attribution.ipynb",
}
"""What has a plain address, by the name that it gets in the folder of sources."""

# Folders of pictures may stay in their archives, which are called like them but for this one.
_ARCHIVES = {"images": "vgr_vga_images.zip"}
_DRIVE = "from ARO's Google Drive, gdown"
_PLACES = {
    "visual_genome_relation.json": f"{_DRIVE} 1kX2iCHEv0CADL8dSO1nMdW-V0NqIAiP3",
    "visual_genome_attribution.json": f"{_DRIVE} 13tWvOrNOLHxl3Rm9cR3geAdHx2qR3-Tw",
    "images": f"{_DRIVE} 1qaPlrwhGNMrR3a11iopZUT_GPP_LrgP9 (vgr_vga_images.zip)",
    "flickr30k-images": "on request, forms.illinois.edu/sec/229675",
    **{name: f"python -m clipa aro {name}" for name in DOWNLOADS},
    "val2014": "python -m clipa aro val2014.zip",
}


@dataclass(frozen=True)
class Source:
    """One set: the kind of its items, the file that lists them, how many ARO has, what can be downloaded for it."""

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
    """One item before its picture is read: ``captions`` are right and wrong, or of an order set the right one alone."""

    picture: str
    captions: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    group: str | None = None


class Pictures:
    """Encoded pictures by their paths below a folder, whose top folders may still be archives (``val2014.zip``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._last: tuple[str, bytes] = ("", b"")

    def read(self, name: str) -> bytes:
        """The bytes of a whole picture. Raises DownloadError when it is missing or broken."""
        if name != self._last[0]:  # a picture comes as often as it has captions, one after the other
            content = self._content(name)
            try:
                Image.open(io.BytesIO(content)).load()
            except (OSError, SyntaxError) as error:
                raise DownloadError(
                    f"{self._folder / name}: not a whole picture ({error}); get it again"
                ) from None
            self._last = (name, content)
        return self._last[1]

    def _content(self, name: str) -> bytes:
        path, top = self._folder / name, name.partition("/")[0]
        if path.is_file():
            return path.read_bytes()
        archive = self._folder / _ARCHIVES.get(top, f"{top}.zip")
        try:
            if top not in self._archives and archive.is_file():
                self._archives[top] = zipfile.ZipFile(archive)
            if top in self._archives and name in self._archives[top].NameToInfo:
                return self._archives[top].read(name)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise DownloadError(f"{archive}: cannot be read ({error}); get it again") from None
        raise DownloadError(f"{path}: missing; get it: {_PLACES.get(top, top)} (docs/data.md)")


def download(name: str, folder: Path) -> Path:
    """Download one of DOWNLOADS into ``folder``; returns its path. Raises DownloadError."""
    return fetch(DOWNLOADS[name], Path(folder) / name)


def convert(
    name: str, sources: Path, home: Path, tagger: str, items_per_shard: int = ITEMS_PER_SHARD
) -> Path:
    """Make the set ``name`` of SETS in ``home`` from the files in ``sources``; returns the path of its manifest.

    Shards are written one at a time and noted in ``conversion.json``, the manifest last; an interrupted conversion
    goes on where it was. ``tagger`` is a spaCy pipeline, for the orders of words. Raises DownloadError in one line for
    a file that is missing or broken, AnnotationError without the pipeline, ValueError for an unknown set.
    """
    if name not in SETS:
        raise ValueError(f"{name!r} is no set of ARO: choose from {', '.join(SETS)}")
    source, sources, home = SETS[name], Path(sources), Path(home)
    cases = read_cases(name, sources)
    about = _about(name, sources, tagger, items_per_shard)
    starts = range(0, len(cases), items_per_shard)
    with directory_lock(home, f"conversion of ARO's {name}"):
        shards = [f"{number}.tar" for number in range(len(starts))]
        done = _begin(home, fingerprint(about), shards)
        pictures = Pictures(sources)
        with _bar(name, len(cases), initial=sum(entry["samples"] for entry in done.values())) as bar:
            for shard, start in zip(shards, starts, strict=True):
                if shard in done:
                    continue
                members: list[tuple[str, bytes]] = []
                for item in _items(name, cases[start : start + items_per_shard], start, tagger, pictures):
                    members += item
                    bar.update()
                done[shard] = _write(home / "test" / shard, members)
                entries = [done[one] for one in shards if one in done]
                note = {"fingerprint": fingerprint(about), **about, "shards": entries}
                write_json_atomically(home / CONVERSION, note)
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
            f"{sources / source.listing}: not ARO's listing ({error!r}); get it: {_PLACES[source.listing]}"
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
    raise DownloadError(f"{notebook}: has no list `symmetric`; get it again: {_PLACES[NOTEBOOK]}")


def clean(caption: str) -> str:
    """A caption as ARO shows it to a model: lower case, without .!"()*#:;~, at most 30 words."""
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", caption.lower()).split()[:MAX_WORDS])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DownloadError(f"{path}: missing; get it: {_PLACES[path.name]} (docs/data.md)") from None
    except ValueError as error:
        raise DownloadError(f"{path}: not JSON ({error}); get it again: {_PLACES[path.name]}") from None


def _about(name: str, sources: Path, tagger: str, items_per_shard: int) -> dict[str, Any]:
    """Everything that the items depend on but the pictures."""
    from clipa.data.annotation import describe_pipeline

    texts = {SETS[name].listing, *(file for file in SETS[name].downloads if not file.endswith(".zip"))}
    about = {
        "set": name,
        "version": VERSION,
        "items_per_shard": items_per_shard,
        "sha256": {file: hashlib.sha256((sources / file).read_bytes()).hexdigest() for file in sorted(texts)},
    }
    if SETS[name].kind == "order":
        about |= {"seed": ORDER_SEED, "tagger": describe_pipeline(tagger)}
    return about


def _begin(home: Path, mark: str, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Clear ``home`` of what is not of this conversion; returns the entries of its finished shards, by name."""
    from clipa.data.shards import sound_shards

    folder = home / "test"
    folder.mkdir(exist_ok=True)
    done = sound_shards(folder, mark, (home / CONVERSION,))
    if set(done) != set(wanted):
        (home / "manifest.json").unlink(missing_ok=True)
    for path in [*folder.glob("*.tar"), *folder.glob(".*.tmp")]:
        if path.name not in done:
            path.unlink()
    write_text_atomically(home / "dataset_type.txt", "order\n")
    write_text_atomically(folder / "nshards.txt", f"{len(wanted)}\n")
    return done


def _options(name: str, cases: Sequence[Case], first: int, tagger: str) -> Iterator[list[str]]:
    """Right and wrong captions of items ``first``, ``first`` + 1, …

    Words are written apart as BERT's basic tokenizer splits them, right caption and wrong ones alike, so that spaces
    do not tell them apart.
    """
    if SETS[name].kind != "order":
        yield from (list(case.captions) for case in cases)
        return
    from clipa.data.annotation import tagged_captions

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


def _items(
    name: str, cases: Sequence[Case], first: int, tagger: str, pictures: Pictures
) -> Iterator[list[tuple[str, bytes]]]:
    """The two files of each item, its picture and ``{"kind", "captions", perhaps "group"}``."""
    options = _options(name, cases, first, tagger)
    for index, (case, captions) in enumerate(zip(cases, options, strict=True), first):
        content, suffix = pictures.read(case.picture), "jpg"
        if case.box is not None:
            content, suffix = crop(content, case.box, case.picture), "png"
        facts: dict[str, Any] = {"kind": SETS[name].kind, "captions": captions}
        if case.group is not None:
            facts["group"] = case.group
        said = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        yield [(f"{index:06d}.{suffix}", content), (f"{index:06d}.json", said)]


def _write(path: Path, members: list[tuple[str, bytes]]) -> dict[str, Any]:
    """Write one shard; returns its name, number of samples and sha256."""
    from clipa.data.shards import tar_bytes

    content = tar_bytes(members)
    write_bytes_atomically(path, content)
    return {"name": path.name, "samples": len(members) // 2, "sha256": hashlib.sha256(content).hexdigest()}


def crop(content: bytes, box: tuple[float, float, float, float], name: str) -> bytes:
    """The part of an encoded picture inside ``box`` (left, top, right, bottom), as PNG: no pixel changes.

    As in ARO, what lies outside the picture is black. Raises DownloadError for an empty box.
    """
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DownloadError(f"{name}: the box {box} is empty; get the listing again")
    written = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").crop(box).save(written, "PNG")
    return written.getvalue()


def _bar(name: str, items: int, initial: int) -> Any:
    from tqdm import tqdm

    seconds = 0.5 if sys.stderr.isatty() else 10
    return tqdm(total=items, initial=initial, desc=f"converting {name}", unit="item", mininterval=seconds)
