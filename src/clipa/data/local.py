"""Data of one's own: tars in a folder, by a pattern, or at an address that fsspec opens; test sets in folders.

Nothing is written beside the originals. In the data's own folder stand links to the shards, numbered in the order of
their names, so that the manifest and its digest are the same wherever the files lie. Shards at an address (``s3://…``)
are copied there once, since training reads each of them in every epoch. docs/own-data.md has the layouts.
"""

from __future__ import annotations

import glob
import itertools
import re
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clipa.data.download import LAYOUT, index_test_set, index_training
from clipa.data.samples import BadSample, Reason, captions_of, image_of, label_of, lines_of, named, samples_of
from clipa.data.shards import ShardError, progress_bar
from clipa.files import write_bytes_atomically
from clipa.locks import directory_lock
from clipa.sources import Data

LOOKED_AT = 20
"""Samples of each shard that are decoded before anything is counted: a shard without one good sample is refused."""
MOST_SHARDS = 10**6

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WORDS = re.compile(r"\{([^{}]*,[^{}]*)\}")
_TEST_LAYOUT = (
    "a test set has test/0.tar …, classnames.txt and zeroshot_classification_templates.txt (docs/own-data.md)"
)


class LocalDataError(ValueError):
    """Own data that is not there, or not what is expected; one line that says where and what to do."""


# ------------------------------------------------------------------------------------------------------- finding


def shards_of(files: str) -> list[str]:
    """Paths or addresses of the shards that ``files`` names, in the order of their names.

    ``files`` is a folder (all tars in it), one tar, or a pattern: ``*``, ``?``, ``**``, ``{00000..00999}``, ``{a,b}``.
    LocalDataError where there is none, or one of the numbered ones is missing.
    """
    found: list[str] = []
    for pattern in _without_braces(files):
        matches = _at_address(pattern) if "://" in pattern else _on_disk(pattern)
        if not matches:
            raise LocalDataError(
                f"{files}: no file is called {pattern}; give a folder of tars, or a pattern for them"
            )
        found += matches
    found = sorted(dict.fromkeys(found))
    if other := [path for path in found if not path.endswith(".tar")]:
        raise LocalDataError(f"{other[0]}: not a tar; shards are called NAME.tar (in a pattern: *.tar)")
    return found


def _without_braces(pattern: str) -> list[str]:
    """Each way to fill the braces of a pattern."""
    if numbers := _NUMBERS.search(pattern):
        first, last = (int(end) for end in numbers.groups())
        if not first <= last < first + MOST_SHARDS:
            raise LocalDataError(f"{pattern}: {numbers[0]} names no numbers, or more than {MOST_SHARDS:,}")
        choices = [f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1)]
        match = numbers
    elif words := _WORDS.search(pattern):
        choices, match = words[1].split(","), words
    else:
        return [pattern]
    filled = [pattern[: match.start()] + choice + pattern[match.end() :] for choice in choices]
    return list(itertools.chain.from_iterable(map(_without_braces, filled)))


def _on_disk(pattern: str) -> list[str]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        tars = [str(one) for one in path.glob("*.tar")]
        if not tars:
            raise LocalDataError(
                f"{pattern}: a folder without tars; for tars in folders below, give {pattern}/**/*.tar"
            )
        return tars
    return [one for one in glob.glob(str(path), recursive=True) if Path(one).is_file()]


def _at_address(pattern: str) -> list[str]:
    files, path = _file_system(pattern)
    try:
        if not glob.has_magic(path):
            path = f"{path.rstrip('/')}/*.tar" if files.isdir(path) else path
        return [files.unstrip_protocol(one) for one in files.glob(path)]
    except Exception as error:  # of the store's own library: anything
        raise LocalDataError(f"{pattern}: cannot be listed ({_reason(error)})") from None


def _file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise LocalDataError(
            f"{address}: {_reason(error)} (fsspec opens such addresses with a package of their own)"
        ) from None
    except ValueError as error:
        raise LocalDataError(f"{address}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def fetch(address: str, path: Path) -> None:
    """Copy the shard at ``address`` to ``path``, whole or not at all."""
    files, place = _file_system(address)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        files.get_file(place, str(partial))
        size = files.size(place)
        if size is not None and partial.stat().st_size != size:
            raise LocalDataError(f"{address}: {partial.stat().st_size} bytes of {size} arrived; try again")
        partial.replace(path)
    except LocalDataError:
        raise
    except Exception as error:  # of the store's own library: anything
        raise LocalDataError(f"{address}: cannot be read ({_reason(error)}); try again") from None
    finally:
        partial.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- training shards


def survey(shard: Path, most: int) -> tuple[int, Counter[Reason]]:
    """How many of the first ``most`` samples of a shard were read, and what is wrong with how many of them.

    LocalDataError where none is good, or the file is no whole tar.
    """
    bad: Counter[Reason] = Counter()
    read = 0
    try:
        for sample in itertools.islice(samples_of(shard), most):
            read += 1
            try:
                image_of(sample)
                captions_of(sample)
            except BadSample as error:
                bad[error.reason] += 1
    except ShardError as error:
        raise LocalDataError(str(error).replace("draw or download it again", "write it again")) from None
    if not read:
        raise LocalDataError(
            f"{shard}: an empty tar; a shard has samples NAME.jpg with NAME.txt or NAME.json"
        )
    if bad.total() == read:
        raise LocalDataError(
            f"{shard}: no good sample among the first {read}: {named(bad)}; a sample is NAME.jpg (png, webp) with "
            "NAME.txt, or NAME.json that has `caption`"
        )
    return read, bad


def index_local(data: Data, directory: Path, processes: int = 1) -> Path:
    """Link (or fetch) the shards into ``directory/train`` and write their manifest there; returns its path.

    Raises LocalDataError where their number is not the configuration's, or a shard has no good sample; ShardError.
    """
    train = Path(directory) / "train"
    found = shards_of(data.files)
    if len(found) != data.shards:
        raise LocalDataError(
            f"{data.files}: {len(found)} shards, the scale's file says {data.shards}: correct `shards` there "
            "(which makes it another data set)"
        )
    with directory_lock(train, "links to the training shards"):
        places = {f"{number:05d}.tar": shard for number, shard in enumerate(found)}
        for path in train.glob("*.tar"):
            if path.name not in places:
                path.unlink()
        with progress_bar("looking at shards", len(found), "shard") as bar:
            for name, shard in places.items():
                _place(shard, train / name)
                survey(train / name if "://" in shard else Path(shard), LOOKED_AT)
                bar.update()
    return index_training(train, processes)


def _place(shard: str, path: Path) -> None:
    if "://" in shard:
        if not path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)
            fetch(shard, path)
        return
    original = Path(shard).absolute()
    if not (path.is_symlink() and path.readlink() == original):
        path.unlink(missing_ok=True)
        path.symlink_to(original)


