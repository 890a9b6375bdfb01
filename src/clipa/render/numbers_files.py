"""Every number as a file for spreadsheets and data frames: CSV, JSON or Parquet, by the ending of its name.

Columns, and what they mean, are :data:`clipa.published.flat.COLUMNS`; JSON and Parquet carry their meanings.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipa.files import write_bytes_atomically
from clipa.published.flat import COLUMNS, flat_table
from clipa.published.measured import recorded
from clipa.records import published_records, recorded_scales

Lines = Sequence[Mapping[str, Any]]


def write(out: Path) -> Path:
    """Write all published, derived and accepted measured numbers to `out` (.csv, .json, .parquet).

    ValueError, in one line, for another ending, and for Parquet without pyarrow.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise ValueError(
            f"{out}: the name must end in .html, {', '.join(FORMATS)}, which says what is written"
        )
    content = FORMATS[out.suffix]
    if out.suffix == ".parquet":
        _check_pyarrow(out)  # before seconds of work
    measured = [record for scale in recorded_scales() for record in recorded(scale)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(out, content(flat_table(published_records(), measured)))
    return out


def as_csv(lines: Lines) -> bytes:
    """With a line of headings; an empty cell is what is unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def as_json(lines: Lines) -> bytes:
    """`{"columns": {name: meaning}, "rows": [{name: value}]}`."""
    content = {"columns": {name: meaning for name, (_, meaning) in COLUMNS.items()}, "rows": list(lines)}
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def as_parquet(lines: Lines) -> bytes:
    """Columns typed as in COLUMNS, each with its meaning as metadata."""
    import pyarrow
    from pyarrow import parquet

    types = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
    fields = [
        pyarrow.field(name, types[kind], metadata={"meaning": meaning})
        for name, (kind, meaning) in COLUMNS.items()
    ]
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(list(lines), schema=pyarrow.schema(fields))
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _check_pyarrow(out: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{out}: Parquet needs pyarrow, which the reader's environment leaves out for its size: "
            "pip install --require-hashes -r envs/parquet.lock, or write .csv or .json"
        )


FORMATS: dict[str, Callable[[Lines], bytes]] = {
    ".csv": as_csv,
    ".json": as_json,
    ".parquet": as_parquet,
}
