"""Measured numbers beside the paper's: means over seeds, verdicts on claims, and what measuring a claim costs.

A scale-free claim is a matter of sign or order, so its own formula can be evaluated on measured records. Every
published record in it stands for the measured ones of the same run, stage, benchmark and metric, whatever its table.
The formula is evaluated once per seed, with plain values, and each of its elementary comparisons gives one margin per
seed, positive where the comparison holds. With :data:`clipa.stats.MINIMAL_SEEDS` complete seeds or more, a margin has
a two-sided Student interval over the seeds (:func:`clipa.stats.estimate`), and

* a comparison is reproduced if its whole interval lies on the right side of zero, contradicted if on the wrong side;
* comparisons joined by "and" are contradicted if one is, reproduced if all are; joined by "or" the other way round;
* what is neither is consistent if the statement holds in every seed, else inconclusive;
* not attempted: a needed number was not measured, or in fewer seeds than that (or a ratio has a zero below it).

ARO's two Visual Genome numbers are means over groups of items in the paper (:data:`clipa.records.MEANS_OVER_GROUPS`).
A claim about them is judged by such means, and what it would be over items is said beside; where a scale has no means
over groups (drawn items have none) it is judged over items, and that is said.

A seed is complete if it has every number that the formula needs. Claims share their runs, and no correction for
their number is made. A margin of counts (how many of 16 cases) can be the same in all seeds: its interval has no width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from clipa.config import CONFIG_DIRECTORY, load_scale
from clipa.cost import TRAINING_PASSES, stage_macs
from clipa.estimate import UNIT, calibrated
from clipa.plan import filling
from clipa.published.claims import CONTRADICTED, Claim, ClaimError, Evaluation, Result
from clipa.published.formulas import baseline_of, evaluate
from clipa.published.quantities import FormulaError, Published, Quantity, Statement, exact
from clipa.records import (
    MEANS_OVER_GROUPS,
    RECORDED_DIRECTORY,
    ROOT,
    RecordError,
    read_records,
    recorded_scales,
    run_name,
)
from clipa.schema import Record
from clipa.stages import Stage, measured_stages, stages_of
from clipa.stats import MINIMAL_SEEDS, Estimate, estimate
from clipa.study import SMALLER_MODELS, parse_run

REPRODUCED = "reproduced"
CONSISTENT = "consistent"
INCONCLUSIVE = "inconclusive"
NOT_ATTEMPTED = "not attempted"
MEASURED_VERDICTS = (REPRODUCED, CONSISTENT, INCONCLUSIVE, CONTRADICTED, NOT_ATTEMPTED)
TRAINED_UNITS = ("percent", "points", "GPU hours")
"""Units of published numbers that take a training to measure."""

_OF_ONE_SEED = ("seed", "stage_fingerprint", "outcomes", "provenance")

Key = tuple[str, str, str, str]
"""Run (or case), stage, benchmark, metric."""


def recorded(scale: str, root: Path = ROOT) -> list[Record]:
    """Accepted records of a scale, test suites included. RecordError if there are none or one is invalid."""
    folder = root / RECORDED_DIRECTORY / scale
    records: dict[str, Record] = {}
    for path in sorted(folder.rglob("*.json")):
        for record in read_records(path):
            records.setdefault(record["id"], record)  # a suite repeats the number of the run's own file
    if not records:
        known = ", ".join(recorded_scales(root)) or "none"
        raise RecordError(
            f"no accepted records of scale {scale!r} in {RECORDED_DIRECTORY} (there are: {known})"
        )
    return list(records.values())


@dataclass(frozen=True)
class Mean:
    """One measured quantity at one scale over its seeds; `records` are those of the seeds."""

    records: tuple[Record, ...]
    estimate: Estimate

    @property
    def id(self) -> str:
        """The records' id without the seed."""
        return self.records[0]["id"].rpartition(".seed")[0]

    @property
    def record(self) -> dict[str, Any]:
        """The mean as a record: the first seed's, with the `seeds`, their mean and its standard error."""
        first = {name: field for name, field in self.records[0].items() if name not in _OF_ONE_SEED}
        return first | {
            "id": self.id,
            "value": self.estimate.mean,
            "standard_error": self.estimate.standard_error,
            "seeds": [record["seed"] for record in self.records],
        }


