"""One new seed of a shorter training beside the recorded seeds, and what the recorded study says: the demo's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipa.law.layout import columns, counted, interval, listed, wrapped
from clipa.law.power import WORST_LEVEL, power, published_slope
from clipa.law.printed import verdict_line
from clipa.law.statistic import FULL, Length, Summary, measured, summarise
from clipa.law.verdicts import AGAINST, AS_SAID, PRIMARIES, TRAININGS, Findings, examine, sign
from clipa.records import of_the_study
from clipa.schema import Record
from clipa.stats import MINIMAL_SEEDS, WEIGHED_SEEDS, fixed

SAID = {
    AS_SAID: "larger models lose less by short images here, as the law says",
    AGAINST: "larger models lose more by short images here, against the law",
}
TOO_FEW = (
    f"with fewer than {MINIMAL_SEEDS} seeds nothing is said about the law: other seeds may differ by more"
)
NOT_SAID = "the interval holds 0, so these seeds do not show that the drop depends on size"


@dataclass(frozen=True)
class Joined:
    """``own``: the new seed alone; ``joined``: with the recorded seeds of the same recipe; ``study``: recorded runs.

    ``study`` is None where no full-length baseline of the study is recorded.
    """

    recipe: str
    seed: int
    own: Summary
    joined: Summary
    study: Findings | None

    @property
    def recorded_seeds(self) -> int:
        return max(len(length.seeds) for length in self.joined.lengths) - 1


def join(own: Sequence[Record], recorded: Sequence[Record], recipe: str) -> Joined:
    """Beside ``own`` (one seed of ``recipe``, measured here) the records of other seeds. RecordError as summarise."""
    own = measured(own)
    seed = own[0]["seed"]
    same = [
        record
        for record in measured(recorded)
        if record.get("recipe") in (recipe, f"{recipe}-pretrain") and record["seed"] != seed
    ]
    study = examine(recorded) if measured(of_the_study(recorded)) else None
    return Joined(recipe, seed, summarise(own), summarise([*own, *same]), study)


def joined_report(found: Joined) -> str:
    """For a terminal: drops here and over all seeds, the slope, what follows, and what is recorded of the study."""
    lines = [
        f"Seed {found.seed}, trained here on {TRAININGS[found.recipe]} of the study's samples, "
        f"beside {counted(found.recorded_seeds, 'recorded seed')}",
        f"Test set: {found.joined.dataset} (n = {found.joined.n})",
    ]
    for length in found.joined.lengths:
        lines += ["", *_length(found, length)]
    if found.study is not None:
        lines += ["", *_study(found.study)]
    lines += ["", *wrapped("This is about this scale alone; accuracies are not comparable with the paper's.")]
    return "\n".join(lines) + "\n"


def _length(found: Joined, length: Length) -> list[str]:
    label, here = length.label, found.own.length(length.label)
    rows = [
        [
            model,
            found.own.accuracies[model, FULL].text,
            found.own.accuracies[model, label].text,
            f"{fixed(here.drops[model].mean, signed=True)}",
            interval(length.drops[model]),
        ]
        for model in length.models
    ]
    heads = ["accuracy, %", "full length", label, "drop here", f"drop, {counted(len(length.seeds), 'seed')}"]
    over = "seeds" if len(length.seeds) >= MINIMAL_SEEDS else "test items"
    slopes = f"{fixed(here.slope.mean, signed=True)} here, {interval(length.slope)} over all seeds"
    paper = [
        f"; the paper's: {fixed(published_slope(one), signed=True)}"
        for one in PRIMARIES
        if one.label == label
    ]
    said = SAID.get(sign(length), NOT_SAID) if len(length.seeds) >= MINIMAL_SEEDS else TOO_FEW
    return [
        *columns(rows, heads),
        f"  (drops in points; 95 % intervals over {over})",
        *wrapped(f"Slope of the drop, points per tenfold parameters: {slopes}{''.join(paper)}."),
        *wrapped(f"So: {said} (exploratory: a verdict needs the whole training)."),
    ]


def _study(found: Findings) -> list[str]:
    """Verdicts on the recorded runs of the whole training, and the power that their deviations give."""
    lines = []
    for outcome in found.outcomes:
        if outcome.length is None or outcome.length.slope is None:
            continue
        length = outcome.length
        lines += [f"  {line}" for line in wrapped(f"{verdict_line(outcome)} Slope {interval(length.slope)}.")]
        if length.deviations and all(length.deviations.values()):
            seeds = max(WEIGHED_SEEDS, len(length.seeds))
            sizes = [found.summary.parameters[model] for model in length.models]
            share = power(published_slope(outcome.primary), list(length.deviations.values()), sizes, seeds)
            lines += [
                f"    power to find the paper's slope with {seeds} seeds: {100 * share:.0f} % "
                f"(level {100 * WORST_LEVEL:g} %)"
            ]
    if not lines:
        return []
    labels = listed([one.length.label for one in found.outcomes if one.length is not None])
    return [f"What the recorded runs of the whole training say ({labels}):", *lines]
