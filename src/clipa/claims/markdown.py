"""Text of claims as Markdown."""

from __future__ import annotations

GENERATED = "<!-- Written by `clipa claims --write docs` from claims.yaml and the records. Do not edit. -->"


def plain(text: str) -> str:
    """Text in which no mark of the paper's prose ("~33", "*") turns into Markdown."""
    return "".join(f"\\{mark}" if mark in "*~_`<[" else mark for mark in line(text))


def code(formula: str) -> str:
    """A formula on one line, as code."""
    return f"`{line(formula)}`"


def in_cell(text: str) -> str:
    """Markdown that may stand in a cell of a table."""
    return line(text).replace("|", "\\|")


def line(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())
