"""Figures of the paper, drawn from stored records: published ones, or measured ones beside the published.

Each `figureNN.py` has `data(frame)` (the numbers behind the plot, one row a point) and
`draw(frame, published)` (a matplotlib Figure). Neither reads or writes a file; `make` does. Nothing here
imports torch.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.law import MINIMAL_SEEDS, over_seeds
from clipa.results import load_frame, write_bytes_atomically, write_text_atomically

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

NUMBERS = (4, 9, 10)
PNG_DPI = 220


class FigureError(ValueError):
    """A figure cannot be drawn from what was given; one line says why and what to do."""


def make(number: int, records: Iterable[Path], published: Iterable[Path], out: Path) -> list[Path]:
    """Draw figure `number`: `out` (.pdf), the same stem as .png, and the numbers in `data/<stem>.csv` beside.

    From measured `records` with the published ones beside them, or from `published` alone if there are no
    records. Returns the files written. Raises FigureError, RecordError.
    """
    if number not in NUMBERS:
        known = ", ".join(map(str, NUMBERS))
        raise FigureError(f"figure {number}: cannot be drawn from records; there are figures {known}")
    import matplotlib

    matplotlib.use("Agg")
    from clipa.figures import style

    module = importlib.import_module(f"clipa.figures.figure{number:02d}")
    records, published_frame = list(records), load_frame(published)
    frame = load_frame(records) if records else published_frame
    beside = published_frame if records and len(published_frame) else None
    with matplotlib.rc_context(style.settings()):
        figure = module.draw(frame, beside)
        points = module.data(frame)
        if beside is not None:
            points = join(points, module.data(beside))
        return save(figure, points, Path(out))


def save(figure: Figure, points: pandas.DataFrame, out: Path) -> list[Path]:
    """Write PDF, PNG and CSV, the same bytes every time: no dates, no version, numbers to six digits."""
    table = out.parent / "data" / f"{out.stem}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = io.BytesIO(), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    write_bytes_atomically(out.with_suffix(".pdf"), pdf.getvalue())
    write_bytes_atomically(out.with_suffix(".png"), png.getvalue())
    write_text_atomically(table, points.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    return [out.with_suffix(".pdf"), out.with_suffix(".png"), table]


def join(first: pandas.DataFrame, second: pandas.DataFrame) -> pandas.DataFrame:
    """Two tables of points below each other."""
    import pandas

    return pandas.concat([first, second], ignore_index=True)


def image_points(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The records behind Figures 4, 9 and 10: ImageNet-1k top-1, image reductions, text truncated at 32.

    Final accuracies only: the full-length baseline after its one stage, reduced runs after fine-tuning. Of
    the published ones Table 11's. Raises FigureError if a baseline or every reduced run is missing.
    """
    kept = frame[(frame.benchmark == "imagenet1k") & (frame.metric == "acc1") & frame.value.notna()]
    kept = kept[(kept.text_reduction == "truncation") & (kept.text_tokens == 32)]
    kept = kept[(kept.source == "measured") | (kept.table == 11)]
    final = (kept.image_reduction == "none").map({True: "pretrain", False: "finetune"})
    kept = kept[kept.stage == final]
    reduced = kept[kept.image_reduction != "none"]
    if reduced.empty or len(reduced) == len(kept):
        raise FigureError(
            "no full-length baseline, or no fine-tuned run of a shorter image length, in the records"
        )
    orphans = reduced[reduced["drop"].isna()]
    if len(orphans):
        raise FigureError(f"{orphans.id.iloc[0]}: its full-length baseline is not among the records")
    return kept


def over_runs(points: pandas.DataFrame, by: Sequence[str], value: str, error: str) -> pandas.DataFrame:
    """Mean over seeds of `value` for each combination of `by`, with columns low, high, seeds, interval.

    The 95 % interval is Student's over seeds from three seeds on, else over test items (`error` is the
    standard error of one seed; the items are common to the seeds), else absent (NaN).
    """
    import pandas

    rows = []
    for key, group in points.groupby(list(by), sort=False):
        values, errors = group[value].to_numpy(), group[error].to_numpy()
        row = dict(zip(by, key, strict=True)) | {value: values.mean(), "low": math.nan, "high": math.nan}
        row |= {"seeds": max(1, int(group.seed.nunique())), "interval": ""}
        if len(values) >= MINIMAL_SEEDS:
            found = over_seeds(values)
            row |= {"low": found.low, "high": found.high, "interval": "95 % over seeds"}
        elif (errors > 0).all():
            half = 1.959964 * math.sqrt((errors**2).mean())
            row |= {"low": row[value] - half, "high": row[value] + half, "interval": "95 % over test items"}
        rows.append(row)
    return pandas.DataFrame(rows)


def provenance_line(frame: pandas.DataFrame) -> str:
    """What the numbers are, for a figure's subtitle: published, or scale, data, items, seeds, interval."""
    points = image_points(frame)
    if (points.source == "published").all():
        return (
            "Published numbers (Table 11): zero-shot top-1 on ImageNet-1k after fine-tuning, one run a point"
        )
    scale, name, n = points.scale.iloc[0], points.dataset_name.iloc[0], int(points.dataset_n.iloc[0])
    seeds = points.groupby("run").seed.nunique()
    over = "seeds" if seeds.min() >= MINIMAL_SEEDS else "test items"
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    bars = f"{count} seed{'' if seeds.max() == 1 else 's'}, bars: 95 % over {over}"
    return f"Measured at {scale} scale on {name} (n = {n}), not ImageNet; {bars}"
