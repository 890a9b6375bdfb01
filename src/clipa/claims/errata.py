"""docs/errata.md: where the paper's sentences and its own tables differ, fairly, with numbers that are computed."""

from __future__ import annotations

import textwrap

from clipa.claims import Result, Settled
from clipa.claims.judged import Judged
from clipa.claims.markdown import GENERATED, code, in_cell, plain
from clipa.claims.quantities import Statement, said
from clipa.claims.verdicts import CONTRADICTED, WITHIN

FAILURES_SHOWN = 8
SYMBOLS = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥"}

PREFACE = """\
This page is about one paper, *An Inverse Scaling Law for CLIP Training* (Li, Wang, Xie; arXiv:2305.07017), as its text
stands in the version that this artifact was made from. It exists so that a reader who meets two different numbers
knows which one to use. Slips of this kind are in most papers with so many numbers; they could be found here because
these authors print all of theirs.

*Contradicted* means one thing only: the sentence and the tables of the same paper cannot both be exact. No numbers that
round to the printed ones make the sentence true. It does not say which of the two is wrong, whether the experiment was
done well, or whether the sentence holds elsewhere. Numbers may have been computed from unrounded results, from another
run, or from an earlier draft of a table. What was *probably meant* is a guess, and is called one. Where a cost is
checked, our own count stands beside the printed cells: forward multiply-adds of both towers from Table 4
(`src/clipa/cost.py`). It gives Table 10's 177.0 and Table 2's 5.7 as printed; a cost that it does not give may have
been counted by another convention.

{summary}
Every number below is computed from `results/published` when this page is written."""

KINDS = {
    "setting": ("Settings on which the paper disagrees with itself", "What a reproduction has to choose."),
    "label": ("Labels", "Headings and names that say something else than the numbers under them."),
    "cell": (
        "Cells",
        "Numbers of the tables that are recorded differently from how they are printed, or are lost.",
    ),
    "compute": ("Costs", "Printed costs against what one consistent way of counting gives."),
    "unknown": (
        "What cannot be known from the paper",
        "Nobody outside can decide these; what was taken is said.",
    ),
}


def errata_page(judged: Judged) -> str:
    """The page. Contradicted claims, claims that hold only within rounding, conflicts by kind, open questions."""
    contradicted = [result for result in judged.results if result.verdict == CONTRADICTED]
    within = [result for result in judged.results if result.verdict == WITHIN]
    lines = [
        GENERATED,
        "",
        "# Errata",
        "",
        PREFACE.format(summary=_summary(judged, contradicted, within)),
        "",
    ]
    lines += ["## Contradicted by the tables", ""]
    for result in contradicted:
        lines += _contradicted(result, judged)
    lines += ["## True only within rounding", ""]
    lines += [
        "The printed numbers do not give these, numbers that round to them can. No error need be behind it.",
        "",
    ]
    lines += ["| claim | place | the paper says | the tables give | rests on |", "|---|---|---|---|---|"]
    lines += [_within(result, judged) for result in within]
    for kind, (title, about) in KINDS.items():
        settled = [one for one in judged.settled if one.conflict.kind == kind]
        if settled:
            lines += ["", f"## {title}", "", about]
            lines += [line for one in settled for line in _conflict(one)]
    return "\n".join(lines).rstrip() + "\n"


def _summary(judged: Judged, contradicted: list[Result], within: list[Result]) -> str:
    checked = sum(result.value is not None for result in judged.results)
    holding = checked - len(contradicted) - len(within)
    text = (
        f"Of {checked} statements that can be checked, {holding} hold, {len(within)} hold "
        f"within rounding, and {len(contradicted)} are contradicted ([claims.md](claims.md) has them all). Beside them "
        f"stand {len(judged.settled)} entries on settings, labels, cells, costs, and what the paper leaves open.\n"
    )
    return textwrap.fill(text, 120) + "\n"


def _contradicted(result: Result, judged: Judged) -> list[str]:
    claim = result.claim
    where = ", ".join(judged.tables(result.rests_on))
    lines = [f'### <a id="{claim.id}"></a>{claim.place}: {claim.id}', "", f"> {plain(claim.quote)}", ""]
    if isinstance(result.value, Statement):
        lines += _failures(result.value, _ground(result, where))
    else:
        lines.append(
            f"* **The sentence:** {plain(claim.states or '')}. **{_ground(result, where)}:** {result.computed}."
        )
    lines.append(f"* Computed as {code(claim.formula or '')}")
    if claim.meant:
        lines.append(f"* **Probably meant:** {plain(claim.meant)}")
    return [*lines, ""]


def _ground(result: Result, where: str) -> str:
    """What the computed number comes from: cells alone, or our count of costs too."""
    return f"Our count ({where})" if "macs(" in (result.claim.formula or "") else f"The tables ({where})"


def _failures(statement: Statement, ground: str) -> list[str]:
    """The comparisons that fail, each with its two numbers and where in the formula it comes from."""
    failures, comparisons = statement.failures(), statement.comparisons()
    if len(comparisons) == 1:
        return [f"* **{ground}:** {_comparison(failures[0])}, which is false."]
    lines = [f"* **{ground}:** {len(failures)} of {len(comparisons)} comparisons are false:"]
    for failure in failures[:FAILURES_SHOWN]:
        lines.append(
            f"  * {_comparison(failure)}{' (but possible within rounding)' if failure.can_hold else ''}"
        )
    if len(failures) > FAILURES_SHOWN:
        lines.append(f"  * and {len(failures) - FAILURES_SHOWN} more")
    return lines


def _comparison(failure: Statement) -> str:
    names = ", ".join(f"{name} = {value}" for name, value in failure.where)
    if failure.sides is None:
        return names or "two texts differ"
    left, right = map(said, failure.sides)
    sign = SYMBOLS.get(failure.sign, failure.sign)
    return plain(f"{left} {sign} {right}{f' for {names}' if names else ''}")


def _within(result: Result, judged: Judged) -> str:
    claim = result.claim
    stated = f" (stated: {plain(claim.states)})" if claim.states else ""
    computed = result.computed
    if isinstance(result.value, Statement):
        failures = [_comparison(failure) for failure in result.value.failures()]
        computed = f"as printed, not: {'; '.join(failures[:FAILURES_SHOWN])}"
    if claim.meant:
        computed += f". {plain(claim.meant)}"
    cells = [f'<a id="{claim.id}"></a>{claim.id}', claim.place, f"“{plain(claim.quote)}”{stated}", computed]
    return f"| {' | '.join(map(in_cell, [*cells, ', '.join(judged.tables(result.rests_on))]))} |"


def _conflict(settled: Settled) -> list[str]:
    conflict = settled.conflict
    title = conflict.id.replace("-", " ")
    lines = ["", f'### <a id="{conflict.id}"></a>{title[0].upper()}{title[1:]}', ""]
    lines += [f"*{', '.join(conflict.places)}*", ""]
    lines += [f"* {plain(text)}" for text in conflict.says]
    if settled.evidence:
        lines.append(f"* **Computed:** {plain(' '.join(settled.evidence))}")
    if conflict.meant:
        label = "Open" if conflict.kind == "unknown" else "Probably meant"
        lines.append(f"* **{label}:** {plain(conflict.meant)}")
    return [*lines, f"* **Taken here:** {plain(conflict.taken)}"]
