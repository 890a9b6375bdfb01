"""A suite of test sets, so measured that a kill costs one set, and that several processes share the work.

Every measured set is one file of records, ``<sets>/<stage or protocol>-<benchmark>-<key>/set.json``, written whole
or not at all. Its key says what it was measured on, with and how; whoever finds the file takes it. A set is measured
under the lock of its folder. So the same command may be started several times, also on several nodes: each takes the
sets that nobody is at.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clipa.evaluate.candidates import Candidate, Normal
from clipa.evaluate.tasks import SELECTION_VERSION, conditions_of
from clipa.evaluate.testsets import TestSet, open_test_set
from clipa.locks import directory_lock, lock_holder
from clipa.progress import clock
from clipa.protocols import STUDY_PROTOCOL, Pixels, Protocol
from clipa.provenance import code, describe, packages
from clipa.records import RecordError, read_records, write_records
from clipa.resolved import fingerprint


@dataclass(frozen=True)
class Asked:
    """One benchmark of a suite: the test set that stands for it, and of caption selection the kind of items."""

    benchmark: str
    test_set: TestSet
    items: str

    @property
    def evaluator(self) -> str:
        """What measures it, with its version."""
        if self.test_set.kind == "order":
            return f"clipa selection {SELECTION_VERSION}"
        return f"clip-benchmark {packages(('clip-benchmark',))['clip-benchmark']}"

    def protocol_digest(self, name: str, protocol: Protocol, pixels: Pixels, normal: Normal) -> str:
        """What a record calls ``protocol``: all that the number depends on besides model and images.

        Of the study's protocol it is what it was before protocols had names, so that it fits recorded results.
        """
        content: dict[str, Any] = {
            "evaluator": self.evaluator,
            "preprocess": _words(pixels)
            | {"mean": list(normal.mean), "std": list(normal.std), "precision": "fp32"},
            **conditions_of(self.test_set),
        }
        if name != STUDY_PROTOCOL:
            content["protocol"] = protocol.content
        return fingerprint(content)


def _words(pixels: Pixels) -> dict[str, str]:
    """The preprocessing in words; the pixels of each model are in its record's ``actual``."""
    if pixels.mode == "shorter" and pixels.side == pixels.size:
        resize, crop = (
            f"shorter side to the stage's pixels, {pixels.interpolation}, antialias",
            "centre, the stage's pixels",
        )
    elif pixels.mode == "shorter":
        resize, crop = (
            f"shorter side to more, {pixels.interpolation}, antialias",
            "centre, the stage's pixels",
        )
    else:
        resize, crop = f"{pixels.mode}, {pixels.interpolation}, antialias", "none"
    return {"resize": resize, "crop": crop}


def asked_for(benchmarks: dict[str, str], tests: Path) -> list[Asked]:
    """The sets of ``benchmarks`` (benchmark → data set, perhaps ``/`` and a kind of items) below ``tests``.

    Raises EvaluationError for the first that is missing or broken, before anything is measured.
    """
    found = []
    for benchmark, chosen in benchmarks.items():
        dataset, _, items = chosen.partition("/")
        found.append(Asked(benchmark, open_test_set(tests / dataset), items))
    return found


@dataclass(frozen=True)
class SetJob:
    """One set of a suite for one model: ``place`` is its folder, ``measure`` gives its records.

    ``load`` gives the model, and is the same for all sets of that model.
    """

    asked: Asked
    place: Path
    load: Callable[[], Candidate]
    measure: Callable[[Candidate], list[dict[str, Any]]]

    @property
    def file(self) -> Path:
        return self.place / "set.json"

    def found(self) -> list[dict[str, Any]] | None:
        """Its records if it is measured; a damaged file is said to be, and counts as none."""
        if not self.file.is_file():
            return None
        try:
            return read_records(self.file)
        except RecordError as error:
            print(f"{error}; measuring this set again", file=sys.stderr, flush=True)
            return None


def place_of(sets: Path, head: str, asked: Asked, *key: str) -> Path:
    """The folder of a set: ``key`` are the digests of the model and of the protocol.

    Other code measures a set again; so does the same code once it is committed, since only such records are accepted.
    """
    words = f"{head}-{asked.benchmark.replace('/', '-')}"
    return (
        sets / f"{words}-{fingerprint([asked.test_set.fingerprint, asked.items, *_measuring_code(), *key])}"
    )


def _measuring_code() -> tuple[str, bool | None]:
    return _code(), here()["dirty"]


@cache
def _code() -> str:
    return code("evaluate", "protocols", "records")


@cache
def here(accelerator: str | None = None) -> dict[str, Any]:
    """:func:`clipa.provenance.describe`, asked once: the code that runs is that from before the first set."""
    return describe(accelerator)


@dataclass(frozen=True)
class RecordsFile:
    """The file with the records of some sets, in their order; ``of`` says of what model, for who finds it locked."""

    path: Path
    of: str
    jobs: Sequence[SetJob]

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        with directory_lock(self.path.parent, f"evaluation of {self.of}"):
            write_records(self.path, list(records))


def run(files: Sequence[RecordsFile]) -> None:
    """Measure what is not measured yet, first what no other process is at; write each file once its sets are there.

    Ends when all are, whoever measured them. One model is in memory at a time.
    """
    progress = _Progress([job for file in files for job in file.jobs])
    model, done = _Model(), {}
    left = list(files)
    for patient in (False, True):
        for file in list(left):
            for job in file.jobs:
                if job.place not in done and (patient or lock_holder(job.place) is None):
                    done[job.place] = _records(job, model, progress)
                    progress.show(job, len(done))
            if all(job.place in done for job in file.jobs):
                file.write(record for job in file.jobs for record in done[job.place])
                left.remove(file)


class _Model:
    """The model in memory. It is gone before the next one is loaded."""

    def __init__(self) -> None:
        self._load: Callable[[], Candidate] | None = None
        self._candidate: Candidate | None = None

    def of(self, job: SetJob) -> Candidate:
        if self._candidate is None or job.load != self._load:
            self._candidate = None
            self._candidate, self._load = job.load(), job.load
        return self._candidate


def _records(job: SetJob, model: _Model, progress: _Progress) -> list[dict[str, Any]]:
    """Those of a set: found, or measured under its lock and written."""
    if (records := job.found()) is None:
        with directory_lock(job.place, f"evaluation on {job.asked.benchmark}"):
            if (records := job.found()) is None:
                records = job.measure(model.of(job))
                write_records(job.file, records)
                progress.measured(job)
    return records


class _Progress:
    """A line after each set with the time left, by the images of this process so far."""

    def __init__(self, jobs: Sequence[SetJob]) -> None:
        self._left = {job.place: job.asked.test_set.n for job in jobs}
        self._sets, self._images = len(self._left), 0
        self._began = time.monotonic()

    def measured(self, job: SetJob) -> None:
        self._images += job.asked.test_set.n

    def show(self, job: SetJob, done: int) -> None:
        self._left.pop(job.place, None)
        if not self._images or self._sets < 2:
            return
        left = sum(self._left.values()) * (time.monotonic() - self._began) / self._images
        print(
            f"{done} of {self._sets} sets" + (f", about {clock(left)} left" if self._left else ""),
            file=sys.stderr,
            flush=True,
        )


def log(head: str, record: dict[str, Any], seconds: float) -> None:
    """One line for one number."""
    print(
        f"{head} {record['benchmark']} on {record['dataset']['name']}: {record['metric']} {record['value']:.1f} "
        f"± {record['standard_error']:.1f} (n = {record['dataset']['n']}, {seconds:.1f} s)",
        file=sys.stderr,
        flush=True,
    )
