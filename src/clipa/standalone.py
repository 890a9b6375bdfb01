"""Runs on one machine without Snakemake: draw the world, train, evaluate, and pack the records into one archive.

For a GPU at hand for minutes only, on a machine that may have neither Snakemake nor spaCy nor a network (docs/mini.md).
Jobs are the workflow's own, and so are their folders: an interrupted run resumes at the next call, here or there, and
what is packed is accepted (``clipa accept``) like any other measurement.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from clipa.cost import stage_macs
from clipa.data.annotation import ENTRIES
from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.files import write_bytes_atomically
from clipa.plan import Job, Plan
from clipa.records import check_document
from clipa.resolved import write
from clipa.stages import resolve
from clipa.study import parse_run
from clipa.train import INTERRUPTED, Interrupted, NonFinite, train_stage

LARGEST_ARCHIVE = 16 << 20
"""Bytes that an archive may have: what comes back from a lent machine is often limited."""

LARGEST_MEMBER = 8 * LARGEST_ARCHIVE
"""Bytes that a file in an archive may have once unpacked; JSON packs about eightfold."""
_RECORDS, _LOG = ("records.json", "suite.json"), "loss.jsonl"

_LAST_SECONDS = 25.0
"""For evaluations that are running when time is up."""


def run_here(
    names: Sequence[str], plan: Plan, archive: Path, minutes: float | None, processes: int | None
) -> int:
    """Measure the runs that ``names`` name with every seed of ``plan``, and pack all records into ``archive``.

    Resumes whatever an earlier call left, also from records in ``archive`` alone. Returns 0 when all is measured, 75
    when time was up first (call again), 1 when a run failed. ``minutes``: training stops then, and saves a checkpoint;
    half a minute later all is over. Raises ValueError, before anything is started, for what cannot be
    done here.
    """
    processes = processes or len(os.sched_getaffinity(0))
    jobs = jobs_of(names, plan)
    _check_machine(plan)
    unpack(archive, plan)
    pending = [job for job in jobs if not plan.is_measured(job)]
    _say(f"{len(jobs)} runs, {len(jobs) - len(pending)} of them measured already")
    failed: list[str] = []
    evaluations = _Evaluations(plan, archive, max(1, processes // 4), failed)
    try:
        with _deadline(minutes) as over:
            if pending:
                _prepare(plan, pending, processes)
            _train_all(plan, pending, evaluations, over)
            wait(evaluations.futures)
    except Interrupted:
        _say("time is up: checkpoints are saved; start the same command again to resume")
    finally:
        evaluations.finish(_LAST_SECONDS)
        pack(plan, archive)
    missing = [job for job in jobs if not plan.is_measured(job)]
    _say(f"{len(jobs) - len(missing)} of {len(jobs)} runs measured; records in {archive}")
    if failed:
        _say(f"failed: {', '.join(failed)}")
    return 1 if failed else INTERRUPTED if missing else 0


def jobs_of(names: Sequence[str], plan: Plan) -> list[Job]:
    """The jobs that ``names`` (of :meth:`Plan.jobs`) stand for, in order, seed after seed within a name; each once."""
    jobs: dict[Job, None] = {}
    for name in names:
        found = sorted(plan.jobs(name), key=lambda job: job.seed)
        if not found:
            raise ValueError(f"{name}: needs no run; name runs, tables or figures to be measured")
        jobs |= dict.fromkeys(found)
    return list(jobs)


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
                    resolved = resolve(stage, plan.project)
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

    def __init__(self, plan: Plan, archive: Path, at_once: int, failed: list[str]) -> None:
        self.plan, self.archive, self.failed, self.packing = plan, archive, failed, threading.Lock()
        self.pool, self.futures, self.processes = ThreadPoolExecutor(at_once), [], []

    def start(self, job: Job) -> None:
        """Evaluate ``job``, as soon as there is room for it."""
        self.futures.append(self.pool.submit(self._evaluate, job))

    def _evaluate(self, job: Job) -> None:
        project = self.plan.project
        command = [sys.executable, "-m", "clipa", "evaluate", "--scale", project.scale, "--run", job.run.slug]
        command += ["--seed", str(job.seed), "--fingerprint", job.stages[-1].fingerprint]
        command += ["--runs-directory", project.runs_directory, "--data-directory", project.data_directory]
        process = subprocess.Popen(command + ["--suite"] * job.suite, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        if process.wait() == 0:
            for stage in job.stages:  # checkpoints only serve to resume; the exported model stays
                folder = (self.plan.root / self.plan.stage_file(stage)).parent
                for path in folder.glob("checkpoint-*.safetensors"):
                    path.unlink(missing_ok=True)
            with self.packing:
                pack(self.plan, self.archive)
        elif process.returncode != -signal.SIGTERM:  # else it was stopped: the next call evaluates again
            self.failed.append(job.name)

    def finish(self, seconds: float) -> None:
        """Wait at most ``seconds`` for those running, and end the others: the next call evaluates these again."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        started = [future for future in self.futures if not future.cancelled()]
        wait(started, seconds)
        for process in self.processes:
            process.terminate()
        for future in started:
            future.result()


