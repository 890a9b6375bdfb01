"""Figures of the paper, drawn from stored records: published ones, or measured ones beside the published.

A figure has `data(frame)` (the numbers behind the plot, one row a point) and `draw(frame, published)` (a matplotlib
Figure). Neither reads or writes a file; `make` does. `points.py` chooses records and averages them over seeds,
`style.py` has the look of all. Nothing here imports torch, and importing this imports neither pandas nor matplotlib:
the workflow does.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from clipa.files import write_bytes_atomically, write_text_atomically
from clipa.records import frame_of, load_frame, load_records, of_the_study
from clipa.study import SMALLER_MODELS

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

# The published records behind each figure (files of results/published).
SOURCES = {
    1: ["table11.json", "table12.json"],
    2: [],
    3: [],
    4: ["table11.json"],
    5: ["figure5.json"],
    6: ["figure6.json"],
    7: ["table12.json"],
    8: ["table1.json", "table2.json", "table8.json", "table10.json", "table11.json"],
    9: ["table11.json"],
    10: ["table11.json"],
}
NUMBERS = tuple(SOURCES)
# Figures that share a module: the object in it that draws them. The others are modules of their own.
SHARED = {
    4: "drops.IMAGES",
    7: "drops.TEXTS",
    5: "benchmarks.RETRIEVAL",
    6: "benchmarks.ROBUSTNESS",
    9: "sizes.SIZES",
    10: "sizes.TOKENS",
}
VARIANTS = ("", "-column")
"""What follows a figure's name: nothing for the width of a page, or of a column of two (style.settings)."""
FILES = (".pdf", ".svg", "-column.pdf", "-column.svg", "-column.png", ".png")
"""What one figure is written as, besides its numbers. First what the workflow names as the output, last what its
report shows. Only the PNG for a page is tracked: the others are seconds away, and would make the repository several
times larger."""
PNG_DPI = 200
# No dates and no versions, so that the same numbers give the same bytes.
METADATA = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


class FigureError(ValueError):
    """A figure cannot be drawn from what was given; one line says why and what to do."""


class NothingToDraw(FigureError):
    """The records hold nothing of the kind that was asked for (not: something of it is missing)."""


class Drawing(Protocol):
    """What draws one figure."""

    def data(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """The numbers behind the plot, one row a point."""

    def draw(self, frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
        """The figure; with `published`, these beside measured ones."""


def drawing(number: int) -> Drawing:
    """What draws figure `number`. Raises FigureError if the paper has none."""
    if number not in NUMBERS:
        known = ", ".join(map(str, NUMBERS))
        raise FigureError(f"figure {number}: the paper has none; there are figures {known}")
    module, _, name = SHARED.get(number, f"figure{number:02d}").partition(".")
    found = importlib.import_module(f"{__name__}.{module}")
    return getattr(found, name) if name else found


def make(number: int, records: Iterable[Path], published: Iterable[Path], out: Path) -> list[Path]:
    """Draw figure `number` as PDF (`out`), SVG and PNG, for the width of a page, then as `<stem>-column` for a column.

    The numbers are in `data/<stem>.csv` beside `out`. From measured `records` (without models below the paper's, which
    only the law has) with the published ones beside them, or from `published` alone if there are no records. Returns
    the files written. Raises FigureError, RecordError.
    """
    one = drawing(number)
    import matplotlib

    matplotlib.use("Agg")
    import pandas

    from clipa.render.figures import style

    records, published_frame, out = list(records), load_frame(published), Path(out)
    frame = frame_of(of_the_study(load_records(records), SMALLER_MODELS)) if records else published_frame
    beside = published_frame if records and len(published_frame) else None
    written = []
    for variant, width in zip(VARIANTS, (style.PAGE, style.COLUMN), strict=True):
        with matplotlib.rc_context(style.settings(width)):
            written += save(one.draw(frame, beside), out.with_name(f"{out.stem}{variant}.pdf"))
    points = one.data(frame)
    if beside is not None:
        points = pandas.concat([points, one.data(beside)], ignore_index=True)
    table = out.parent / "data" / f"{out.stem}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(table, points.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    return [*written, table]


def save(figure: Figure, out: Path) -> list[Path]:
    """Write a figure as PDF, SVG and PNG, the same bytes every time; `settings` must be in force."""
    out.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, metadata in METADATA.items():
        data, path = io.BytesIO(), out.with_suffix(f".{kind}")
        figure.savefig(data, format=kind, dpi=PNG_DPI, metadata=metadata)
        write_bytes_atomically(path, data.getvalue())
        written.append(path)
    return written
