"""`clipa fits`: whether every stage of a target fits a card's memory, and how it is trained fastest there."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from clipa.data.shards import progress_bar
from clipa.fits import CARDS, NAMES, USABLE, Counted, best, key, needed, read_table, write_table
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
    "configured",
    "",
    "GB",
]


def report(plan: Plan, target: str, card: str) -> tuple[str, int]:
    """The table, a row for stages that are alike, and the exit code: 1 if a stage does not fit, however it is trained.

    ``configured``: what the scale's file asks for, with the bytes that this needs.
    """
    stages = list(
        {
            (key(stage), stage.kind, stage.schedule.batch_size): stage for stage in plan.work(target).stages
        }.values()
    )
    table = completed(stages)
    rows, misfits, over = [], 0, 0
    for stage in sorted(stages, key=lambda one: (model_order(one.run.model), one.kind, -one.image_size)):
        fit = best(stage, card, table)
        schedule = stage.schedule
        share = schedule.batch_size // stage.scale.processes
        samples = min(schedule.microbatch or share, share)
        size = needed(stage, samples, schedule.activation_checkpointing, table[key(stage)])
        misfits, over = misfits + (fit is None), over + (size > USABLE * CARDS[card] * 1e9)
        how = (
            (fit.samples, NAMES[fit.checkpointing], f"{fit.bytes / 1e9:.1f}")
            if fit
            else ("none fits", "", "")
        )
        asked = (samples, NAMES[schedule.activation_checkpointing], f"{size / 1e9:.1f}")
        what = (stage.run.model, stage.kind, stage.image_size, stage.kept_patches, stage.text_tokens)
        rows.append((*what, schedule.batch_size, *how, *asked))
    head = (
        f"{len(rows)} kinds of stages on {card} ({100 * USABLE:.0f} % of it for tensors), "
        f"{plan.scale.processes} processes: {len(rows) - misfits} fit; as configured {len(rows) - over}"
    )
    return head + "\n" + tabulate(rows, HEAD, "plain", missingval=""), int(misfits > 0)


def completed(stages: Sequence[Stage]) -> dict[str, Counted]:
    """The table of what has been counted, with what was missing of ``stages`` counted now (half a minute each)."""
    table = read_table()
    missing = {key(stage): stage for stage in stages if key(stage) not in table}
    if missing:
        from clipa.memory import count

        with progress_bar("counting activations", len(missing), "model") as bar:
            for name, stage in missing.items():
                table[name] = count(stage)
                write_table(table)
                bar.update()
    return table
