"""`clipa watch`: a live table of what trains, here or on a cluster, and TensorBoard's event files of it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.cli.verbs import add_verb, project_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from clipa.watching import Training, Watch

COLOURS = {"training": "green", "finished": "dim", "stopped": "red", "silent": "yellow"}
KEPT = 8
"""Of the stages that are over, so many of the last are shown, unless all are asked for."""
NARROW, SPARK, NARROW_SPARK = 110, 16, 10
"""Columns of a terminal below which a table is short, and of a sparkline."""


def add_verbs(verbs) -> None:
    """Add `watch` to a parser's verbs."""
    watch = add_verb(
        verbs,
        "watch",
        _watch,
        "show what trains, here or on a cluster: step, loss, rate, time left; Ctrl-C ends it",
        "--scale micro-v1 --tensorboard results/events",
    )
    watch.description += """

Reads the files that trainings write below the runs' directory, so it works from any machine that sees that disk, also
where SLURM runs the jobs (their state is squeue's). It changes nothing there. Without a terminal it prints the table
once."""
    watch.add_argument("--once", action="store_true", help="print the table once")
    watch.add_argument("--all", action="store_true", help="also all stages that are over")
    watch.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="between looks (default: 2)"
    )
    watch.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="also write event files of losses and rates there, for `tensorboard --logdir DIR`",
    )


def _watch(chosen: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live

    from clipa.events import EventFiles
    from clipa.watching import Watch

    if not 0.1 <= chosen.every <= 3600:
        raise ValueError(f"--every {chosen.every:g}: expected 0.1 to 3600 seconds")
    project = project_of(chosen)
    runs = Path(project.runs_directory)
    watch = Watch(runs, chosen.scale)
    events = EventFiles(chosen.tensorboard) if chosen.tensorboard else None
    console = Console()
    if chosen.once or not console.is_terminal:
        trainings = watch.look()
        if events:
            events.add(watch, trainings)
        console.print(_screen(watch, trainings, chosen, console.width), soft_wrap=False)
        return 0
    try:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            while True:
                trainings = watch.look()
                if events:
                    events.add(watch, trainings)
                live.update(_screen(watch, trainings, chosen, console.width), refresh=True)
                time.sleep(chosen.every)
    except KeyboardInterrupt:
        return 0


def _screen(watch: Watch, trainings: list[Training], chosen: argparse.Namespace, width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    from clipa.watching import counted_jobs, queue, still_going

    going = still_going(trainings)
    over = [one for one in trainings if one not in going]
    shown = going + (over if chosen.all else sorted(over, key=lambda one: one.silent)[:KEPT])
    counts = {state: sum(one.state == state for one in trainings) for state in COLOURS}
    said = (
        ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no training has begun"
    )
    ahead = f", {count} to come" if (count := watch.to_come()) else ""
    lines = [f"{watch.runs / (watch.scale or '')}: {said}{ahead}"]
    if jobs := counted_jobs(queue()):
        lines.append(jobs)
    if hidden := len(going) + len(over) - len(shown):
        lines.append(f"{hidden} that are over are not shown (--all)")
    parts = [Text("\n".join(lines))]
    return Group(*parts, _table(watch, shown, width)) if shown else Group(*parts)


def _table(watch: Watch, shown: list[Training], width: int) -> Table:
    from rich.table import Table

    narrow = width < NARROW
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")  # the only column that gives way
    for name in ("stage", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "loss") if narrow else ("step", "done", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("over steps", no_wrap=True)
    for name in ("left",) if narrow else ("samples/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("where", no_wrap=True)
    for one in shown:
        table.add_row(*_cells(watch, one, narrow))
    return table


def _cells(watch: Watch, one: Training, narrow: bool) -> list[str]:
    from clipa.progress import clock
    from clipa.watching import FINISHED, SILENT, TRAINING, sparkline

    state = f"{one.state} {clock(one.silent)}" if one.state == SILENT else one.state
    left = "" if one.state == FINISHED else "–"
    if one.state == TRAINING and one.left is not None:
        left = clock(one.left)
    return [
        one.run if watch.scale else f"{one.scale}/{one.run}",
        f"{one.kind} seed {one.seed}",
        f"[{COLOURS[one.state]}]{state}[/]",
        *([] if narrow else [f"{one.step:,}/{one.steps:,}"]),
        f"{100 * one.step / max(1, one.steps):.0f} %",
        f"{one.loss:.3f}",
        sparkline(watch.points(one), NARROW_SPARK if narrow else SPARK),
        *([] if narrow else ["–" if one.rate is None else f"{one.rate:,.0f}"]),
        left,
        *([] if narrow else [one.place]),
    ]
