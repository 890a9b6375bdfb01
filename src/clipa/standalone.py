"""Runs on one machine without Snakemake: draw the world, train, evaluate, and pack the records into one archive.

For a GPU at hand for minutes only, on a machine that may have neither Snakemake nor spaCy nor a network (docs/mini.md).
Jobs are the workflow's own, and so are their folders: what is interrupted goes on at the next call, here or there, and
what is packed is accepted (``clipa accept``) like any other measurement.
"""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clipa.cost import stage_macs
from clipa.data.annotation import ENTRIES
from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.files import write_bytes_atomically
from clipa.plan import Plan
from clipa.stages import Stage, resolve, stages_of
from clipa.study import Run, parse_run
from clipa.train import INTERRUPTED, Interrupted, NonFinite, train_stage

LARGEST_ARCHIVE = 16 << 20
"""Bytes that an archive may have: what comes back from a lent machine is often limited."""

_LAST_SECONDS = 25.0
"""For evaluations that are under way when the time is over."""


class StandaloneError(ValueError):
    """What is asked for cannot be done here; one line that says why and what to do."""


class OutOfTime(RuntimeError):
    """The time limit, or SIGTERM."""


@dataclass(frozen=True)
class Job:
    """One run with one seed: the unit that is trained and then evaluated."""

    run: Run
    seed: int
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        return f"{self.run.slug} seed {self.seed}"

    @property
    def macs(self) -> float:
        return sum(stage_macs(stage) for stage in self.stages)