# ------------------------------------------------------------------------------------------------------ test sets


def index_own_test_set(folder: str, directory: Path) -> Path:
    """Link the test set in ``folder`` (CLIP_benchmark's layout) into ``directory``, read every item of it, and write
    its manifest; returns its path. LocalDataError or ShardError names the first item that cannot be evaluated.
    """
    source, directory = Path(folder).expanduser(), Path(directory)
    check_test_set(source)
    with directory_lock(directory, f"links to the test set {directory.name}"):
        (directory / "test").mkdir(exist_ok=True)
        for path in (directory / "test").glob("*.tar"):
            path.unlink()
        for name in (*LAYOUT, "test/nshards.txt"):
            (directory / name).unlink(missing_ok=True)
            if (source / name).is_file():
                write_bytes_atomically(directory / name, (source / name).read_bytes())
        shards = _numbered(source)
        with progress_bar(f"reading {directory.name}", len(shards), "shard") as bar:
            for shard in shards:
                (directory / "test" / shard.name).symlink_to(shard.absolute())
                _check_items(shard, source)
                bar.update()
    return index_test_set(directory)


def check_test_set(folder: Path) -> None:
    """LocalDataError unless a folder has the layout of a test set; :func:`index_own_test_set` looks at items."""
    if not folder.is_dir():
        raise LocalDataError(f"{folder}: no such folder; {_TEST_LAYOUT}")
    kind = test_kind(folder)
    if kind not in ("classification", "retrieval"):
        raise LocalDataError(f"{folder}/dataset_type.txt: {kind!r}; expected classification or retrieval")
    _numbered(folder)
    if kind == "classification":
        for name in LAYOUT[:2]:
            if not (folder / name).is_file() or not (folder / name).read_text(encoding="utf-8").strip():
                raise LocalDataError(f"{folder / name}: missing or empty; {_TEST_LAYOUT}")
        templates = (folder / LAYOUT[1]).read_text(encoding="utf-8").splitlines()
        if wrong := [line for line in templates if "{c}" not in line]:
            raise LocalDataError(
                f"{folder / LAYOUT[1]}: {wrong[0]!r} has no {{c}}, where the class's name goes"
            )


def test_kind(folder: Path) -> str:
    """``classification`` (also where a test set does not say) or ``retrieval``."""
    declared = folder / LAYOUT[2]
    return declared.read_text(encoding="utf-8").strip() if declared.is_file() else "classification"


def _numbered(folder: Path) -> list[Path]:
    shards = list((folder / "test").glob("*.tar"))
    if not shards:
        raise LocalDataError(f"{folder}/test: no tars; {_TEST_LAYOUT}")
    if wrong := sorted(shard for shard in shards if not shard.stem.isdecimal()):
        raise LocalDataError(
            f"{wrong[0]}: the shards of a test set are called by their number: 0.tar, 1.tar …"
        )
    return sorted(shards, key=lambda shard: int(shard.stem))


def _check_items(shard: Path, folder: Path) -> None:
    """Raise LocalDataError for the first item without a good image, or without a label or captions."""
    retrieval = test_kind(folder) == "retrieval"
    classes = 0 if retrieval else len((folder / LAYOUT[0]).read_text(encoding="utf-8").splitlines())
    read = 0
    for sample in samples_of(shard):
        read += 1
        try:
            image_of(sample)
            said = lines_of(sample) if retrieval else label_of(sample)
        except BadSample as error:
            wanted = "NAME.txt, a caption a line" if retrieval else "NAME.cls, the number of its class"
            raise LocalDataError(
                f"{shard}: item {sample.key!r}: {error}; an item is NAME.jpg (png, webp) with {wanted}"
            ) from None
        if not retrieval and said >= classes:
            raise LocalDataError(
                f"{shard}: item {sample.key!r}: class {said}, but classnames.txt has {classes}, from 0 on"
            )
    if not read:
        raise LocalDataError(f"{shard}: an empty tar; {_TEST_LAYOUT}")


def look_at(files: str) -> tuple[list[str], int, Counter[Reason]]:
    """The shards that ``files`` names, and of the first of them: how many samples it has, and what is wrong with some.

    A first look before anything is configured. Raises LocalDataError.
    """
    found = shards_of(files)
    with TemporaryDirectory() as scratch:
        first = Path(found[0])
        if "://" in found[0]:
            first = Path(scratch, first.name)
            fetch(found[0], first)
        survey(first, LOOKED_AT)
        read, bad = survey(first, sys.maxsize)
    return found, read, bad
