"""The report of `clipa law`: what was measured, the gate, the power, both verdicts, everything else as exploratory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clipa.law.layout import RATIO_DECIMALS, columns, counted, interval, listed, p_text, wrapped
from clipa.law.power import table
from clipa.law.statistic import FULL, Length, Summary
from clipa.law.verdicts import (
    AGAINST,
    AS_SAID,
    CONTRADICTED,
    INCONCLUSIVE,
    NO_VERDICT,
    NOT_CLEAR,
    PRIMARIES,
    REPRODUCED,
    Check,
    Findings,
    Outcome,
    eligible,
    examine,
    sign,
)
from clipa.records import load_records
from clipa.stats import fixed, over_what
from clipa.study import FULL_TEXT_TOKENS, TEXT_STUDY_IMAGE_SIZE

ACCURACIES_A_LINE, DROPS_A_LINE = 4, 3
"""More models than this stand in several tables, so that lines stay below 100 columns."""


def main_report(paths: Iterable[str | Path], beside: Iterable[str | Path] = ()) -> str:
    """The report on the records in these files; `beside`: files of another scale, whose slopes are set beside.

    Raises RecordError.
    """
    found = examine(load_records(paths))
    other = list(beside)
    return report(found, examine(load_records(other)).summary if other else None)


def report(found: Findings, beside: Summary | None = None) -> str:
    """The findings as plain text for a terminal, at most 100 columns wide."""
    summary = found.summary
    counts = {value.seeds for value in summary.accuracies.values()}
    seeds = counted(max(counts), "seed") if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    lines = [
        f"The inverse scaling law at scale {summary.scale}: {summary.dataset} (n = {summary.n}), {seeds}"
    ]
    lines += ["", *_part(summary, summary.lengths, [FULL], "full length")]
    if summary.text_lengths:
        words = dict.fromkeys(length.label.rpartition(" ")[0] for length in summary.text_lengths)
        own = [f"{word} {FULL_TEXT_TOKENS}" for word in words]
        heading = (
            f"Text tokens, at images resized to {TEXT_STUDY_IMAGE_SIZE}; "
            f"each reduction against itself at {FULL_TEXT_TOKENS} tokens"
        )
        against = f"the same reduction at {FULL_TEXT_TOKENS}"
        lines += ["", heading, "", *_part(summary, summary.text_lengths, own, against)]
    for section in (
        _trainings(found),
        _finetunings(found),
        _beside(summary, beside),
        _gate(found.outcomes),
        table(summary.parameters, _deviations(summary)),
        _primaries(found.outcomes),
        _conclusion(found),
    ):
        lines += ["", *section] if section else []
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------- every length


def _part(summary: Summary, lengths: Sequence[Length], full: Sequence[str], against: str) -> list[str]:
    """Accuracies, drops and slopes of image or of text lengths; `full`: labels of what drops are taken from."""
    labels = [*full, *(length.label for length in lengths)]
    words = list(dict.fromkeys(label.rpartition(" ")[0] for label in labels))
    # Each reduction's full length stands before its shorter ones.
    labels.sort(key=lambda label: words.index(label.rpartition(" ")[0]))
    shown = {key: value for key, value in summary.accuracies.items() if key[1] in labels}
    over = over_what(value.seeds for value in shown.values())
    lines = []
    for models in _groups(summary.models, ACCURACIES_A_LINE):
        sizes = [f"{model} ({summary.parameters[model] / 1e6:.2f} M)" for model in models]
        rows = [
            [label, *(shown[key].text if (key := (model, label)) in shown else "–" for model in models)]
            for label in labels
        ]
        lines += [f"Zero-shot accuracy, % (± standard error over {over})", *columns(rows, ["", *sizes]), ""]
    for models in _groups(summary.models, DROPS_A_LINE):
        rows = [[one.label, *(interval(one.drops.get(model)) for model in models)] for one in lengths]
        lines += [f"Drop from {against}, points (95 % interval)", *columns(rows, ["", *models]), ""]
    rows = [[one.label, *_slopes(one), f"{one.ordered} of {len(one.seeds)}"] for one in lengths]
    lines += [
        "Slope of the drop, points per tenfold parameters, and of ln(error / full-length error), with",
        "95 % intervals; the law says: below 0. Order: seeds in which each larger model drops less",
        *columns(rows, ["", "slope of the drop", "of the log ratio", "sign, exploratory", "order"], "lrrll"),
    ]
    return [*lines, *_left_out(summary, lengths)]


def _groups(models: Sequence[str], most: int) -> list[Sequence[str]]:
    """The models in tables of about equal width, at most so many in each."""
    tables = -(-len(models) // most)
    size = -(-len(models) // tables)
    return [models[start : start + size] for start in range(0, len(models), size)]


def _slopes(length: Length) -> list[str]:
    """Cells of a length: slope of the drop, slope of the log ratio, sign."""
    return [interval(length.slope), interval(length.log_ratio, RATIO_DECIMALS), _said(length)]


def _said(length: Length) -> str:
    """The sign of a length of the study; a primary one with enough seeds has its verdict instead."""
    return "primary, see below" if eligible(length) else sign(length)


def _left_out(summary: Summary, lengths: Sequence[Length]) -> list[str]:
    """Seeds that lack a model at a length, and models without any run there."""
    said = []
    for length in lengths:
        if length.left_out:
            said.append(f"{length.label}: seed {', '.join(map(str, length.left_out))}")
        if missing := [model for model in summary.models if model not in length.models]:
            said.append(f"{length.label}: {', '.join(missing)}")
    return wrapped(f"  Left out of slopes, since runs are missing: {'; '.join(said)}") if said else []


def _series(rows: Sequence[tuple[str, Summary, Length]], head: str, study: Summary) -> list[str]:
    """Slopes of one length in several experiments: name, summary (`study` is the study's) and what was found."""
    cells = [
        [
            length.label if number == 0 or rows[number - 1][2].label != length.label else "",
            name,
            interval(length.slope),
            interval(length.log_ratio, RATIO_DECIMALS),
            _said(length) if summary is study else sign(length),
            counted(len(length.seeds), "seed"),
        ]
        for number, (name, summary, length) in enumerate(rows)
    ]
    return columns(
        cells, ["", head, "slope of the drop", "of the log ratio", "sign, exploratory", ""], "llrrll"
    )


def _trainings(found: Findings) -> list[str]:
    """The law over training: each length after other numbers of samples in both stages."""
    title = "The law over training: both stages on a share of the study's samples (exploratory)"
    return _by_length(title, "samples", found.by_share, found.summary)


def _finetunings(found: Findings) -> list[str]:
    """The law over fine-tuning: P1's length after other fine-tunings of the same pre-training."""
    labels = [primary.label for primary in PRIMARIES if primary.baseline_sees_less]
    title = "The law over fine-tuning: short runs, or the baseline too, fine-tuned otherwise (exploratory)"
    return _by_length(title, "fine-tuning", found.by_finetuning, found.summary, labels)


def _by_length(
    title: str, head: str, found: Mapping[str, Summary], study: Summary, only: Sequence[str] | None = None
) -> list[str]:
    """Slopes at every image length (of `only`) that was measured in two or more of these experiments; else nothing."""
    counts = Counter(length.label for summary in found.values() for length in summary.lengths)
    rows = [
        (name, summary, length)
        for label, count in counts.items()
        if count > 1 and (only is None or label in only)
        for name, summary in found.items()
        if (length := summary.length(label)) is not None
    ]
    return [title, *_series(rows, head, study)] if rows else []


def _beside(summary: Summary, other: Summary | None) -> list[str]:
    """The slopes of another scale beside those of this one, at the lengths that both have."""
    if other is None:
        return []
    rows = [
        (own.scale, own, length)
        for mine in (*summary.lengths, *summary.text_lengths)
        if (theirs := other.length(mine.label)) is not None
        for own, length in ((summary, mine), (other, theirs))
    ]
    title = f"Scale {other.scale} beside scale {summary.scale} (exploratory)"
    return [title, *(_series(rows, "scale", summary) if rows else ["  no length was measured at both"])]


# ------------------------------------------------------------------------------------- gate, power, primary verdicts


def _gate(outcomes: Sequence[Outcome]) -> list[str]:
    """What twice the samples did to each model's accuracies; nothing where none of it was measured."""
    checks = list(dict.fromkeys(check for one in outcomes for check in one.checks))
    if not any(check.moved for check in checks):
        return []
    models = list(dict.fromkeys(check.model for check in checks))
    by_row: dict[tuple[str, str, float], dict[str, Check]] = {}
    for check in checks:
        by_row.setdefault((check.stage, check.label, check.limit), {})[check.model] = check
    rows = [
        [f"{stage}, {label}", f"< {limit:g}", *(_move(own[model]) for model in models)]
        for (stage, label, limit), own in by_row.items()
    ]
    seeds = sorted({check.moved.seeds for check in checks if check.moved})
    return [
        "Convergence gate: accuracy with twice the samples minus the study's, points "
        f"(mean, {counted(seeds[-1], 'seed')})",
        *columns(rows, ["twice the samples of", "limit", *models]),
    ]


def _move(check: Check) -> str:
    if check.moved is None:
        return "–"
    return f"{fixed(check.moved.mean, signed=True)}{'' if check.passed else ' !'}"


def _deviations(summary: Summary) -> dict[str, dict[str, float]]:
    lengths = (summary.length(primary.label) for primary in PRIMARIES)
    return {length.label: length.deviations for length in lengths if length and length.deviations}


def _primaries(outcomes: Sequence[Outcome]) -> list[str]:
    """Both hypotheses with p, Holm's p, intervals, and a line for each verdict."""
    if all(one.length is None for one in outcomes):
        return []
    rows = []
    for one in outcomes:
        slope, ratio = (one.length.slope, one.length.log_ratio) if one.length else (None, None)
        name = f"{one.primary.name} {one.primary.label}"
        rows.append(
            [name, interval(slope), p_text(one.p), p_text(one.adjusted), interval(ratio, RATIO_DECIMALS)]
        )
    heads = ["", "slope of the drop", "p", "Holm's p", "of the log ratio"]
    return [
        "Primary hypotheses: slope 0, against below or above (95 % interval; 5 % for both, by Holm)",
        *columns(rows, heads),
        *(f"  {sentence}" for one in outcomes for sentence in wrapped(verdict_line(one))),
    ]


def verdict_line(outcome: Outcome) -> str:
    """The verdict on a primary hypothesis in a line, and in the same line what limits it."""
    said = {
        REPRODUCED: "reproduced",
        CONTRADICTED: "contradicted",
        INCONCLUSIVE: "inconclusive: the slope does not differ significantly from 0",
        NO_VERDICT: f"no verdict ({'; '.join(outcome.lacks)})",
    }[outcome.verdict]
    if outcome.verdict == REPRODUCED and not outcome.ratio_agrees:
        said += ", but the log ratio is not below 0: it may be due to the ceiling alone"
    if outcome.verdict == CONTRADICTED and not outcome.ratio_agrees:
        said += ", but the log ratio is not above 0"
    if outcome.verdict in (REPRODUCED, CONTRADICTED) and outcome.primary.baseline_sees_less:
        if outcome.equal is None:
            said += "; a baseline that is fine-tuned, too, was not measured"
        elif not outcome.equal_agrees:
            said += (
                ", but not from a baseline that is fine-tuned, too: it may be due to the extra samples alone"
            )
    return f"{outcome.primary.name} {outcome.primary.label}: {said}."


def _conclusion(found: Findings) -> list[str]:
    """What the slopes say about the law at this scale, in plain sentences, and no more."""
    summary = found.summary
    lengths = [*summary.lengths, *summary.text_lengths]
    signs: dict[str, list[str]] = {}
    for length in lengths:
        if not eligible(length):
            signs.setdefault(sign(length), []).append(length.label)
    said = [f"{name} at {listed(signs[name])}" for name in (AS_SAID, AGAINST, NOT_CLEAR) if name in signs]
    sentences = []
    if not lengths:
        sentences.append("No reduced length was measured: nothing can be said on the law.")
    if said:
        sentences.append(f"Exploratory at scale {summary.scale}, without a verdict: {'; '.join(said)}.")
    over = {length.slope.over for length in lengths if length.slope}
    if "items" in over:
        which = "Intervals here" if over == {"items"} else "Intervals of lengths with fewer than three seeds"
        sentences.append(
            f"{which} are over test items only; other seeds may differ by more, so the sign is not clear."
        )
    sentences.append("This is about this scale alone; accuracies are not comparable with the paper's.")
    return [line for sentence in sentences for line in wrapped(sentence)]
