"""Records arranged as a table: rows, columns and cells as LaTeX, with the best entries and the notes marked.

Nothing here knows a table of the paper: what sets one apart is said in its template, by names of record fields.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipa.render.tables.latex import TableError, escape, shown, without_citations
from clipa.schema import Record
from clipa.stats import fixed

# More columns than this, each with measured and published numbers, do not fit a page: models go one by one.
WIDEST_MEASURED = 8
# What templates may name beside fields and factors of a record.
DERIVED: dict[str, Callable[[Record], Hashable]] = {
    "family": lambda record: record["row"].split("-")[0],
    # 160 px leave 101 tokens and masks of 50 % leave 99: the paper sets them side by side.
    "length": lambda record: {101: 99}.get(record["image_tokens"], record["image_tokens"]),
    "size": lambda record: {"ConvNeXt-T": "S/16", "ConvNeXt-B": "B/16"}.get(record["model"], record["model"]),
    "negclip": lambda record: record["stage"] == "negclip",
}


@dataclass
class Column:
    """One column: heading with marks of its notes, alignment (l or r)."""

    head: str
    align: str


@dataclass
class Span:
    """A heading above `width` neighbouring columns, the first of them `first` (from 0); without text, above none."""

    text: str
    first: int
    width: int


@dataclass
class Row:
    """One row: headings (the first with marks) and cells, both LaTeX; `ids` of the records in each cell."""

    labels: list[str]
    cells: list[str]
    ids: list[list[str]]


@dataclass
class Panel:
    """What one float shows. `groups`: rows between rules. `notes`: (mark, text)."""

    columns: list[Column]
    spans: list[Span]
    groups: list[list[Row]]
    notes: list[tuple[str, str]]
    name: str = ""


@dataclass
class Look:
    """What a template says of its table, by names of record fields, factors or `DERIVED`; see `_table.tex.j2`."""

    row: Sequence[str] = ("row",)
    apart: Sequence[str] = ()
    rivals: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    meant: Mapping[str, str] = field(default_factory=dict)


class Table:
    """The published records of one table by row and column, and the measured text of its cells, if any.

    `measured`: LaTeX of measured cells by id of the published record whose place they take; rows and columns
    without one are left out. Raises TableError for a cell without a record and for two records in one.
    """

    def __init__(
        self, number: int, records: Iterable[Record], measured: Mapping[str, str], look: Look
    ) -> None:
        self.number, self.look, self.measured = number, look, measured
        self.records = list(records)
        self.rows: dict[Hashable, Record] = {}
        self.cells: dict[tuple[Hashable, str], list[Record]] = {}
        for record in self.records:
            row = key(record, look.row)
            self.rows.setdefault(row, record)
            self.cells.setdefault((row, record["column"]), []).append(record)
        self.columns = list(dict.fromkeys(record["column"] for record in self.records))  # the paper's order
        if measured:
            self._keep_what_was_measured()
        self._check()
        self.best = set() if measured else best(self.records, look.rivals)

    def _keep_what_was_measured(self) -> None:
        places = {
            (key(record, self.look.row), record["column"])
            for record in self.records
            if record["id"] in self.measured
        }
        rows, columns = {row for row, _ in places}, {column for _, column in places}
        self.rows = {row: first for row, first in self.rows.items() if row in rows}
        self.columns = [column for column in self.columns if column in columns]
        self.cells = {place: own for place, own in self.cells.items() if place in places}

    def _check(self) -> None:
        for row, first in self.rows.items():
            for column in self.columns:
                own = self.cells.get((row, column), [])
                where = f"table {self.number}: row {first['row']!r}, column {column!r}"
                if len([record for record in own if not is_gain(record)]) > 1:
                    raise TableError(f"{where}: {len(own)} records for one cell")
                if not own and not self.measured:
                    raise TableError(f"{where}: no record")

    def panels(self) -> list[Panel]:
        """The table as floats: one, unless measured numbers of several models are too wide for one."""
        if not self.measured or len(self.columns) <= WIDEST_MEASURED:
            return [self._panel(self.columns)]
        by_group: dict[str, list[str]] = {}
        for column in self.columns:
            by_group.setdefault(_prefix(column), []).append(column)
        return [self._panel(columns, name) for name, columns in by_group.items()]

    def _panel(self, columns: list[str], name: str = "") -> Panel:
        inside = [record for (_, column), own in self.cells.items() if column in columns for record in own]
        notes = Notes(inside, self.look.row)
        spans, leaves = headings(columns, self.look.over)
        heads = [
            Column(self._name(leaf) + notes.of_column(column), self._align(column))
            for column, leaf in zip(columns, leaves, strict=True)
        ]
        groups: list[list[Row]] = []
        last = None
        for row, first in self.rows.items():
            group = key(first, self.look.apart)
            if not groups or group != last:
                groups.append([])
            last = group
            labels = self._labels(first, notes)
            own = [sorted(self.cells.get((row, column), ()), key=is_gain) for column in columns]
            ids = [[record["id"] for record in cell] for cell in own]
            groups[-1].append(Row(labels, [self._cell(row, column, notes) for column in columns], ids))
        for span in spans:
            span.text = self._name(span.text) if span.text else ""
        return Panel(heads, spans, groups, notes.list(), name)

    def _name(self, heading: str) -> str:
        return self.look.names.get(heading, escape(without_citations(heading)))

    def _align(self, column: str) -> str:
        """Numbers to the right; words, and numbers that some rows have a bracket behind, to the left."""
        own = [record for (_, name), cell in self.cells.items() if name == column for record in cell]
        words = any(isinstance(record["value"], (str, list)) for record in own)
        return "l" if words or any(map(is_gain, own)) else "r"

    def _labels(self, first: Record, notes: Notes) -> list[str]:
        labels = first["row"].split(" | ")
        marks = notes.of_row(first)
        changed = [label for label in labels if label in self.look.meant]
        if changed and not marks:
            marks = "".join(notes.mark(f"The label is printed ‘{label}’.") for label in changed)
        texts = [escape(without_citations(self.look.meant.get(label, label))) for label in labels]
        return [texts[0] + marks, *texts[1:]]

    def _cell(self, row: Hashable, column: str, notes: Notes) -> str:
        own = self.cells.get((row, column))
        if own is None:
            return "--"
        text = self._value(next(record for record in own if not is_gain(record)))
        for gain in own:
            if is_gain(gain) and gain["value"] is not None:
                text += f" (${fixed(gain['value'], signed=True)}$)"
        marks = "".join(dict.fromkeys(notes.of_record(record) for record in own))
        return text + hung(marks, self._align(column))

    def _value(self, record: Record) -> str:
        if self.measured:
            return self.measured.get(record["id"], "--")
        if record["value"] is None:
            return {None: r"\textit{lost}", "-": "--"}.get(record["printed"]) or escape(record["printed"])
        return f"\\textbf{{{shown(record)}}}" if record["id"] in self.best else shown(record)


class Notes:
    """Notes of the records shown, with letters in order of appearance.

    What all records of a row or a column say is marked once, at its heading. A dash carries no note: it says
    itself that there is no number.
    """

    def __init__(self, records: Iterable[Record], row: Sequence[str]) -> None:
        self.letters: dict[str, str] = {}
        self.row = row
        noted = [record for record in records if record["value"] is not None or record["printed"] != "-"]
        self.rows = self._shared(noted, lambda record: key(record, row))
        self.columns = self._shared(noted, lambda record: (record["column"], is_gain(record)))

    @staticmethod
    def _shared(records: list[Record], place: Callable[[Record], Hashable]) -> dict[Hashable, str]:
        found: dict[Hashable, list[str | None]] = {}
        for record in records:
            found.setdefault(place(record), []).append(record["note"])
        return {
            where: notes[0]
            for where, notes in found.items()
            if len(notes) > 1 and notes[0] is not None and len(set(notes)) == 1
        }

    def mark(self, note: str) -> str:
        """The raised letter of a note, a new one for a new note."""
        if note not in self.letters and len(self.letters) == len(string.ascii_lowercase):
            raise TableError(f"more than {len(self.letters)} notes in one table")
        letter = self.letters.setdefault(note, string.ascii_lowercase[len(self.letters) % 26])
        return f"\\textsuperscript{{{letter}}}"

    def of_column(self, column: str) -> str:
        """Marks of what all numbers, or all gains, of a column say."""
        notes = [self.columns.get((column, gain)) for gain in (False, True)]
        return "".join(self.mark(note) for note in dict.fromkeys(notes) if note)

    def of_row(self, record: Record) -> str:
        """The mark of what all records of this one's row say."""
        note = self.rows.get(key(record, self.row))
        return self.mark(note) if note else ""

    def of_record(self, record: Record) -> str:
        """The mark of a cell's own note; nothing where its row or column carries it."""
        shared = (self.rows.get(key(record, self.row)), self.columns.get((record["column"], is_gain(record))))
        dash = record["value"] is None and record["printed"] == "-"
        if record["note"] is None or record["note"] in shared or dash:
            return ""
        return self.mark(record["note"])

    def list(self) -> list[tuple[str, str]]:
        """(letter, text as LaTeX) of the notes that were marked."""
        return [(letter, escape(note)) for note, letter in self.letters.items()]


