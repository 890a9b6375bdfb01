"""The two primary hypotheses, the convergence gate before them, and signs at all other lengths (docs/law.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from clipa.law.statistic import (
    BASELINE_FINETUNED,
    Finals,
    Length,
    Summary,
    check_one_experiment,
    finals_of,
    item_drops,
    measured,
    summarise,
)
from clipa.records import of_the_study
from clipa.schema import Record
from clipa.stats import MINIMAL_MODELS, MINIMAL_SEEDS, WEIGHED_SEEDS, Estimate, estimate, holm, of_items
from clipa.study import TEXT_STUDY_IMAGE_SIZE, Run, parse_run

LEVEL = 0.05
"""Of the family of primary hypotheses."""
PRIMARY_SEEDS, PRIMARY_MODELS = WEIGHED_SEEDS, 4
PRETRAINED_TWICE, FINETUNED_TWICE = "samples-double-pretrain", "finetune-double"
"""Recipes of the gate: pre-training, or fine-tuning, on twice the samples (config/recipes.yaml)."""
PRETRAIN_LIMIT, FINETUNE_LIMIT = 2.0, 1.0
"""Points by which twice the samples may move an accuracy."""
TRAININGS = {"samples-eighth": "1/8", "samples-quarter": "1/4", "samples-half": "1/2", "samples-double": "2"}
"""Recipes with a share of the study's samples in both stages, smallest first. Full length: `<recipe>-pretrain`."""
FINETUNINGS = {
    "finetune-tenth": "1/10",
    None: "1",
    FINETUNED_TWICE: "2",
    BASELINE_FINETUNED: "1, baseline too",
}
"""Recipes that change fine-tuning alone, of the short runs or (the last) of the baseline; None: the study."""

REPRODUCED, CONTRADICTED, INCONCLUSIVE, NO_VERDICT = (
    "reproduced",
    "contradicted",
    "inconclusive",
    "no verdict",
)
AS_SAID, AGAINST, NOT_CLEAR = "as the law says", "against the law", "not clear"
PRIMARY = "primary, see `clipa law`"


@dataclass(frozen=True)
class Primary:
    """A primary hypothesis: the slope of the drop is zero at `label`, the length of `reduced`."""

    name: str
    label: str
    reduced: Run

    def run(self, model: str) -> Run:
        """The reduced run of a model."""
        return Run(
            model,
            self.reduced.image_reduction,
            self.reduced.image_size,
            text_reduction=self.reduced.text_reduction,
            text_tokens=self.reduced.text_tokens,
        )

    @property
    def baseline_sees_less(self) -> bool:
        """Whether the baseline is only pre-trained, so that the short run sees the samples of a fine-tuning more."""
        return self.reduced.baseline.is_full_length


PRIMARIES = (
    Primary("P1", "resize 112", Run("L/16", "resize", 112)),
    Primary(
        "P2",
        "text syntax 8",
        Run("L/16", "resize", TEXT_STUDY_IMAGE_SIZE, text_reduction="syntax", text_tokens=8),
    ),
)


@dataclass(frozen=True)
class Check:
    """One model's part of the gate: how twice the samples of a `stage` moved its accuracy at `label`, points.

    The point estimate counts: the mean over the seeds that have both, seed 0 among them. None: not measured.
    """

    stage: str
    label: str
    model: str
    limit: float
    moved: Estimate | None

    @property
    def passed(self) -> bool:
        return self.moved is not None and abs(self.moved.mean) < self.limit


