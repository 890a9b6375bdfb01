"""What it costs to compare bytes with their digests: CPU time of a micro-v1 stage, and of a gigabyte of shards.

    PYTHONPATH=src python benchmarks/integrity.py

Draws the training set of micro-v1 into a temporary folder (1.5 GB in all) and trains one pre-training in processes of
its own, with `integrity: manifest` and `once` in turn. Files are in the page cache. Nothing is kept or asserted.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from clipa.config import Project, Scale, load_scale
from clipa.data.download import index_training
from clipa.data.drawing import draw_train
from clipa.data.samples import ShardReader
from clipa.data.shards import read_manifest
from clipa.data.vocabulary import train_vocabulary
from clipa.files import sha256_of
from clipa.provenance import code, commit, hardware
from clipa.resolved import ResolvedStage, data_slug, write
from clipa.stages import resolve, stages_of
from clipa.study import parse_run

RUN = "S16-resize64-truncation32"
MODES = ("manifest", "once")
_BLOCK = 1 << 20


def stage_of(scale: Scale, root: Path, mode: str, repeat: int) -> ResolvedStage:
    """The pre-training in a folder of its own."""
    project = Project(data_directory=str(root / "data"), runs_directory=str(root / f"{mode}{repeat}"))
    return resolve(stages_of(parse_run(RUN), scale, 0)[0], project).model_copy(update={"integrity": mode})


def cpu_of_training(stage: ResolvedStage) -> float:
    """CPU seconds of `clipa train`, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "clipa", "train", str(write(stage))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_of(function: Callable[[Path], object], shards: list[Path]) -> float:
    """CPU seconds of a call for every shard, the better of two."""
    seconds = []
    for _ in range(2):
        began = time.process_time()
        for shard in shards:
            function(shard)
        seconds.append(time.process_time() - began)
    return min(seconds)


def read(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(_BLOCK):
            pass


def read_samples(samples: int) -> Callable[[Path], object]:
    """The loader's reader: every member of the tar, not decoded."""
    return lambda path: ShardReader(path.parent, path.name, samples, False).window(0, samples)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--gigabytes", type=float, default=1.0)
    chosen = options.parse_args()
    scale = load_scale("micro-v1")
    print(f"{hardware()}; commit {commit()[0]}, code {code()}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = root / "data" / data_slug(scale.data)
        draw_train(scale.data.world, data, 2)
        train_vocabulary(data, scale.vocabulary_size)
        index_training(data / "train")  # as for downloaded data: with sizes
        shards = [data / "train" / shard["name"] for shard in read_manifest(data / "train")["shards"]]
        print(gigabyte(root, shards, chosen.gigabytes), end="\n\n")
        print(stages(scale, root, chosen.repeats))


def gigabyte(root: Path, shards: list[Path], gigabytes: float) -> str:
    """A table: CPU time of reading and of hashing."""
    copies, size = [], 0
    while size < gigabytes * 1e9:
        for shard in shards:
            copies.append(root / f"{len(copies)}.tar")
            shutil.copyfile(shard, copies[-1])
            size += shard.stat().st_size
    samples = read_manifest(shards[0].parent)["shards"][0]["samples"]
    reading = cpu_of(read, copies)
    rows = []
    for name, seconds in (
        ("read", reading),
        ("hash (sha256)", cpu_of(sha256_of, copies)),
        ("read samples, not decoded", cpu_of(read_samples(samples), copies)),
    ):
        rows.append((name, f"{seconds:.2f}", f"{size / seconds / 1e9:.2f}", f"{seconds / reading:.1f}"))
    for copy in copies:
        copy.unlink()
    return tabulate(
        rows, (f"{size / 1e9:.2f} GB of shards", "CPU s", "GB/s", "of reading"), disable_numparse=True
    )


def stages(scale: Scale, root: Path, repeats: int) -> str:
    """A table: CPU time of the pre-training under each mode."""
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for repeat in range(repeats):
        for mode in MODES:
            seconds[mode].append(cpu_of_training(stage_of(scale, root, mode, repeat)))
    base = statistics.median(seconds["manifest"])
    rows = [
        (
            mode,
            f"{statistics.median(times):.1f}",
            f"{min(times):.1f} to {max(times):.1f}",
            f"{statistics.median(times) / base:.3f}",
        )
        for mode, times in seconds.items()
    ]
    head = (f"micro-v1 {RUN}, pretrain", "CPU s (median)", f"of {repeats}", "of manifest")
    return tabulate(rows, head, disable_numparse=True)


if __name__ == "__main__":
    main()