def key(record: Record, names: Sequence[str]) -> tuple[Hashable, ...]:
    """What the record has under these names: `DERIVED` ones, fields, factors."""
    return tuple(_value_of(record, name) for name in names)


def _value_of(record: Record, name: str) -> Any:
    if name in DERIVED:
        return DERIVED[name](record)
    return record[name] if name in record else record["factors"].get(name)


def hung(marks: str, align: str) -> str:
    """Marks that take no room in a right-aligned column, whose digits stay below each other."""
    return f"\\rlap{{{marks}}}" if marks and align == "r" else marks


def is_gain(record: Record) -> bool:
    """Whether the record is a bracket behind another number, e.g. (+1.5)."""
    return record["metric"].endswith("_gain")


def best(records: Iterable[Record], rivals: Sequence[str]) -> set[str]:
    """Ids of the best accuracies: the largest among the records that share what `rivals` names.

    None where all are equal, and none where a rival's number is lost: it might be the best.
    """
    if not rivals:
        return set()
    rounds: dict[Hashable, list[Record]] = {}
    for record in records:
        if record["unit"] == "percent" and not is_gain(record) and record["printed"] not in ("-", "N/A"):
            rounds.setdefault(key(record, rivals), []).append(record)
    found = set()
    for own in rounds.values():
        values = [record["value"] for record in own]
        if None not in values and len(set(values)) > 1:
            found |= {record["id"] for record in own if record["value"] == max(values)}
    return found


def headings(columns: Sequence[str], over: Mapping[str, Sequence[str]]) -> tuple[list[Span], list[str]]:
    """Two lines of headings: what stands above several columns, and what stands above one.

    `S/16 pre-train` beside `S/16 fine-tune` is S/16 above both; `over` names columns that the paper sets under
    one heading which its columns do not repeat.
    """
    above = {column: text for text, below in over.items() for column in below}
    prefixes = [above.get(column) or _prefix(column) for column in columns]
    spans: list[Span] = []
    leaves = []
    for index, (column, prefix) in enumerate(zip(columns, prefixes, strict=True)):
        shared = prefixes[max(index - 1, 0) : index + 2].count(prefix) > 1
        if shared and prefix and spans and spans[-1].text == prefix:
            spans[-1].width += 1
        else:
            spans.append(Span(prefix if shared else "", index, 1))
        leaves.append(column.removeprefix(prefix).strip() if shared and column not in above else column)
    return spans, leaves


def _prefix(column: str) -> str:
    return column.rpartition(" ")[0]