# --------------------------------------------------------------------------------------------------- the archive


def pack(plan: Plan, archive: Path) -> None:
    """Write all records of the scale, with the loss logs of their stages, as a gzipped tar of paths below
    ``results/runs``. Loss logs stay out if the archive gets too large; ValueError if it still is.
    """
    root, measured = plan.root / plan.project.runs_directory, plan.root / plan.measured_directory
    records = sorted(measured.glob("*/evaluation/*/*.json"))
    # Stages lie under a run's coordinates, evaluations under its whole name.
    runs = {measured / parse_run(path.parents[2].name).coordinates for path in records}
    logs = sorted(path for run in runs for path in run.glob("*/seed*/loss.jsonl"))
    content = _archived(root, [*records, *logs])
    if len(content) > LARGEST_ARCHIVE:
        _say("loss logs are left out of the archive, which would be too large")
        content = _archived(root, records)
    if len(content) > LARGEST_ARCHIVE:
        raise ValueError(f"{archive}: {len(content) >> 20} MiB of records; ask for fewer runs at a time")
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(archive, content)


def _archived(root: Path, files: Sequence[Path]) -> bytes:
    """The same files give the same bytes: no time, no owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(root).as_posix())
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def unpack(archive: Path, plan: Plan) -> None:
    """Put the files of an earlier archive in their places, where there is nothing yet. ValueError for a foreign
    or damaged one.
    """
    if not archive.is_file():
        return
    root = plan.root / plan.project.runs_directory
    try:
        with tarfile.open(archive, "r:gz") as stored:
            for member in stored:
                name = PurePosixPath(member.name)
                ours = name.parts[:1] == (plan.scale.name,) and name.name in (*_RECORDS, _LOG)
                if not member.isfile() or not ours or ".." in name.parts:
                    raise ValueError(
                        f"{archive}: holds {member.name}: not an archive of this scale's records"
                    )
                if not 0 <= member.size <= LARGEST_MEMBER:
                    raise ValueError(f"{archive}: {name} would have {member.size} bytes; move it away")
                content = stored.extractfile(member).read()
                if name.name in _RECORDS:
                    _check_records(content, f"{archive}: {name}")
                if not (root / name).exists():
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    write_bytes_atomically(root / name, content)
    except (tarfile.TarError, zlib.error, EOFError, OSError, OverflowError) as error:
        raise ValueError(f"{archive}: cannot be read ({error}); move it away") from None


def _check_records(content: bytes, name: str) -> None:
    """Raises ValueError for what is no document of records, or holds none: it would count as measured."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: cannot be read as JSON ({error}); move the archive away") from None
    check_document(document, name)
    if not document["records"]:
        raise ValueError(f"{name}: holds no records; move the archive away")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
