"""Claims on measured records: does what the paper says of signs and orders hold for numbers measured at another scale?

The formula is the claim's own. Every published record in it stands for the measured ones of the same run, stage,
benchmark and metric, whatever its table; the formula is evaluated once per seed, with plain values, and each of its
elementary comparisons gives one margin per seed, positive where the comparison holds. With
`clipa.law.MINIMAL_SEEDS` complete seeds or more, a margin has a two-sided Student interval at `clipa.law.LEVEL` over
the seeds (docs/law.md), and

* a comparison is reproduced if its whole interval lies on the right side of zero, contradicted if on the wrong side;
* comparisons joined by "and" are contradicted if one is, reproduced if all are; joined by "or" the other way round;
* what is neither is consistent if the statement holds in every seed, else inconclusive;
* not attempted: a needed number was not measured, or in fewer seeds than that (or a ratio has a zero below it).

A seed counts as complete if it has every number that the formula needs. Claims share their runs, and no correction for
their number is made. A margin of counts (how many of 16 cases) can be the same in all seeds: its interval has no width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipa.claims import Claim, ClaimError, check
from clipa.claims.formulas import evaluate
from clipa.claims.functions import baseline_of
from clipa.claims.numbers import FormulaError, Published
from clipa.claims.quantities import Quantity, Statement, exact
from clipa.grid import filling
from clipa.records import RECORDED_DIRECTORY, ROOT, Record, RecordError, run_name

if TYPE_CHECKING:
    from clipa.law import Estimate

REPRODUCED = "reproduced"
CONSISTENT = "consistent"
INCONCLUSIVE = "inconclusive"
CONTRADICTED = "contradicted"
NOT_ATTEMPTED = "not attempted"
MEASURED_VERDICTS = (REPRODUCED, CONSISTENT, INCONCLUSIVE, CONTRADICTED, NOT_ATTEMPTED)

Key = tuple[str, str, str, str]
"""Run (or case), stage, benchmark, metric."""


@dataclass(frozen=True)
class Measured:
    """The verdict of one scale on a claim. `tightest`: the margin nearest to the wrong side, of `comparisons`."""

    claim: Claim
    scale: str
    verdict: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]
    tightest: Estimate | None
    comparisons: int

    @property
    def said(self) -> str:
        """What the verdict rests on, in a few words."""
        if self.verdict == NOT_ATTEMPTED:
            more = len(self.missing) - 1
            return f"lacks {self.missing[0]}" + (f" and {more} more" if more else "")
        assert self.tightest is not None
        low, mean, high = self.tightest.low, self.tightest.mean, self.tightest.high
        which = "margin" if self.comparisons == 1 else f"tightest of {self.comparisons} margins"
        return f"{which} {mean:+.1f} [{low:+.1f}, {high:+.1f}], {len(self.seeds)} seeds"


def recorded_scales(root: Path = ROOT) -> list[str]:
    """The scales that have accepted records."""
    folder = root / RECORDED_DIRECTORY
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def recorded(scale: str, root: Path = ROOT) -> list[Record]:
    """Accepted records of a scale, test suites included, without checking them against the schema (tests do that).

    RecordError if there are none or a file is damaged.
    """
    folder = root / RECORDED_DIRECTORY / scale
    records: dict[str, Record] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            for record in json.loads(path.read_text(encoding="utf-8"))["records"]:
                records.setdefault(record["id"], record)  # a suite repeats the number of the run's own file
        except (OSError, ValueError, KeyError) as error:
            raise RecordError(f"{path}: cannot be read as records: {error}") from None
    if not records:
        known = ", ".join(recorded_scales(root)) or "none"
        raise RecordError(
            f"no accepted records of scale {scale!r} in {RECORDED_DIRECTORY} (there are: {known})"
        )
    return list(records.values())


class OneSeed:
    """Measured numbers of one seed, asked for by the ids of published records."""

    def __init__(self, published: Published, values: Mapping[Key, float]) -> None:
        self._published, self._values = published, values

    def value(self, identity: str) -> Quantity:
        """The measured number that stands for a published record. FormulaError where there is none."""
        record = self._published.record(identity)
        keys = needed_keys(record)
        if not keys or any(key not in self._values for key in keys):
            raise FormulaError(f"{identity} was not measured")
        first, *rest = (exact(Fraction(str(self._values[key]))) for key in keys)
        return first - rest[0] if rest else first

    def text(self, identity: str) -> str:
        """FormulaError: no words are measured."""
        raise FormulaError(f"text({identity!r}): words are not measured")

    def lengths(self, table: int, model: str, reduction: str) -> dict[str, int]:
        """Runs of a published table, longest first; whether they were measured shows when they are asked for."""
        return self._published.lengths(table, model, reduction)


def needed_keys(record: Mapping[str, Any]) -> tuple[Key, ...]:
    """What must be measured for a published record: one number; of a drop the baseline and the run's; none for others.

    Nothing stands for external models, settings and costs: those are not measured here.
    """
    if record["run"] is None or record["benchmark"] is None or record["unit"] not in ("percent", "points"):
        return ()
    stage, benchmark = record["stage"], record["benchmark"]
    metric = record["metric"].removesuffix("_drop")
    if stage is None or metric.endswith("_gain"):
        return ()
    # Where a run for each stage fills the cell (Table 14), the last one has them all.
    key = (filling(record)[-1] if record["table"] else record["run"], stage, benchmark, metric)
    if metric == record["metric"]:
        return (key,)
    baseline = baseline_of(record["run"])
    return ((baseline, "pretrain" if "-none-" in baseline else "finetune", benchmark, metric), key)


class Scale:
    """Everything measured at one scale, by seed."""

    def __init__(self, name: str, records: Iterable[Record], published: Published) -> None:
        self.name, self._published = name, published
        self.seeds: dict[int, dict[Key, float]] = {}
        self.seconds: dict[tuple[str, str], dict[int, float]] = {}
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
                self.seconds.setdefault((subject, record["stage"]), {})[record["seed"]] = seconds

    def judge(self, claim: Claim) -> Measured:
        """The verdict on a scale-free claim (the rule stands in this module's docstring)."""
        from clipa.law import MINIMAL_SEEDS, over_seeds

        if not claim.scale_free:
            raise ValueError(f"claim {claim.id} is not scale-free: its numbers are the paper's")
        seeds, missing = self._complete(check(claim, self._published).rests_on)
        if len(seeds) < MINIMAL_SEEDS:
            return Measured(claim, self.name, NOT_ATTEMPTED, seeds, missing, None, 0)
        try:
            statements = [self._statement(claim, seed) for seed in seeds]
        except FormulaError as error:  # a ratio to an accuracy of zero
            return Measured(claim, self.name, NOT_ATTEMPTED, seeds, (f"an answer: {error}",), None, 0)
        status, estimates = _over(statements, over_seeds)
        if status not in (REPRODUCED, CONTRADICTED):
            status = CONSISTENT if all(statement.holds for statement in statements) else INCONCLUSIVE
        tightest = min(estimates, key=lambda one: one.high if status == CONTRADICTED else one.low)
        return Measured(claim, self.name, status, seeds, (), tightest, len(estimates))

    def _complete(self, identities: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Seeds that have all these numbers; and, in words, what no seed has, or too few do."""
        missing: dict[str, None] = {}
        needed: set[Key] = set()
        can_be_measured = True
        for identity in identities:
            record = self._published.record(identity)
            keys = needed_keys(record)
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
        name = key[0] if key[2] == "imagenet1k" else f"{key[2]} of {key[0]}"
        if 0 < lacking < len(self.seeds):
            return f"{name} in {lacking} of {len(self.seeds)} seeds"
        return name if lacking else ""

    def _statement(self, claim: Claim, seed: int) -> Statement:
        value, _ = evaluate(claim.formula or "", OneSeed(self._published, self.seeds[seed]))
        if not isinstance(value, Statement) or any(part.margin is None for part in value.comparisons()):
            raise ClaimError(f"claim {claim.id}: scale_free needs comparisons of numbers")
        return value


def _over(statements: Sequence[Statement], over_seeds: Any) -> tuple[str, list[Estimate]]:
    """REPRODUCED, CONTRADICTED or neither ("") for one statement per seed, and the estimate of every margin in it."""
    first = statements[0]
    if any(
        (s.how, len(s.parts), s.strict) != (first.how, len(first.parts), first.strict) for s in statements
    ):
        raise ClaimError("scale_free: the form of the statement depends on the numbers")
    if not first.parts:
        estimate = over_seeds([float(statement.margin.value) for statement in statements])
        # A comparison that is not strict holds at zero.
        right = estimate.low > 0 if first.strict else estimate.low >= 0
        wrong = estimate.high <= 0 if first.strict else estimate.high < 0
        return REPRODUCED if right else CONTRADICTED if wrong else "", [estimate]
    found = [_over(part, over_seeds) for part in zip(*(s.parts for s in statements), strict=True)]
    verdicts = [verdict for verdict, _ in found]
    estimates = [estimate for _, several in found for estimate in several]
    one, every = (CONTRADICTED, REPRODUCED) if first.how == "all" else (REPRODUCED, CONTRADICTED)
    if one in verdicts:
        return one, estimates
    return every if set(verdicts) == {every} else "", estimates