@dataclass(frozen=True)
class Outcome:
    """What was found on a primary hypothesis. `p`, and `adjusted` by Holm, are NaN where there is no verdict.

    `lacks`: what a verdict would need, in words. `equal`: the slope of the drop from a baseline that is fine-tuned like
    the short runs (:data:`FINETUNINGS`).
    """

    primary: Primary
    length: Length | None
    checks: tuple[Check, ...]
    lacks: tuple[str, ...]
    p: float = math.nan
    adjusted: float = math.nan
    equal: Estimate | None = None

    @property
    def verdict(self) -> str:
        if self.lacks or self.length is None or self.length.slope is None:
            return NO_VERDICT
        if not self.adjusted < LEVEL:
            return INCONCLUSIVE
        return REPRODUCED if self.length.slope.mean < 0 else CONTRADICTED

    @property
    def ratio_agrees(self) -> bool:
        """Whether the log ratio's interval lies on the same side of zero as the slope of the drop."""
        return self.length is not None and self._agrees(self.length.log_ratio)

    @property
    def equal_agrees(self) -> bool:
        """Whether the interval of `equal` lies there."""
        return self._agrees(self.equal)

    def _agrees(self, other: Estimate | None) -> bool:
        if other is None or self.length is None or self.length.slope is None:
            return False
        return other.high < 0 if self.length.slope.mean < 0 else other.low > 0


@dataclass(frozen=True)
class Findings:
    """All that the report prints.

    `trainings`: the lengths after other numbers of samples, by :data:`TRAININGS`. `finetunings`: after other
    fine-tunings of the same pre-training, by the words of :data:`FINETUNINGS`.
    """

    summary: Summary
    outcomes: tuple[Outcome, ...]
    trainings: dict[str, Summary] = field(default_factory=dict)
    finetunings: dict[str, Summary] = field(default_factory=dict)

    @property
    def by_share(self) -> dict[str, Summary]:
        """By the share of the study's samples, "1/8" and so on, smallest first; "1" is the study itself."""
        shares = {TRAININGS[recipe]: own for recipe, own in self.trainings.items()} | {"1": self.summary}
        return {share: shares[share] for share in sorted(shares, key=Fraction)}

    @property
    def by_finetuning(self) -> dict[str, Summary]:
        """By the words of :data:`FINETUNINGS`, in its order; the study is among them."""
        found = self.finetunings | {FINETUNINGS[None]: self.summary}
        return {words: found[words] for words in FINETUNINGS.values() if words in found}


def examine(records: Iterable[Record]) -> Findings:
    """The law among the records of one scale: lengths of the study, primary hypotheses, other trainings.

    Records of other recipes are left out. RecordError as :func:`clipa.law.statistic.summarise`.
    """
    records = list(records)
    summary = summarise(of_the_study(records))
    ours = {*FINETUNINGS, *TRAININGS, *map(_full_length, TRAININGS)}
    check_one_experiment(measured(r for r in records if r.get("recipe") in ours))
    trainings = {}
    for recipe in TRAININGS:
        own = measured(r for r in records if r.get("recipe") in (recipe, _full_length(recipe)))
        if any(run == Run(run.model) for run, _ in finals_of(own)):
            trainings[recipe] = summarise(own)
    finetunings = _finetunings(records)
    outcomes = _outcomes(summary, records, finetunings.get(FINETUNINGS[BASELINE_FINETUNED]))
    return Findings(summary, outcomes, trainings, finetunings)


def _finetunings(records: Sequence[Record]) -> dict[str, Summary]:
    """Lengths by the words of :data:`FINETUNINGS`: a recipe's runs, and the study's in place of those that it lacks."""
    study = measured(of_the_study(records))
    found = {}
    for recipe, words in FINETUNINGS.items():
        own = measured(r for r in records if r.get("recipe") == recipe)
        baseline = recipe == BASELINE_FINETUNED
        if recipe and own:
            found[words] = summarise(
                [*own, *(r for r in study if parse_run(r["run"]).is_full_length != baseline)]
            )
    return found


def _full_length(recipe: str) -> str:
    """The recipe of the full-length baseline, which is only pre-trained."""
    return f"{recipe}-pretrain"


def _outcomes(summary: Summary, records: Sequence[Record], equal: Summary | None) -> tuple[Outcome, ...]:
    """Each primary hypothesis with its p and, where nothing is lacking, Holm's. One that lacks something has p = 1.

    `equal`: the lengths beside baselines that are fine-tuned, too.
    """
    found = []
    for primary in PRIMARIES:
        length = summary.length(primary.label)
        checks = gate(primary, summary.models, records)
        beside = equal.length(primary.label) if equal and primary.baseline_sees_less else None
        slope = beside.slope if beside else None
        found.append(Outcome(primary, length, checks, _lacking(summary, length, checks), equal=slope))
    values = [1.0 if one.verdict == NO_VERDICT else one.length.slope.p_value for one in found]
    return tuple(
        one if one.verdict == NO_VERDICT else replace(one, p=p, adjusted=adjusted)
        for one, p, adjusted in zip(found, values, holm(values), strict=True)
    )


