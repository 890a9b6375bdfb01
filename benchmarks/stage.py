"""CPU seconds of a run by part: what its processes spend beside the towers.

    PYTHONPATH=src python benchmarks/stage.py --scale ci --run S16-resize64-truncation32 --data results/data

Each stage is trained, and the run evaluated, in a process of its own, as the workflow does. Runs are written into a
temporary folder; data that is missing is an error (``clipa draw``). The loss's own backward pass counts as the towers'.
Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SPENT: dict[str, float] = {}
_OPEN: list[list[Any]] = []  # parts within parts: the inner one's time is not the outer one's


def spent(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work``, whose CPU seconds are added to ``part``."""

    def timed(*asked: Any, **named: Any) -> Any:
        _OPEN.append([time.process_time(), 0.0])
        try:
            return work(*asked, **named)
        finally:
            began, inner = _OPEN.pop()
            whole = time.process_time() - began
            SPENT[part] = SPENT.get(part, 0.0) + whole - inner
            if _OPEN:
                _OPEN[-1][1] += whole

    return timed


def train_here(path: Path) -> None:
    from clipa import losses, models, optimizers, train

    SPENT["interpreter, imports"] = time.process_time()
    made = spent("data", train._batches)

    def fed(*asked: Any) -> Iterator[Any]:
        found = made(*asked)
        step = spent("data", lambda: next(found, None))
        return iter(step, None)

    train._batches = fed
    train._start = spent("start: model, checkpoint", train._start)
    train.backward = spent("towers", train.backward)
    losses._differentiated = spent("loss", losses._differentiated)
    optimizers.Optimizers.step = spent("optimizer", optimizers.Optimizers.step)
    train._save = spent("checkpoints, export", train._save)
    models.export_open_clip = spent("checkpoints, export", models.export_open_clip)
    if train.main(path):
        raise SystemExit("interrupted")


def evaluate_here(asked: argparse.Namespace) -> None:
    from clipa.evaluate import evaluate_run

    SPENT["interpreter, imports"] = time.process_time()
    project, stages = planned(asked)
    spent("evaluation", evaluate_run)(stages, project)


def planned(asked: argparse.Namespace) -> tuple[Any, list[Any]]:
    from clipa.config import Project, load_scale
    from clipa.stages import stages_of
    from clipa.study import parse_run

    project = Project(scale=asked.scale, runs_directory=asked.runs, data_directory=asked.data)
    return project, stages_of(parse_run(asked.run), load_scale(asked.scale), asked.seed)


def in_process(part: str, what: str) -> dict[str, float]:
    """CPU seconds by part of another process of this program."""
    command = [sys.executable, __file__, *sys.argv[1:], part, what]
    before = os.times()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after = os.times()
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    whole = after.children_user + after.children_system - before.children_user - before.children_system
    return found | {"rest": whole - sum(found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="ci")
    parser.add_argument("--run", default="S16-resize64-truncation32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="results/data", help="folder of drawn worlds")
    parser.add_argument("--runs", help="folder of runs (default: a temporary one)")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train or asked.evaluate:
        train_here(asked.train) if asked.train else evaluate_here(asked)
        print(json.dumps(SPENT))
        return
    with tempfile.TemporaryDirectory() as folder:
        asked.runs = asked.runs or folder
        sys.argv += ["--runs", asked.runs]
        report(asked)


def report(asked: argparse.Namespace) -> None:
    from clipa.resolved import write
    from clipa.stages import resolve

    project, stages = planned(asked)
    processes = [(stage.kind, "--train", str(write(resolve(stage, project)))) for stage in stages]
    whole: dict[str, float] = {}
    for name, *process in [*processes, ("evaluation", "--evaluate", "yes")]:
        found = in_process(*process)
        print_shares(name, found)
        whole = {part: whole.get(part, 0.0) + found.get(part, 0.0) for part in whole | found}
    print_shares("all", whole)


def print_shares(name: str, seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    print(f"{name}: {total:.2f} CPU s")
    for part, took in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {part:<26} {took:8.2f} CPU s {100 * took / total:6.1f} %", flush=True)


if __name__ == "__main__":
    main()
