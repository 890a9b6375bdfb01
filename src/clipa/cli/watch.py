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
"""Of the stages that are over, so many of the last are shown, and fewer in a low terminal, unless all are asked for."""
ABOVE = 5
"""Lines of a terminal that rows cannot have: three above the table, its head, and the last one."""
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
                live.update(_screen(watch, trainings, chosen, *console.size), refresh=True)
                time.sleep(chosen.every)
    except KeyboardInterrupt:
        return 0


def _screen(
    watch: Watch, trainings: list[Training], chosen: argparse.Namespace, width: int, height: int | None = None
) -> Group:
    """``height``: of the terminal; None where the table may have any number of rows."""
    from rich.console import Group
    from rich.text import Text

    from clipa.watching import counted_jobs, queue, still_going

    going = still_going(trainings)
    over = sorted((one for one in trainings if one not in going), key=lambda one: one.silent)
    # Without --scale a name has its scale before it: in a narrow table on a line of its own.
    fit = (
        None
        if height is None
        else max(1, (height - ABOVE) // (2 if width < NARROW and not watch.scale else 1))
    )
    shown = going + over if chosen.all else (going + over[:KEPT])[:fit]
    counts = {state: sum(one.state == state for one in trainings) for state in COLOURS}
    said = (
        ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no training has begun"
    )
    ahead = f", {count} to come" if (count := watch.to_come()) else ""
    lines = [f"{watch.runs / (watch.scale or '')}: {said}{ahead}"]
    if jobs := counted_jobs(queue()):
        lines.append(jobs)
    if hidden := len(trainings) - len(shown):
        lines.append(f"{hidden} more are not shown (--all --once prints all)")
    parts = [Text("\n".join(lines))]
    return Group(*parts, _table(watch, shown, width)) if shown else Group(*parts)


def _table(watch: Watch, shown: list[Training], width: int) -> Table:
    """A narrow table has no column of its own for the state, which then stands where there is no time left to show."""
    from rich.table import Table

    narrow = width < NARROW
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold")  # the only column that gives way
    for name in ("stage",) if narrow else ("stage", "state"):
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

    state = f"[{COLOURS[one.state]}]{one.state}{f' {clock(one.silent)}' * (one.state == SILENT)}[/]"
    left = "" if one.state == FINISHED else "–"
    if one.state == TRAINING and one.left is not None:
        left = clock(one.left)
    elif narrow:
        left = state
    prefix = "" if watch.scale else f"{one.scale}/" + "\n" * narrow
    return [
        f"{prefix}{one.run}",
        f"{one.kind} seed {one.seed}",
        *([] if narrow else [state, f"{one.step:,}/{one.steps:,}"]),
        f"{100 * one.step / max(1, one.steps):.0f} %",
        f"{one.loss:.3f}",
        sparkline(watch.points(one), NARROW_SPARK if narrow else SPARK),
        *([] if narrow else ["–" if one.rate is None else f"{one.rate:,.0f}"]),
        left,
        *([] if narrow else [one.place]),
    ]
