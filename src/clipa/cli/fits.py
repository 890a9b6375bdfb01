"""`clipa fits`: whether every stage of a target fits a card's memory, and how it is trained fastest there."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from clipa.cards import CARDS, CPU
from clipa.cli.planning import COLUMNS
from clipa.config import ConfigError
from clipa.cost import stage_macs
from clipa.data.shards import progress_bar
from clipa.estimate import short, throughput_of
from clipa.fits import NAMES, TABLE, USABLE, Counted, execution, key, read_table, write_table
from clipa.plan import Plan
from clipa.stages import Stage
from clipa.study import model_order

HEAD = [
    "model",
    "stage",
    "pixels",
    "kept",
    "text",
    "batch",
    "a pass",
    "checkpointing",
    "GB",
    "samples/s",
    "MFU",
]


def report(plan: Plan, target: str, card: str, write: bool = False) -> tuple[str, int]:
    """The table, a row for stages that are alike, and the exit code: 1 if a stage does not fit as it is trained.

    ``write``: keep what had to be counted (:func:`completed`).
    """
    alike = {(key(one), one.kind, one.schedule.batch_size): one for one in plan.work(target).stages}
    stages = sorted(alike.values(), key=lambda one: (model_order(one.run.model), one.kind, -one.image_size))
    table, speed = completed(stages, write), throughput_of(plan)
    rows, misfits = [], []
    for stage in stages:
        what = (stage.run.model, stage.kind, stage.image_size, stage.kept_patches, stage.text_tokens)
        try:
            fit = execution(stage, card, table)
        except ConfigError as error:
            rows.append((*what, stage.schedule.batch_size, "", "does not fit", "", "", ""))
            misfits.append(str(error))
            continue
        rate, mfu = speed.rate(stage), ""
        if card != CPU:
            mfu = f"{200 * stage_macs(stage) / stage.schedule.samples * rate / CARDS[card].flops:.0f} %"
        size = f"{fit.bytes / 1e9:.1f}"
        rows.append(
            (*what, stage.schedule.batch_size, fit.samples, NAMES[fit.checkpointing], size, short(rate), mfu)
        )
    head = (
        f"{len(rows)} kinds of stages on {card}, {plan.scale.processes} processes: {len(rows) - len(misfits)} fit. "
        f"GB: of a process, {100 * USABLE:.0f} % of the memory serve tensors. Samples a second: of one device, by "
        f"{speed.about}. Samples a pass change the order of summation, and so the last bits of the weights; "
        "checkpointing changes none"
    )
    lines = [*textwrap.wrap(head, COLUMNS), "", tabulate(rows, HEAD, "plain", missingval=""), *misfits]
    return "\n".join(lines), int(bool(misfits))


def completed(stages: Sequence[Stage], write: bool) -> dict[str, Counted]:
    """The table of what has been counted, with what was missing of ``stages`` counted now (half a minute each).

    ``write``: config/activations.json, which is tracked, gets that, too; else a line on standard error says how.
    """
    table = read_table()
    missing = {key(stage): stage for stage in stages if key(stage) not in table}
    if missing:
        from clipa.memory import count

        with progress_bar("counting activations", len(missing), "model") as bar:
            for name, stage in missing.items():
                table[name] = count(stage)
                if write:
                    write_table(table)
                bar.update()
        if not write:
            told = f"{len(missing)} kinds of stages are not in {TABLE.name}, and were counted for this table only"
            print(
                f"clipa fits: {told}; --write keeps the counts, which plans and trainings need",
                file=sys.stderr,
            )
    return table
