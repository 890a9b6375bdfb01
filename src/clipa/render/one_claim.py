"""What `clipa claims ID` prints: one claim worked out, or one entry of the errata."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence

from clipa.published.claims import CONTRADICTED, Evaluation, Result
from clipa.published.errata import Erratum, errata_of
from clipa.published.worked import Worked, turning_point, worked

WIDTH = 100  # columns


def one_claim_report(names: Sequence[str]) -> str:
    """Each of these claims or errata, with all that is needed to check it. ValueError for an unknown id."""
    evaluation = Evaluation()
    claims = {result.claim.id: result for result in evaluation.results}
    errata = {erratum.id: erratum for erratum in errata_of(evaluation) if erratum.result is None}
    texts = []
    for name in names:
        if name in claims:
            texts.append(_claim(claims[name], evaluation))
        elif name in errata:
            texts.append(_erratum(errata[name]))
        else:
            near = difflib.get_close_matches(name, [*claims, *errata], n=1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ValueError(
                f"{name!r} is the id of no claim and no erratum{hint}; clipa claims --json has all"
            )
    return "\n\n".join(texts)


def _claim(result: Result, evaluation: Evaluation) -> str:
    claim = result.claim
    lines = [f"{claim.id}   {claim.place}", *_wrapped(f"“{claim.quote}”", 2), ""]
    for reading in worked(result, evaluation.numbers):
        lines += [*_reading(reading, evaluation), ""]
    lines += _wrapped(f"Verdict: {result.verdict}.", 2)
    lines += _wrapped(f"Another one would take: {turning_point(result, evaluation.numbers)}", 2)
    if claim.meant:
        label = "Probably meant" if result.verdict == CONTRADICTED else "Note"
        lines += _wrapped(f"{label}: {claim.meant}", 2)
    return "\n".join(lines)


def _reading(reading: Worked, evaluation: Evaluation) -> list[str]:
    name = f"{reading.name[:1].upper()}{reading.name[1:]}: {reading.verdict}"
    lines = _wrapped(name, 2)
    if reading.why:
        return [*lines, *_wrapped(reading.why, 4)]
    for text in (
        *reading.arithmetic,
        reading.bound,
        *(f"Not in the paper: {text}" for text in reading.assumed),
    ):
        lines += _wrapped(text, 4)
    for identity, value in reading.cells:
        record = evaluation.numbers.record(identity)
        where = " | ".join(filter(None, (record["row"], record["column"])))
        lines += _wrapped(f"{identity} = {value}{f'   ({where})' if where else ''}", 4)
    if reading.more_cells:
        lines.append(f"    and {reading.more_cells} more cells (clipa claims --json lists them)")
    return lines


def _erratum(erratum: Erratum) -> str:
    lines = [f"{erratum.id}   {', '.join(erratum.places)}"]
    for text in (*erratum.says, *erratum.sentences):
        lines += _wrapped(text, 2)
    lines += _wrapped(f"Numbers: {len(erratum.rests_on)}, such as {', '.join(erratum.rests_on[:3])}", 2)
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
