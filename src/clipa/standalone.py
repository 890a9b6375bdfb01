"""Runs on one machine without Snakemake: draw the world, train, evaluate, and pack the records into one archive.

For a GPU at hand for minutes only, on a machine that may have neither Snakemake nor spaCy nor a network (docs/mini.md).
Jobs are the workflow's own, and so are their folders: an interrupted run resumes at the next call, here or there, and
what is packed is accepted (``clipa accept``) like any other measurement.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from clipa.cost import stage_macs
from clipa.data.annotation import ENTRIES
from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.data.shards import tar_bytes
from clipa.files import gzipped, write_bytes_atomically
from clipa.fits import resolve_fitting
from clipa.plan import Job, Plan
from clipa.provenance import cores
from clipa.records import read_records
from clipa.resolved import write
from clipa.study import parse_run
from clipa.train import INTERRUPTED, Interrupted, NonFinite, train_stage

LARGEST_ARCHIVE = 256 << 20
"""Bytes that an archive may unpack to; the records and loss logs of a whole grid are a tenth of that."""

_LAST_SECONDS = 25.0
"""For evaluations that are running when time is up."""


def run_here(
    names: Sequence[str], plan: Plan, archive: Path, minutes: float | None, processes: int | None
) -> int:
    """Measure the runs that ``names`` name with every seed of ``plan``, and pack all records into ``archive``.

    Resumes whatever an earlier call left, also from records in ``archive`` alone. Returns 0 when all is measured, 75
    when time was up first (call again), 1 when a run failed. ``minutes``: training stops then, and saves a checkpoint;
    half a minute later all is over. Raises ValueError, before anything is started, for what cannot be
    done here, and for records that are none.
    """
    processes = processes or cores()
    jobs = jobs_of(names, plan)
    _check_machine(plan)
    unpack(archive, plan)
    pending = [job for job in jobs if not _is_measured(plan, job)]
    _say(f"{len(jobs)} runs, {len(jobs) - len(pending)} of them measured already")
    evaluations = _Evaluations(plan, archive, max(1, processes // 4))
    try:
        with _deadline(minutes) as over:
            if pending:
                _prepare(plan, pending, processes)
            _train_all(plan, pending, evaluations, over)
            evaluations.collect(at_most=0)
    except Interrupted:
        _say("time is up: checkpoints are saved; start the same command again to resume")
    finally:
        evaluations.finish(_LAST_SECONDS)
        pack(plan, archive)
    missing = [job for job in jobs if not plan.is_measured(job)]
    _say(f"{len(jobs) - len(missing)} of {len(jobs)} runs measured; records in {archive}")
    if evaluations.failed:
        _say(f"failed: {', '.join(evaluations.failed)}")
    return 1 if evaluations.failed else INTERRUPTED if missing else 0


def jobs_of(names: Sequence[str], plan: Plan) -> list[Job]:
    """The jobs that ``names`` (of :meth:`Plan.jobs`) stand for, in order, seed after seed within a name; each once."""
    jobs: dict[Job, None] = {}
    for name in names:
        found = sorted(plan.jobs(name), key=lambda job: job.seed)
        if not found:
            raise ValueError(f"{name}: needs no run; name runs, tables or figures to be measured")
        jobs |= dict.fromkeys(found)
    return list(jobs)


def _is_measured(plan: Plan, job: Job) -> bool:
    """Whether a job has records; ValueError where a file in their place holds others, or none."""
    path = plan.root / job.output
    if job.accepted or not path.is_file():
        return plan.is_measured(job)
    if job.stages[-1].fingerprint not in {record.get("stage_fingerprint") for record in read_records(path)}:
        raise ValueError(f"{path}: holds no records of {job.name}; delete it to evaluate again")
    return True


def _check_machine(plan: Plan) -> None:
    import torch

    scale = plan.scale
    if scale.data.world is None or scale.processes > 1:
        raise ValueError(
            f"scale {scale.name} needs downloaded data or several processes a stage: use Snakemake"
        )
    if scale.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"scale {scale.name} trains on a GPU (device: cuda), and torch finds none here")


def _prepare(plan: Plan, jobs: Sequence[Job], processes: int) -> None:
    """World, vocabulary and, where they are needed, parts of speech and NegCLIP's rows; what is there is kept."""
    from clipa.data.annotation import annotate
    from clipa.data.drawing import draw_test, draw_train
    from clipa.data.negclip import write_negatives
    from clipa.data.vocabulary import MANIFEST, train_vocabulary

    scale, directory = plan.scale, plan.root / plan.data
    benchmarks, suite = scale.evaluation.benchmarks.values(), scale.evaluation.suite.values()
    tests = [test.partition("/")[0] for job in jobs for test in (suite if job.suite else benchmarks)]
    draw_train(scale.data.world, directory, processes)
    draw_test(scale.data.world, directory, tuple(dict.fromkeys(tests)), processes)
    if not (directory / "vocabulary" / MANIFEST).is_file():
        _say("making the vocabulary")
        train_vocabulary(directory, scale.vocabulary_size)
    negclip = any(stage.kind == "negclip" for job in jobs for stage in job.stages)
    tagged = negclip or any(job.run.text_reduction == "syntax" for job in jobs)
    made = (directory / "train" / ANNOTATED, directory / "vocabulary" / ENTRIES)
    if tagged and not all(path.is_file() for path in made):
        annotate(directory, processes, scale.tagger)
    if negclip:
        write_negatives(directory, processes, scale.negatives.neighbours, scale.negatives.rows)


