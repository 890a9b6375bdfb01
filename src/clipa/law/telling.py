"""The law's summary in words and columns, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipa.cost import FULL_TEXT_TOKENS
from clipa.law.statistics import Estimate, over_what
from clipa.law.summary import Length, Summary, summarise
from clipa.records import load_records, of_the_study

WIDTH = 96


def report(summary: Summary) -> str:
    """The summary as plain text for a terminal, at most 100 columns wide for three models."""
    counts = {value.seeds for value in summary.accuracies.values()}
    seeds = _count(max(counts), "seed") if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    lines = [
        f"The inverse scaling law at scale {summary.scale}: {summary.dataset} (n = {summary.n}), {seeds}"
    ]
    lines += ["", *_part(summary, summary.lengths, ["full"], "full length")]
    if summary.text_lengths:
        words = dict.fromkeys(length.label.rpartition(" ")[0] for length in summary.text_lengths)
        own = [f"{word} {FULL_TEXT_TOKENS}" for word in words]
        heading = "Text tokens, at images resized to 112; each reduction against itself at 32 tokens"
        lines += ["", heading, "", *_part(summary, summary.text_lengths, own, "the same reduction at 32")]
    return "\n".join(line.rstrip() for line in [*lines, "", *conclusion(summary)]) + "\n"


def _part(summary: Summary, lengths: Sequence[Length], full: Sequence[str], against: str) -> list[str]:
    """Accuracies, drops and slopes of image or of text lengths; `full`: labels of what drops are taken from."""
    labels = [*full, *(length.label for length in lengths)]
    width = max(map(len, labels)) + 1
    return [
        *_accuracy_lines(summary, sorted(labels, key=lambda label: _order(labels, label)), width),
        "",
        *_drop_lines(summary, lengths, against, width),
        "",
        *_slope_lines(summary, lengths, width),
    ]


def _order(labels: Sequence[str], label: str) -> tuple[int, int]:
    """Each reduction's full length stands before its shorter ones."""
    words = list(dict.fromkeys(name.rpartition(" ")[0] for name in labels))
    return words.index(label.rpartition(" ")[0]), labels.index(label)


def _accuracy_lines(summary: Summary, labels: Sequence[str], width: int) -> list[str]:
    shown = [
        summary.accuracies[model, label]
        for label in labels
        for model in summary.models
        if (model, label) in summary.accuracies
    ]
    named = over_what(value.seeds for value in shown)
    sizes = [f"{model} ({summary.parameters[model] / 1e6:.2f} M)" for model in summary.models]
    lines = [f"Zero-shot accuracy, % (± standard error over {named})", _row("", sizes, width, 16)]
    for label in labels:
        cells = [summary.accuracies.get((model, label)) for model in summary.models]
        texts = [f"{cell.mean:.1f} ± {cell.standard_error:.1f}" if cell else "–" for cell in cells]
        lines.append(_row(label, texts, width, 16))
    return lines


def _drop_lines(summary: Summary, lengths: Sequence[Length], against: str, width: int) -> list[str]:
    lines = [f"Drop from {against}, points (95 % interval)", _row("", summary.models, width, 24)]
    for length in lengths:
        lines.append(
            _row(length.label, [_interval(length.drops.get(model)) for model in summary.models], width, 24)
        )
    return lines


def _row(label: str, cells: Sequence[str], width: int, each: int) -> str:
    return f"  {label:<{width}}" + "".join(f"{cell:>{each}}" for cell in cells)


def _slope_lines(summary: Summary, lengths: Sequence[Length], width: int) -> list[str]:
    lines = ["Slope of the drop, points per tenfold parameters (95 % interval); the law says: below 0"]
    for length in lengths:
        text = _interval(length.slope)
        order = (
            f"order {' > '.join(summary.models)} in {length.ordered} of {_count(len(length.seeds), 'seed')}"
        )
        lines.append(f"  {length.label:<{width}}{text:>22}   {length.verdict:<14} {order}")
        if length.left_out:
            lines.append(f"  {'':<{width}}left out, incomplete: seed {', '.join(map(str, length.left_out))}")
    return lines


def _interval(value: Estimate | None) -> str:
    return f"{value.mean:+.1f} [{value.low:+.1f}, {value.high:+.1f}]" if value else "–"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def conclusion(summary: Summary) -> list[str]:
    """What the slopes say about the law at this scale, in plain sentences, and no more."""
    by_verdict: dict[str, list[str]] = {}
    lengths = [*summary.lengths, *summary.text_lengths]
    for length in lengths:
        by_verdict.setdefault(length.verdict, []).append(length.label)
    said = {
        "reproduced": "the larger the model, the smaller the drop: the law's sign is reproduced at {}.",
        "contradicted": "the larger the model, the larger the drop: the law's sign is contradicted at {}.",
        "inconclusive": "the slope's interval holds zero, so nothing is decided at {}.",
        "not attempted": "no verdict is given on the law at {}: that takes 3 seeds of 3 models or more.",
    }
    sentences = [
        f"At scale {summary.scale}, {sentence.format(_listed(by_verdict[name]))}"
        for name, sentence in said.items()
        if name in by_verdict
    ] or ["No reduced length was measured: nothing can be said on the law."]
    over = {length.slope.over for length in lengths if length.slope}
    if "items" in over:
        which = "Intervals here" if over == {"items"} else "Intervals of lengths with fewer than three seeds"
        sentences.append(f"{which} are over test items only; other seeds may differ by more.")
    sentences.append("This is about this scale alone; accuracies are not comparable with the paper's.")
    return [line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")]


def _listed(labels: Sequence[str]) -> str:
    """`resize 160, 96 and block 49`: each reduction is named once."""
    by_word: dict[str, list[str]] = {}
    for label in labels:
        word, _, length = label.rpartition(" ")
        by_word.setdefault(word, []).append(length)
    parts = [f"{word} {', '.join(own)}" for word, own in by_word.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def main_report(paths: Iterable[str | Path]) -> str:
    """The report on the records in these files. Raises RecordError."""
    return report(summarise(of_the_study(load_records(paths))))
