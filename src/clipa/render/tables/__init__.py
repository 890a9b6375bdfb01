"""Tables of the paper as LaTeX (booktabs), from stored records: published, or measured beside them; and as HTML.

One template a table says what sets it apart (`tableN.tex.j2`); `_table.tex.j2` is the float they share, and
`_table.html.j2` the same for docs/numbers.html. `layout` arranges records into rows, columns and cells, `latex` writes
texts and numbers, `measured` the measured ones, `html` reads that LaTeX as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.files import write_text_atomically
from clipa.records import load_records, read_records
from clipa.render.tables.html import as_html
from clipa.render.tables.latex import TableError, escape, shown
from clipa.render.tables.layout import Look, Panel, Table, is_gain
from clipa.render.tables.measured import Measured, measured_cells
from clipa.schema import Record

if TYPE_CHECKING:
    import jinja2

__all__ = [
    "NUMBERS",
    "SOURCES",
    "TableError",
    "make",
    "make_numbers",
    "render",
    "render_html",
    "render_numbers",
]

NUMBERS = tuple(range(1, 16))
# Which files of results/published each table is made from: changing another one changes nothing.
SOURCES = {number: [f"table{number}.json"] for number in NUMBERS}
# What a published record needs for a table.


def make(number: int, records: Iterable[Path], published: Iterable[Path], out: Path) -> Path:
    """Write table `number` to `out` (.tex): measured `records` in the places of the published ones, or these.

    Of `published` files, those that are called after other tables or figures are not opened. Raises TableError
    and RecordError.
    """
    files = [path for path in published if not _is_of_another(number, path)]
    found = [record for path in files for record in read_records(path)]
    return _write(out, render(number, found, load_records(records)))


def make_numbers(published: Iterable[Path], out: Path) -> Path:
    r"""Write `out` (.tex), which defines `\clipanumber{id}` for every published number. Raises RecordError."""
    return _write(out, render_numbers([record for path in published for record in read_records(path)]))


def render(number: int, published: Sequence[Record], measured: Sequence[Record] = ()) -> str:
    """Table `number` as LaTeX; with `measured`, its cells are `measured ± s.e.`, and
    `(published)` behind it where both are on the same benchmark. Raises TableError.
    """
    if number not in NUMBERS:
        raise TableError(f"table {number}: cannot be made; the paper has Tables 1 to {NUMBERS[-1]}")
    own = _records_of(number, published)
    beside = measured_cells(number, own, measured) if measured else None
    return _rendered("_table.tex.j2", number, own, beside)


def render_html(number: int, published: Sequence[Record]) -> str:
    """Table `number` as a `details` element of HTML, each number a link to `#` and its record's id. TableError."""
    return _rendered("_table.html.j2", number, _records_of(number, published), None)


def _records_of(number: int, published: Sequence[Record]) -> list[Record]:
    own = [record for record in published if record["table"] == number]
    if not own:
        raise TableError(f"table {number}: no record of it was given; it is made from {SOURCES[number][0]}")
    return own


def _rendered(shared: str, number: int, own: list[Record], beside: Measured | None) -> str:
    """The template of a table inside the `shared` one that says in which language."""
    template = _environment().get_template(f"table{number}.tex.j2")
    return template.render(
        float=shared, number=number, measured=beside, panels=partial(_panels, number, own, beside)
    )


def render_numbers(records: Iterable[Record]) -> str:
    r"""Defines `\clipanumber{id}` and `\clipaprinted{id}` for every record with a value, tables first."""
    numbers = []
    for record in sorted(
        records, key=lambda record: (record["table"] is None, record["table"] or record["figure"])
    ):
        if record["value"] is not None:
            printed = None if record["printed"] is None else escape(record["printed"])
            text = shown(record)
            words = not isinstance(record["value"], (int, float))
            numbers.append((record["id"], rf"\clipatext{{{text}}}" if words else text, text, printed))
    return _environment().get_template("numbers.tex.j2").render(numbers=numbers)


def _panels(number: int, own: list[Record], beside: Measured | None, **look) -> list[Panel]:
    """What `_table.tex.j2` calls with what a table's template says of it."""
    if beside:  # the paper's gains belong to its own numbers, and say nothing of measured ones
        own = [record for record in own if not is_gain(record)]
    return Table(number, own, beside.cells if beside else {}, Look(**look)).panels()


def _is_of_another(number: int, path: Path) -> bool:
    called = re.fullmatch(r"(table|figure)\d+\.json", Path(path).name)
    return called is not None and Path(path).name not in SOURCES.get(number, [])


def _write(out: Path, text: str) -> Path:
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, text)
    return out


def _environment() -> jinja2.Environment:
    """Jinja with delimiters that LaTeX does not use; an unknown name in a template is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        block_start_string="((*",
        block_end_string="*))",
        variable_start_string="(((",
        variable_end_string=")))",
        comment_start_string="((=",
        comment_end_string="=))",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # LaTeX: texts pass `escape`; HTML: they pass `html` then
    )
    environment.filters["html"] = as_html
    return environment