def _lacking(summary: Summary, length: Length | None, checks: Sequence[Check]) -> tuple[str, ...]:
    """What a verdict needs and is not there, in words."""
    if length is None or length.slope is None:
        return ("it was not measured",)
    lacks = []
    if len(length.models) < PRIMARY_MODELS:
        lacks.append(f"{len(length.models)} of {PRIMARY_MODELS} models")
    if missing := [model for model in summary.models if model not in length.models]:
        lacks.append(f"no run of {', '.join(missing)}")
    if len(length.seeds) < PRIMARY_SEEDS:
        lacks.append(f"{len(length.seeds)} of {PRIMARY_SEEDS} complete seeds")
    if any(check.moved is None for check in checks):
        lacks.append("the gate was not measured")
    elif failed := [check for check in checks if not check.passed]:
        names = ", ".join(dict.fromkeys(check.model for check in failed))
        lacks.append(f"the gate is shut: {names} not converged")
    return tuple(lacks)


def eligible(length: Length) -> bool:
    """Whether this is a primary length with the models and seeds of a verdict: it then has no exploratory sign."""
    enough = len(length.models) >= PRIMARY_MODELS and len(length.seeds) >= PRIMARY_SEEDS
    return enough and any(primary.label == length.label for primary in PRIMARIES)


def sign(length: Length) -> str:
    """Where the slope's whole interval lies, in exploratory words; not clear with fewer than three seeds or models."""
    slope = length.slope
    if slope is None or slope.seeds < MINIMAL_SEEDS or len(length.models) < MINIMAL_MODELS:
        return NOT_CLEAR
    return AS_SAID if slope.high < 0 else AGAINST if slope.low > 0 else NOT_CLEAR


def signs_by_strategy(summary: Summary) -> dict[str, dict[str, str]]:
    """The exploratory sign of every length, by strategy: `{"text syntax": {"8": "as the law says", …}, …}`."""
    found: dict[str, dict[str, str]] = {}
    for length in (*summary.lengths, *summary.text_lengths):
        strategy, _, size = length.label.rpartition(" ")
        found.setdefault(strategy, {})[size] = PRIMARY if eligible(length) else sign(length)
    return found


# ------------------------------------------------------------------------------------------------------------ the gate


def gate(primary: Primary, models: Sequence[str], records: Iterable[Record]) -> tuple[Check, ...]:
    """Both conditions for every model, from records of the study and of the recipes that double a stage.

    It looks at accuracies of single runs, never at a drop or a slope.
    """
    by_recipe: dict[str | None, list[Record]] = {}
    for record in measured(records):
        by_recipe.setdefault(record.get("recipe"), []).append(record)
    study, pretrained, finetuned = (
        finals_of(by_recipe.get(name, ())) for name in (None, PRETRAINED_TWICE, FINETUNED_TWICE)
    )
    checks = [
        Check("pre-training", "full", model, PRETRAIN_LIMIT, _moved(Run(model), study, pretrained))
        for model in models
    ]
    checks += [
        Check(
            "fine-tuning", primary.label, model, FINETUNE_LIMIT, _moved(primary.run(model), study, finetuned)
        )
        for model in models
    ]
    return tuple(checks)


def _moved(run: Run, study: Finals, doubled: Finals) -> Estimate | None:
    """Accuracy with twice the samples minus the study's, points; None unless seed 0 has both."""
    seeds = sorted(seed for own, seed in doubled if own == run and (run, seed) in study)
    if 0 not in seeds:
        return None
    gains = [of_items(-item_drops(study[run, seed], doubled[run, seed])) for seed in seeds]
    return estimate(*zip(*gains, strict=True))
