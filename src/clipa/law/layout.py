"""How reports on the law are laid out in a terminal: tables, lists of lengths, counts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from clipa.stats import Estimate

WIDTH = 96
RATIO_DECIMALS = 2
"""Of slopes of log ratios: 0.01 is a hundredth more error, relatively."""


def columns(rows: Sequence[Sequence[str]], heads: Sequence[str], align: str = "") -> list[str]:
    """Lines of an indented table; `align`: l or r of each column, by default the first to the left."""
    from tabulate import tabulate

    names = {"l": "left", "r": "right"}
    sides = [names[side] for side in align or "l" + "r" * (len(heads) - 1)]
    table = tabulate(rows, heads, tablefmt="plain", colalign=sides if rows else None, disable_numparse=True)
    return [f"  {line}".rstrip() for line in table.splitlines()]


def counted(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def wrapped(sentence: str) -> list[str]:
    """Lines of a sentence, those after the first indented."""
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def interval(value: Estimate | None, decimals: int = 1) -> str:
    """Mean and interval, or a dash."""
    return value.interval(decimals) if value else "–"


def p_text(p: float) -> str:
    """`0.012`, `< 0.001`, or a dash for NaN."""
    if p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(labels: Sequence[str]) -> str:
    """`resize 160, 96 and block 49`: each reduction is named once."""
    by_word: dict[str, list[str]] = {}
    for label in labels:
        word, _, length = label.rpartition(" ")
        by_word.setdefault(word, []).append(length)
    parts = [f"{word} {', '.join(own)}" for word, own in by_word.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