def means(records: Iterable[Record]) -> list[Mean]:
    """Measured records as means over their seeds, in the order of the first of each."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        key = tuple(record.get(name) for name in ("scale", "run", "recipe", "stage", "benchmark", "metric"))
        groups.setdefault(key, []).append(record)
    return [
        Mean(
            tuple(group),
            estimate(
                [record["value"] for record in group],
                [record.get("standard_error", math.nan) for record in group],
            ),
        )
        for group in groups.values()
    ]


# ---------------------------------------------------------------------------------- verdicts on measured numbers


@dataclass(frozen=True)
class Measured:
    """The verdict of one scale on a claim. `tightest`: the margin nearest to the wrong side, of `comparisons`.

    `mean`: of a claim about ARO, which mean it was judged by, and what the other would say.
    """

    claim: Claim
    scale: str
    verdict: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]
    tightest: Estimate | None
    comparisons: int
    mean: str = ""

    @property
    def text(self) -> str:
        """What the verdict rests on, in a few words."""
        if self.verdict == NOT_ATTEMPTED:
            more = len(self.missing) - 1
            return f"lacks {self.missing[0]}" + (f" and {more} more" if more else "")
        assert self.tightest is not None
        which = "margin" if self.comparisons == 1 else f"tightest of {self.comparisons} margins"
        words = f"{which} {self.tightest.interval_text}, {len(self.seeds)} seeds"
        return f"{words}; {self.mean}" if self.mean else words


class OneSeed(Published):
    """Measured numbers of one seed, asked for by the ids of published records; `over_items`: as of `needed_keys`."""

    def __init__(self, published: Published, values: Mapping[Key, float], over_items: bool = False) -> None:
        self.records, self._lengths = published.records, published._lengths
        self._values, self._over_items = values, over_items

    def value(self, identity: str) -> Quantity:
        """The measured number that stands for a published record. FormulaError where there is none."""
        keys = needed_keys(self.record(identity), self._over_items)
        if not keys or any(key not in self._values for key in keys):
            raise FormulaError(f"{identity} was not measured")
        first, *rest = (exact(Fraction(str(self._values[key]))) for key in keys)
        return first - rest[0] if rest else first

    def text(self, identity: str) -> str:
        """FormulaError: no words are measured."""
        raise FormulaError(f"text({identity!r}): words are not measured")


def needed_keys(record: Mapping[str, Any], over_items: bool = False) -> tuple[Key, ...]:
    """What must be measured for a published record: one number; of a drop the baseline and the run's; none for others.

    `over_items`: the mean over items also where the paper has one over groups of them. Nothing stands for external
    models, settings and costs: those are not measured here.
    """
    if record["run"] is None or record["benchmark"] is None or record["unit"] not in ("percent", "points"):
        return ()
    stage, benchmark = record["stage"], record["benchmark"]
    metric = record["metric"].removesuffix("_drop")
    if stage is None or metric.endswith("_gain"):
        return ()
    # Where a run for each stage fills the cell (Table 14), the last one has them all.
    measured = f"{metric}_macro" if benchmark in MEANS_OVER_GROUPS and not over_items else metric
    key = (filling(record)[-1] if record["table"] else record["run"], stage, benchmark, measured)
    if metric == record["metric"]:
        return (key,)
    baseline = baseline_of(record["run"])
    return ((baseline, "pretrain" if "-none-" in baseline else "finetune", benchmark, measured), key)


class ScaleRecords:
    """Everything measured at one scale, by seed."""

    def __init__(self, name: str, records: Iterable[Record], published: Published) -> None:
        self.name, self._published = name, published
        self.seeds: dict[int, dict[Key, float]] = {}
        self._seconds: dict[tuple[str, str], dict[int, float]] = {}
        for record in records:
            subject = run_name(record)
            key = (subject, record["stage"], record["benchmark"], record["metric"])
            values = self.seeds.setdefault(record["seed"], {})
            if values.get(key, record["value"]) != record["value"]:
                raise RecordError(
                    f"scale {name}: two accepted values of {'.'.join(key)} with seed {record['seed']}"
                )
            values[key] = record["value"]
            if (seconds := (record.get("provenance") or {}).get("seconds")) is not None:
                self._seconds.setdefault((subject, record["stage"]), {})[record["seed"]] = seconds

    def seconds_of(self, stages: Iterable[Stage]) -> float | None:
        """Recorded seconds of one seed, mean over the seeds, summed over stages; None if one was not recorded.

        `stages` are the paper's: a recorded one is the same if its run has it at the paper's scale.
        """
        recorded: dict[str, dict[int, float]] = {}
        for (run, kind), seconds in self._seconds.items():
            if parse_run(run).model in SMALLER_MODELS:  # the law's stand-ins, which the paper has not
                continue
            for stage in measured_stages(_paper_stages(run)):
                if stage.kind == kind:  # several runs may share it: the first one's
                    recorded.setdefault(stage.fingerprint, seconds)
        found = [recorded.get(stage.fingerprint) for stage in stages]
        if not found or None in found:
            return None
        return sum(sum(seconds.values()) / len(seconds) for seconds in found if seconds)

    def verdict(self, result: Result) -> Measured:
        """The verdict on a scale-free claim (the rule stands in this module's docstring)."""
        claim = result.claim
        if not claim.scale_free:
            raise ValueError(f"claim {claim.id} is not scale-free: its numbers are the paper's")
        over_items = self._judged(result, over_items=True)
        if not self._about_groups(result):
            return over_items
        if not any(key[3].endswith("_macro") for values in self.seeds.values() for key in values):
            said = "mean over items, where the paper's is over groups of them"
            return dataclasses.replace(over_items, mean=said)
        said = f"mean over groups of items, as the paper's (over items: {over_items.verdict})"
        return dataclasses.replace(self._judged(result, over_items=False), mean=said)

    def _about_groups(self, result: Result) -> bool:
        """Whether a claim is about numbers that are means over groups of items in the paper."""
        asked = (self._published.record(identity)["benchmark"] for identity in result.rests_on)
        return any(benchmark in MEANS_OVER_GROUPS for benchmark in asked)

    def _judged(self, result: Result, over_items: bool) -> Measured:
        claim = result.claim
        seeds, missing = self._complete(result.rests_on, over_items)
        if len(seeds) < MINIMAL_SEEDS:
            return Measured(claim, self.name, NOT_ATTEMPTED, seeds, missing, None, 0)
        try:
            statements = [self._statement(claim, seed, over_items) for seed in seeds]
        except FormulaError as error:  # a ratio to an accuracy of zero
            return Measured(claim, self.name, NOT_ATTEMPTED, seeds, (f"an answer: {error}",), None, 0)
        status, estimates = _joined_verdict(statements)
        if status not in (REPRODUCED, CONTRADICTED):
            status = CONSISTENT if all(statement.holds for statement in statements) else INCONCLUSIVE
        tightest = min(estimates, key=lambda one: one.high if status == CONTRADICTED else one.low)
        return Measured(claim, self.name, status, seeds, (), tightest, len(estimates))

    def _complete(
        self, identities: Sequence[str], over_items: bool
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Seeds that have all these numbers; and, in words, what no seed has, or too few do."""
        missing: dict[str, None] = {}
        needed: set[Key] = set()
        can_be_measured = True
        for identity in identities:
            record = self._published.record(identity)
            keys = needed_keys(record, over_items)
            needed |= set(keys)
            if not keys:
                can_be_measured = False
                what = record["case"] or record["run"] or identity
                missing[f"{what} (not a measurement of this artifact)"] = None
            missing |= dict.fromkeys(name for key in keys if (name := self._lacking(key)))
        if not needed or not can_be_measured:
            return (), tuple(missing) or ("a number to measure",)
        seeds = tuple(seed for seed, values in sorted(self.seeds.items()) if needed <= set(values))
        return seeds, tuple(missing) or (f"seeds (there are {len(seeds)})",)

    def _lacking(self, key: Key) -> str:
        """A number in words, with how many seeds lack it; nothing if none does."""
        lacking = sum(key not in values for values in self.seeds.values())
        what = f"{key[2]} (mean over groups)" if key[3].endswith("_macro") else key[2]
        name = key[0] if key[2] == "imagenet1k" else f"{what} of {key[0]}"
        if 0 < lacking < len(self.seeds):
            return f"{name} in {lacking} of {len(self.seeds)} seeds"
        return name if lacking else ""

    def _statement(self, claim: Claim, seed: int, over_items: bool) -> Statement:
        value, _ = evaluate(claim.formula or "", OneSeed(self._published, self.seeds[seed], over_items))
        if not isinstance(value, Statement) or any(part.margin is None for part in value.comparisons()):
            raise ClaimError(f"claim {claim.id}: scale_free needs comparisons of numbers")
        return value


def _joined_verdict(statements: Sequence[Statement]) -> tuple[str, list[Estimate]]:
    """REPRODUCED, CONTRADICTED or neither ("") for one statement per seed, and the estimate of every margin in it."""
    first = statements[0]
    if any(
        (s.how, len(s.parts), s.strict) != (first.how, len(first.parts), first.strict) for s in statements
    ):
        raise ClaimError("scale_free: the form of the statement depends on the numbers")
    if not first.parts:
        margin = estimate([float(statement.margin.value) for statement in statements], [])
        # A comparison that is not strict holds at zero.
        right = margin.low > 0 if first.strict else margin.low >= 0
        wrong = margin.high <= 0 if first.strict else margin.high < 0
        return REPRODUCED if right else CONTRADICTED if wrong else "", [margin]
    found = [_joined_verdict(part) for part in zip(*(s.parts for s in statements), strict=True)]
    verdicts = [verdict for verdict, _ in found]
    estimates = [margin for _, several in found for margin in several]
    one, every = (CONTRADICTED, REPRODUCED) if first.how == "all" else (REPRODUCED, CONTRADICTED)
    if one in verdicts:
        return one, estimates
    return every if set(verdicts) == {every} else "", estimates


def scales_of(evaluation: Evaluation, names: Iterable[str], root: Path = ROOT) -> dict[str, ScaleRecords]:
    """What was measured at each of these scales. RecordError for one without accepted records."""
    return {name: ScaleRecords(name, recorded(name, root), evaluation.numbers) for name in names}


def verdicts_of(evaluation: Evaluation, scale: ScaleRecords) -> dict[str, Measured]:
    """The verdict of a scale on every scale-free claim, by its id."""
    return {
        result.claim.id: scale.verdict(result) for result in evaluation.results if result.claim.scale_free
    }


def counts_of(verdicts: Mapping[str, Measured]) -> dict[str, int]:
    """How many claims have each verdict of measured records."""
    counts = Counter(found.verdict for found in verdicts.values())
    return {verdict: counts[verdict] for verdict in MEASURED_VERDICTS}


# -------------------------------------------------------------------------------- what measuring a claim costs


@dataclass(frozen=True)
class Trainings:
    """The stages, at the paper's scale and each once, that must be trained to measure some published numbers."""

    stages: tuple[Stage, ...]

    @property
    def pretrainings(self) -> int:
        return sum(stage.parent is None for stage in self.stages)

    @property
    def finetunings(self) -> int:
        """Stages after a pre-training."""
        return len(self.stages) - self.pretrainings

    @functools.cached_property
    def multiply_adds(self) -> float:
        """Of the forward passes of all samples, in :data:`clipa.estimate.UNIT`."""
        return sum(stage_macs(stage) / TRAINING_PASSES for stage in self.stages) / UNIT


def trainings_behind(records: Iterable[Record]) -> Trainings:
    """The trainings behind published numbers: of each number's run, the stages up to the number's own.

    Settings, and models that are not trained here, need none. A number without a stage (GPU hours) is of all of them.
    """
    stages: dict[str, Stage] = {}
    for record in records:
        if record["run"] is None or record["unit"] not in TRAINED_UNITS:
            continue
        of_run = _paper_stages((filling(record) or [record["run"]])[-1])
        needed = [n for n, stage in enumerate(of_run, 1) if record["stage"] in (None, stage.kind)]
        own = of_run[: max(needed, default=0)]
        if (record["metric"] or "").endswith("_drop"):
            own = _paper_stages(baseline_of(record["run"])) + own
        stages |= {stage.fingerprint: stage for stage in own}
    return Trainings(tuple(stages[fingerprint] for fingerprint in sorted(stages)))


@functools.cache
def _paper_stages(run: str) -> list[Stage]:
    """The stages of a run at the paper's scale."""
    return stages_of(parse_run(run), _paper_scale(), seed=0)


@functools.cache
def _paper_scale() -> Any:
    return load_scale("paper", ROOT / CONFIG_DIRECTORY)


def a100_hours(trainings: Trainings, published: Mapping[str, Record]) -> float:
    """What trainings would take on A100s, at the rate of Table 1's three runs. `published`: records by id."""
    return trainings.multiply_adds * calibrated(published).mean
