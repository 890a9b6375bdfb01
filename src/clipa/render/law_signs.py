"""What `clipa law` says of each strategy, beside verdicts on claims: one scale, two questions."""

from __future__ import annotations

from clipa.law import examine, signs_by_strategy
from clipa.published.measured import recorded

OTHER_QUESTION = (
    "**Two questions.** A claim is a whole sentence of the paper. Most name several strategies, lengths and models, "
    "and each of these comparisons must be clear of zero. `clipa law` asks for less: the slope of the drop over the "
    "models, one strategy and length at a time. Its sign is exploratory without four models and eight seeds "
    "([law.md](law.md)). So a strategy can have the law's sign at some lengths while no sentence is reproduced:"
)


def signs_of(scale: str) -> list[tuple[str, str]]:
    """Each strategy of a scale's accepted records, with its lengths by sign: `8, 6: as the law says; 16: not clear`.

    RecordError for a scale without accepted records, or without a full-length baseline.
    """
    rows = []
    for strategy, lengths in signs_by_strategy(examine(recorded(scale)).summary).items():
        by_sign: dict[str, list[str]] = {}
        for length, sign in lengths.items():
            by_sign.setdefault(sign, []).append(length)
        rows.append((strategy, "; ".join(f"{', '.join(sizes)}: {sign}" for sign, sizes in by_sign.items())))
    return rows
