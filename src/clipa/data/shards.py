"""Shards and test sets on disk: drawn by any number of processes, written atomically, always the same bytes.

Under the world's folder (``results/data/<slug>``): ``train/00000.tar`` … with ``train/manifest.json``, and
``test/<set>/`` in CLIP_benchmark's local webdataset layout with ``test/<set>/manifest.json``. A manifest is
written last and names every file's sha256; while drawing, ``manifest.partial.json`` keeps what is done, so an
interrupted drawing goes on where it was. One lock file per folder (``.lock``) keeps two writers apart.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from clipa.data import TEST_SETS, WORLD, WorldParameters, testsets, world_fingerprint
from clipa.data.pictograms import encode, layout, render, scene_captions
from clipa.data.processes import in_processes
from clipa.files import write_bytes_atomically
from clipa.locks import directory_lock

Progress = Callable[[int, int], None]
Members = list[tuple[str, bytes]]


def to_json(value: object) -> bytes:
    """Canonical JSON of a manifest: sorted keys, one line per entry, newline at the end."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode("utf-8")


def tar_bytes(members: Members) -> bytes:
    """A tar of (name, content) members, whose bytes depend on nothing else (no time, owner or host)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o644, 0
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def train_members(parameters: WorldParameters, index: int) -> Members:
    """Files of one training sample: <key>.jpg, <key>.txt (first caption), <key>.json (all of it)."""
    scene = layout(parameters, "train", index)
    captions = scene_captions(parameters, scene)
    facts = scene.facts()
    meta = {
        "captions": [caption.text for caption in captions],
        "pos": [list(caption.tags) for caption in captions],
        "label": scene.label,
        "figures": [asdict(figure) for figure in facts.figures],
        "boxes": [[f.left, f.top, f.width, f.height] for f in scene.figures],
        "texture": facts.texture,
        "position": list(facts.position) if facts.position else None,
        "relation": facts.relation,
    }
    key = f"{index:09d}"
    return [
        (f"{key}.jpg", encode(render(parameters, scene))),
        (f"{key}.txt", captions[0].text.encode("utf-8")),
        (f"{key}.json", json.dumps(meta, separators=(",", ":")).encode("utf-8")),
    ]


def _draw_shard(parameters: WorldParameters, split: str, path: Path, start: int, stop: int) -> dict:
    """Draw samples start..stop of a split into one shard (in a worker process); returns its manifest entry."""
    members: Members = []
    for index in range(start, stop):
        if split == "train":
            members += train_members(parameters, index)
        else:
            members += testsets.members(parameters, split, index)
    content = tar_bytes(members)
    write_bytes_atomically(path, content)
    return {"name": path.name, "samples": stop - start, "sha256": hashlib.sha256(content).hexdigest()}


def _sha256(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return manifest if isinstance(manifest, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}


def sound_shards(folder: Path, mark: str, manifests: tuple[Path, ...]) -> dict[str, dict]:
    """Entries of earlier manifests of fingerprint ``mark`` whose files still have their sha256, by name."""
    sound: dict[str, dict] = {}
    for path in manifests:
        manifest = _read_manifest(path)
        if manifest.get("fingerprint") != mark:
            continue
        for entry in manifest.get("shards", []):
            if entry["name"] not in sound and _sha256(folder / entry["name"]) == entry["sha256"]:
                sound[entry["name"]] = entry
    return sound


class _Report:
    """Progress of a drawing: tqdm with an ETA on a terminal, else one line at most every ten seconds."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.started, self.said = title, time.monotonic(), time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=title, unit="image")

    def __call__(self, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if done >= total:
                self.bar.close()
            return
        now = time.monotonic()
        if now - self.said >= 10.0 or done >= total:
            self.said = now
            left = (now - self.started) / max(done, 1) * (total - done)
            print(f"{self.title}: {done}/{total} images, {left:.0f} s left", file=sys.stderr, flush=True)


def _prepare(home: Path, split: str, shards: int) -> dict[str, str]:
    """Write the small files of a test set's layout that are not there as they should be; sha256 by name."""
    names = {}
    for name, content in ({} if split == "train" else testsets.layout_files(split, shards)).items():
        names[name] = hashlib.sha256(content).hexdigest()
        if _sha256(home / name) != names[name]:
            write_bytes_atomically(home / name, content)
    return names


def _manifest(parameters: WorldParameters, split: str, files: dict[str, str], shards: list[dict]) -> dict:
    """A manifest without anything of the moment, so that two drawings write the same bytes."""
    mark = world_fingerprint(WORLD, parameters)
    manifest = {"world": WORLD, "fingerprint": mark, "parameters": parameters.model_dump()}
    if split != "train":
        joined = "".join([*files.values(), *(entry["sha256"] for entry in shards)])
        manifest |= {"name": split, "n": parameters.test_count(split), "files": files}
        manifest |= {"sha256": hashlib.sha256(joined.encode("ascii")).hexdigest()}
    return manifest | {"shards": shards}


def _draw_split(
    parameters: WorldParameters, split: str, home: Path, processes: int, progress: Progress | None
) -> Path:
    """Draw one split into ``home`` (its folder), or return at once when all of it is there and sound."""
    train = split == "train"
    folder = home if train else home / "test"
    count = parameters.training_images if train else parameters.test_count(split)
    starts = range(0, count, parameters.images_per_shard)
    wanted = {f"{i:05d}.tar" if train else f"{i}.tar": start for i, start in enumerate(starts)}
    final, partial = home / "manifest.json", home / "manifest.partial.json"
    with directory_lock(home, f"draw {split}"):
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        files = _prepare(home, split, len(wanted))
        done = sound_shards(folder, world_fingerprint(WORLD, parameters), (final, partial))

        def content() -> bytes:
            return to_json(
                _manifest(parameters, split, files, [done[name] for name in wanted if name in done])
            )

        missing = [name for name in wanted if name not in done]
        if missing:
            final.unlink(missing_ok=True)
            say = progress or _Report(f"drawing {split}", count)
            ends = {name: min(start + parameters.images_per_shard, count) for name, start in wanted.items()}
            jobs = [(parameters, split, folder / name, wanted[name], ends[name]) for name in missing]
            for entry in in_processes(_draw_shard, jobs, processes):
                done[entry["name"]] = entry
                write_bytes_atomically(partial, content())
                say(sum(done[name]["samples"] for name in wanted if name in done), count)
        if not final.exists() or final.read_bytes() != content():
            write_bytes_atomically(final, content())
        partial.unlink(missing_ok=True)
    return final


def draw_train(
    parameters: WorldParameters, directory: Path, processes: int = 1, progress: Progress | None = None
) -> Path:
    """Draw the training shards into ``directory/train``; returns the path of their manifest.

    directory is the world's folder (``results/data/<slug>``). What is there and sound is kept. progress gets
    (images done, images in all); without one, a bar or lines go to standard error.
    """
    return _draw_split(parameters, "train", Path(directory) / "train", processes, progress)


def draw_test(
    parameters: WorldParameters,
    directory: Path,
    names: tuple[str, ...] = TEST_SETS,
    processes: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw test sets into ``directory/test/<name>``; returns the paths of their manifests.

    Raises ValueError for a name that is not in TEST_SETS.
    """
    for name in names:
        if name not in TEST_SETS:
            raise ValueError(f"test set {name!r} is unknown: choose from {', '.join(TEST_SETS)}")
    home = Path(directory) / "test"
    return [_draw_split(parameters, name, home / name, processes, progress) for name in names]