def _train_all(plan: Plan, jobs: Sequence[Job], evaluations: _Evaluations, over: threading.Event) -> None:
    """Train the stages of all jobs in turn, and start their evaluations. Interrupted when time is up."""
    macs = [sum(map(stage_macs, job.stages)) for job in jobs]
    began, left = time.monotonic(), ""
    for number, job in enumerate(jobs):
        if number:
            minutes = (time.monotonic() - began) / sum(macs[:number]) * sum(macs[number:]) / 60
            left = f", about {minutes:.0f} min left"
        try:
            for stage in job.stages:
                if over.is_set():
                    raise Interrupted
                if not plan.is_finished(stage):
                    _say(f"[{number + 1}/{len(jobs)}{left}] {job.name}: {stage.kind}")
                    resolved = resolve_fitting(stage, plan.project)
                    write(resolved)
                    train_stage(resolved)
            evaluations.start(job)
        except NonFinite as error:
            _say(str(error))
            evaluations.failed.append(job.name)


@contextmanager
def _deadline(minutes: float | None) -> Iterator[threading.Event]:
    """Yields what is set when time is up. Interrupted is raised then, as it is on SIGTERM; during training the trainer
    takes the signal, and saves a checkpoint first.
    """

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    seconds = threading.TIMEOUT_MAX if minutes is None else 60 * minutes
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    try:
        timer.start()
        yield timer.finished
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


class _Evaluations:
    """Evaluations beside the next training, each in a process of its own: they keep a core busy, not the GPU."""

    def __init__(self, plan: Plan, archive: Path, at_once: int) -> None:
        self.plan, self.archive, self.at_once = plan, archive, at_once
        self.running: dict[subprocess.Popen, Job] = {}
        self.failed: list[str] = []

    def start(self, job: Job) -> None:
        """Evaluate ``job``, as soon as there is room for it."""
        self.collect(self.at_once - 1)
        project = self.plan.project
        command = [sys.executable, "-m", "clipa", "evaluate", "--scale", project.scale, "--run", job.run.slug]
        command += ["--seed", str(job.seed), "--fingerprint", job.stages[-1].fingerprint]
        command += ["--runs-directory", project.runs_directory, "--data-directory", project.data_directory]
        command += ["--suite"] * job.suite
        self.running[subprocess.Popen(command, stdout=subprocess.DEVNULL)] = job

    def collect(self, at_most: int, seconds: float = math.inf) -> None:
        """Pack the records of evaluations that have ended, until ``at_most`` are running or ``seconds`` are over."""
        ends = time.monotonic() + seconds
        while len(self.running) > at_most and time.monotonic() < ends:
            for process in [process for process in self.running if process.poll() is not None]:
                self._ended(self.running[process], process.returncode)
                del self.running[process]
            time.sleep(0.1)

    def _ended(self, job: Job, code: int) -> None:
        if code:
            self.failed.append(job.name)
            return
        for stage in job.stages:  # checkpoints only serve to resume; the exported model stays
            folder = (self.plan.root / self.plan.stage_file(stage)).parent
            for path in folder.glob("checkpoint-*.safetensors"):
                path.unlink(missing_ok=True)
        pack(self.plan, self.archive)

    def finish(self, seconds: float) -> None:
        """Wait at most ``seconds`` for those running, and end the others: the next call evaluates these again."""
        self.collect(0, seconds)
        for process in self.running:
            process.terminate()
            process.wait()


# --------------------------------------------------------------------------------------------------- the archive


def pack(plan: Plan, archive: Path) -> None:
    """Write all records of the scale, with the loss logs of their stages, as a gzipped tar of paths below
    ``results/runs``. The same files give the same bytes.
    """
    root, measured = plan.root / plan.project.runs_directory, plan.root / plan.measured_directory
    records = sorted(measured.glob("*/evaluation/*/*.json"))
    # Stages lie under a run's coordinates, evaluations under its whole name.
    runs = {measured / parse_run(path.parents[2].name).coordinates for path in records}
    logs = sorted(path for run in runs for path in run.glob("*/seed*/loss.jsonl"))
    members = [(path.relative_to(root).as_posix(), path.read_bytes()) for path in (*records, *logs)]
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(archive, gzipped(tar_bytes(members)))


def unpack(archive: Path, plan: Plan) -> None:
    """Put the files of an earlier archive in their places, where there is nothing yet. ValueError for a foreign,
    damaged or too large one; then nothing is written.
    """
    if not archive.is_file():
        return
    root = plan.root / plan.project.runs_directory
    try:
        with gzip.open(archive) as stream:
            content = stream.read(LARGEST_ARCHIVE + 1)
        if len(content) > LARGEST_ARCHIVE:
            raise ValueError(
                f"{archive}: unpacks to more than {LARGEST_ARCHIVE >> 20} MiB: not an archive of records"
            )
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as stored:
            members = stored.getmembers()
            for member in members:
                parts = PurePosixPath(member.name).parts
                ours = parts[:1] == (plan.scale.name,) and parts[-1] in (
                    "records.json",
                    "suite.json",
                    "loss.jsonl",
                )
                if not member.isfile() or not ours or ".." in parts:
                    raise ValueError(
                        f"{archive}: holds {member.name}: not an archive of this scale's records"
                    )
            for member in members:
                if not (path := root / member.name).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_bytes_atomically(path, stored.extractfile(member).read())
    except (tarfile.TarError, EOFError, OSError, OverflowError, zlib.error) as error:
        raise ValueError(f"{archive}: cannot be read ({error}); move it away") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
