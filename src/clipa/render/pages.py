"""Pages in HTML that show all numbers: what they are rendered from, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clipa.files import write_text_atomically
from clipa.published.measured import recorded
from clipa.records import published_records, recorded_scales
from clipa.schema import Record

Render = Callable[[Sequence[Record], Mapping[str, Sequence[Record]]], str]


def write_page(out: Path, render: Render) -> Path:
    """Write to `out` what `render` makes of the published records, and of the accepted ones by scale."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    measured = {scale: recorded(scale) for scale in recorded_scales()}
    write_text_atomically(out, render(published_records(), measured))
    return out
