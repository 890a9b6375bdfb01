"""Texts and numbers of records as LaTeX: plain ASCII that any input encoding and font encoding sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    # OT1, LaTeX's default font encoding, has other glyphs in their places.
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "²": r"\textsuperscript{2}",
    "§": r"$\mathsection$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "✓": r"\ding{51}",
    "✗": r"\ding{55}",
}
_NUMERAL = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_CITATION = re.compile(r"\s*\[\d+(?:,\s*\d+)*\]")


class TableError(ValueError):
    """A table cannot be made from what was given; one line says why and what to do."""


def escape(text: str) -> str:
    """Plain text as LaTeX text. Raises TableError for a character that has no LaTeX here."""
    parts = [SPECIAL.get(character, character) for character in text]
    for part in parts:
        if not part.isascii():
            raise TableError(f"{part!r} in {text!r}: no LaTeX is known for this character")
    return "".join(parts)


def without_citations(text: str) -> str:
    """Text of the paper without numbers of its bibliography, which mean nothing elsewhere: `AdamW [34]`."""
    return _CITATION.sub("", text)


def shown(record: Mapping[str, Any]) -> str:
    """The value of a record as LaTeX: as meant, with the digits that the paper prints wherever they agree.

    299 that means 29.9 is shown as 29.9, 48.60 as 48.60, 177.0G and (+1.5) without what is not the number.
    """
    value, printed = record["value"], record["printed"] or ""
    if isinstance(value, (int, float)):
        return _in_mathematics(_numeral(value, printed))
    return escape(without_citations(printed or str(value)))


def _numeral(value: float, printed: str) -> str:
    for numeral in re.findall(_NUMERAL, printed):
        if float(numeral) == value:
            return numeral
    ratio = re.search(rf"({_NUMERAL})/({_NUMERAL})", printed)
    if ratio and float(ratio[1]) / float(ratio[2]) == value:
        return ratio[0]
    return repr(value)


def _in_mathematics(numeral: str) -> str:
    """8e-6 as a power of ten, -0.4 with a minus sign; other numerals as they are."""
    mantissa, _, exponent = numeral.partition("e")
    if exponent:
        return rf"\ensuremath{{{mantissa} \times 10^{{{int(exponent)}}}}}"
    return rf"\ensuremath{{{numeral}}}" if numeral.startswith("-") else numeral
