"""What `clipa claims` prints: how many claims have each verdict, and the claims of interest; or all of it as JSON."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from clipa.claims import Result
from clipa.claims.judged import Judged, judge_all
from clipa.claims.measured import MEASURED_VERDICTS, NOT_ATTEMPTED, Measured
from clipa.claims.quantities import Statement
from clipa.claims.verdicts import CONTRADICTED, VERDICTS, WITHIN

WIDTH = 100


def report(scale: str | None, verdict: str | None, as_json: bool) -> str:
    """Counts of verdicts, then claims: of `verdict`, else the contradicted ones, or with `scale` what was measured.

    ValueError for a verdict that does not exist; RecordError for a scale without accepted records.
    """
    known = MEASURED_VERDICTS if scale else VERDICTS
    if verdict is not None and verdict not in known:
        raise ValueError(
            f"{verdict!r} is no verdict on {'measured' if scale else 'published'} numbers: {', '.join(known)}"
        )
    judged = judge_all(scales=[scale] if scale else [])
    if as_json:
        return json.dumps(_document(judged, scale, verdict), ensure_ascii=False, indent=2)
    lines = _measured_lines(judged, scale, verdict) if scale else _published_lines(judged, verdict)
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------------- terminal


def _published_lines(judged: Judged, verdict: str | None) -> list[str]:
    lines = [f"What the paper says, against its own tables: {len(judged.results)} claims", ""]
    lines += _counts(judged.verdicts)
    for wanted in [verdict] if verdict else [CONTRADICTED]:
        chosen = [result for result in judged.results if result.verdict == wanted]
        lines += ["", f"{wanted[0].upper()}{wanted[1:]} ({len(chosen)})"]
        for result in chosen:
            lines += _claim(result.claim.id, result.claim.place, result.claim.quote, _finding(result, judged))
    others = len(judged.settled)
    lines += (
        ["", f"And {others} conflicts and open questions beside single claims: docs/errata.md."]
        if others
        else []
    )
    return lines


def _measured_lines(judged: Judged, scale: str, verdict: str | None) -> list[str]:
    from clipa.law import LEVEL

    found = judged.measured[scale]
    lines = [
        f"Signs and orders that the paper claims, against records measured at scale {scale}: {len(found)} claims",
        f"Margins are points of accuracy with {100 * LEVEL:.0f} % intervals over seeds (docs/law.md).",
        "",
        *_counts(judged.measured_verdicts(scale)),
    ]
    for wanted in [verdict] if verdict else [name for name in MEASURED_VERDICTS if name != NOT_ATTEMPTED]:
        chosen = [one for one in found.values() if one.verdict == wanted]
        if chosen:
            lines += ["", f"{wanted[0].upper()}{wanted[1:]} ({len(chosen)})"]
        for one in chosen:
            lines += _claim(one.claim.id, one.claim.place, one.claim.quote, one.said)
    return lines


def _counts(counts: dict[str, int]) -> list[str]:
    return [f"  {verdict:<32}{count:>5}" for verdict, count in counts.items()]


def _claim(identity: str, place: str, quote: str, finding: str) -> list[str]:
    return ["", f"  {identity}   {place}", *_wrapped(f"“{quote}”", "    "), *_wrapped(finding, "    ")]


def _finding(result: Result, judged: Judged) -> str:
    """What the tables say of a claim, in a sentence."""
    if result.value is None:
        return f"Not checked: {result.claim.why}"
    where = ", ".join(judged.tables(result.rests_on)) or "arithmetic"
    if result.claim.states is not None:
        return f"stated {result.claim.states}, computed {result.computed}   ({where})"
    failing = ""
    if isinstance(result.value, Statement) and (failures := result.value.failures()):
        failing = f"; {len(failures)} of {len(result.value.comparisons())} comparisons fail"
    return f"{result.computed}{failing}   ({where})"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False
    )


# ------------------------------------------------------------------------------------------------------------ JSON


def _document(judged: Judged, scale: str | None, verdict: str | None) -> dict[str, Any]:
    measured = judged.measured[scale] if scale else {}
    chosen = [
        result
        for result in judged.results
        if not scale or result.claim.id in measured
        if verdict in (None, measured[result.claim.id].verdict if scale else result.verdict)
    ]
    counts: dict[str, Any] = {"verdicts": judged.verdicts}
    if scale:
        counts |= {"scale": scale, "measured_verdicts": judged.measured_verdicts(scale)}
    return {**counts, "claims": [_entry(result, measured.get(result.claim.id)) for result in chosen]}


def _entry(result: Result, measured: Measured | None) -> dict[str, Any]:
    claim = result.claim
    entry = {
        **{
            name: getattr(claim, name) for name in ("id", "place", "quote", "formula", "states", "scale_free")
        },
        "verdict": result.verdict,
        "computed": result.computed or None,
        "rests_on": list(result.rests_on),
        "why": claim.why,
        "meant": claim.meant if result.verdict in (CONTRADICTED, WITHIN) else None,
    }
    if isinstance(result.value, Statement):
        entry["failing"] = len(result.value.failures())
    if measured is not None:
        estimate = measured.tightest
        entry["measured"] = {
            "scale": measured.scale,
            "verdict": measured.verdict,
            "seeds": list(measured.seeds),
            "missing": list(measured.missing),
            "comparisons": measured.comparisons,
            "tightest_margin": None
            if estimate is None
            else {name: round(getattr(estimate, name), 4) for name in ("mean", "low", "high")},
        }
    return entry