@dataclass
class _Evaluations:
    """Evaluations run beside the next training, each in a process of its own: they keep a core busy, not the GPU."""

    plan: Plan
    at_once: int
    archive: Path
    running: list[tuple[Job, subprocess.Popen]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def start(self, job: Job) -> None:
        """Evaluate ``job``, as soon as there is room for it."""
        while len(self.running) >= self.at_once:
            self.collect(wait=1.0)
        project = self.plan.project
        command = [sys.executable, "-m", "clipa", "evaluate", "--scale", project.scale, "--run", job.run.slug]
        command += ["--seed", str(job.seed), "--fingerprint", job.stages[-1].fingerprint]
        command += ["--runs-directory", project.runs_directory, "--data-directory", project.data_directory]
        self.running.append((job, subprocess.Popen(command, stdout=subprocess.DEVNULL)))

    def collect(self, wait: float = 0.0) -> None:
        """Take in what has ended; up to ``wait`` seconds for the first of what has not."""
        ends = time.monotonic() + wait
        while not any(process.poll() is not None for _, process in self.running):
            if not self.running or time.monotonic() >= ends:
                return
            time.sleep(0.05)
        ended = [entry for entry in self.running if entry[1].poll() is not None]
        self.running = [entry for entry in self.running if entry not in ended]
        for job, process in ended:
            if process.returncode == -signal.SIGTERM:  # it was stopped with us: the next call evaluates again
                continue
            if process.returncode:
                self.failed.append(job.name)
            else:
                _drop_checkpoints(self.plan, job)
                pack(self.plan, self.archive)

    def finish(self, seconds: float) -> None:
        """Wait at most ``seconds`` for those under way, and end the others: the next call evaluates these again."""
        ends = time.monotonic() + seconds
        while self.running and (left := ends - time.monotonic()) > 0:
            self.collect(wait=left)
        for _, process in self.running:
            process.kill()
            process.wait()


def run_here(
    names: Sequence[str],
    plan: Plan,
    archive: Path,
    minutes: float | None = None,
    processes: int | None = None,
) -> int:
    """Measure the runs that ``names`` name with every seed of ``plan``, and pack all records into ``archive``.

    Goes on from whatever an earlier call left, also from records in ``archive`` alone. Returns 0 when all is measured,
    75 when time was over first (call again), 1 when a run failed. ``minutes``: training stops then, and the state is
    saved; half a minute later all is over. Raises StandaloneError before anything is started.
    """
    processes = processes or len(os.sched_getaffinity(0))
    jobs = jobs_of(names, plan)
    _check_machine(plan)
    unpack(archive, plan)
    pending = [job for job in jobs if not _is_measured(plan, job)]
    _say(f"{len(jobs)} runs, {len(jobs) - len(pending)} of them measured already")
    evaluations = _Evaluations(plan, max(1, processes // 4), archive)
    failed: list[str] = []
    try:
        with _deadline(minutes) as ends:
            if pending:
                _prepare(plan, pending, processes)
            failed = _train_all(plan, pending, evaluations, ends)
            while evaluations.running:
                evaluations.collect(wait=1.0)
    except OutOfTime:
        _say("time is over: the state is saved, the same command goes on")
    finally:
        evaluations.finish(_LAST_SECONDS)
        pack(plan, archive)
    missing = [job.name for job in jobs if not _is_measured(plan, job)]
    _say(f"{len(jobs) - len(missing)} of {len(jobs)} runs measured; records in {archive}")
    failed += evaluations.failed
    if failed:
        _say(f"failed: {', '.join(failed)}")
    return 1 if failed else INTERRUPTED if missing else 0


def jobs_of(names: Sequence[str], plan: Plan) -> list[Job]:
    """The jobs that ``names`` stand for, in order, seed after seed within a name; each once.

    A name is a run's slug, what an experiment fills (table11, figure4), or ``resize``: Table 11's column.
    """
    targets = set().union(*plan.grid.fills.values())
    jobs: dict[tuple[Run, int], Job] = {}
    for name in names:
        if name == "resize":
            runs = [run for run in plan.grid.runs("table11") if run.image_reduction in ("none", "resize")]
        elif name in targets:
            runs = plan.grid.runs(name)
        else:
            runs = [_run(name, targets)]
        for seed in plan.project.seeds:
            for run in runs:
                stages = tuple(stages_of(run, plan.scale, seed))
                jobs.setdefault((run, seed), Job(run, seed, stages))
    return list(jobs.values())


def _run(name: str, targets: set[str]) -> Run:
    try:
        return parse_run(name)
    except ValueError as error:
        raise StandaloneError(f"{error}; groups of runs: resize, {', '.join(sorted(targets))}") from None


def _check_machine(plan: Plan) -> None:
    scale = plan.scale
    if scale.data.world is None or scale.processes > 1:
        raise StandaloneError(
            f"scale {scale.name} needs downloaded data or several processes a stage: use Snakemake"
        )
    if scale.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise StandaloneError(
                f"scale {scale.name} trains on a GPU (device: cuda), and torch finds none here"
            )


def _is_measured(plan: Plan, job: Job) -> bool:
    stages = list(job.stages)
    return bool(plan.recorded_file(stages)) or (plan.root / plan.records_file(stages)).is_file()


def _prepare(plan: Plan, jobs: Sequence[Job], processes: int) -> None:
    """World, vocabulary and, where they are needed, parts of speech and NegCLIP's rows; what is there is kept."""
    from clipa.data.annotation import annotate
    from clipa.data.drawing import draw_test, draw_train
    from clipa.data.negclip import write_negatives
    from clipa.data.vocabulary import MANIFEST, train_vocabulary

    scale, directory = plan.scale, plan.root / plan.data
    draw_train(scale.data.world, directory, processes)
    draw_test(
        scale.data.world, directory, tuple(dict.fromkeys(scale.evaluation.benchmarks.values())), processes
    )
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


def _train_all(plan: Plan, jobs: Sequence[Job], evaluations: _Evaluations, ends: float) -> list[str]:
    """Train the stages of all jobs in turn; returns those that failed. Evaluations are started, not waited for."""
    failed, began, done, total = [], time.monotonic(), 0.0, sum(job.macs for job in jobs)
    for number, job in enumerate(jobs, 1):
        left = (
            f", about {(time.monotonic() - began) / done * (total - done) / 60:.0f} min left" if done else ""
        )
        try:
            for stage in job.stages:
                if time.monotonic() >= ends:
                    raise OutOfTime
                if not (plan.root / plan.stage_file(stage)).is_file():
                    _say(f"[{number}/{len(jobs)}{left}] {job.name}: {stage.kind}")
                    train_stage(resolve(stage, plan.project))
                evaluations.collect()
            evaluations.start(job)
        except Interrupted as error:
            raise OutOfTime from error
        except NonFinite as error:
            _say(str(error))
            failed.append(job.name)
        done += job.macs
    return failed


@contextmanager
def _deadline(minutes: float | None) -> Iterator[float]:
    """Yields the time (of ``time.monotonic``) when OutOfTime is raised, as it is on SIGTERM; within training the
    trainer takes the signal, and saves its state first.
    """

    def over(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGTERM, over)
    timer = threading.Timer(60 * (minutes or 0), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    try:
        if minutes is not None:
            timer.start()
        yield float("inf") if minutes is None else time.monotonic() + 60 * minutes
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def _drop_checkpoints(plan: Plan, job: Job) -> None:
    """Checkpoints only serve to go on; the exported model stays."""
    for stage in job.stages:
        for path in (plan.root / plan.stage_file(stage)).parent.glob("checkpoint-*.safetensors"):
            path.unlink()


# --------------------------------------------------------------------------------------------------- the archive


def pack(plan: Plan, archive: Path) -> None:
    """Write all records of the scale, with the loss logs of their stages, as a gzipped tar of paths below
    ``results/runs``. Loss logs stay out if the archive gets too large; StandaloneError if it still is.
    """
    root = plan.root / plan.project.runs_directory
    records = sorted((plan.root / plan.runs).glob("*/evaluation/*/records.json"))
    # Stages lie under a run's coordinates, evaluations under its whole name.
    runs = {plan.root / plan.runs / parse_run(path.parents[2].name).coordinates for path in records}
    logs = sorted(path for run in runs for path in run.glob("*/seed*/loss.jsonl"))
    content = _archived(root, [*records, *logs])
    if len(content) > LARGEST_ARCHIVE:
        _say("loss logs are left out of the archive, which would be too large")
        content = _archived(root, records)
    if len(content) > LARGEST_ARCHIVE:
        raise StandaloneError(f"{archive}: {len(content) >> 20} MiB of records; ask for fewer runs at a time")
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
    """Put the files of an earlier archive in their places, where there is nothing yet. StandaloneError for a foreign
    or damaged one.
    """
    if not archive.is_file():
        return
    root = plan.root / plan.project.runs_directory
    try:
        with tarfile.open(archive, "r:gz") as stored:
            for member in stored:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.parts[0] != plan.scale.name or ".." in name.parts:
                    raise StandaloneError(
                        f"{archive}: holds {member.name}: not an archive of this scale's records"
                    )
                if not (root / name).exists():
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    write_bytes_atomically(root / name, stored.extractfile(member).read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise StandaloneError(f"{archive}: cannot be read ({error}); move it away") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
