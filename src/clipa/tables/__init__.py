"""Tables of the paper as LaTeX (booktabs), from stored records: published, or measured beside them."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipa.law import MINIMAL_SEEDS, over_seeds
from clipa.results import load_frame, write_text_atomically

if TYPE_CHECKING:
    import jinja2
    import pandas

NUMBERS = (11,)
MODELS = ("S/16", "B/16", "L/16")
REDUCTIONS = ("none", "random", "grid", "block", "resize")
PAPER_PIXELS = {100: 160, 49: 112, 36: 96, 16: 64}
STAGES = ("pretrain", "finetune")


class TableError(ValueError):
    """A table cannot be made from what was given; one line says why and what to do."""


@dataclass
class Cell:
    """One cell: LaTeX without its emphasis, the value that competes for bold, and the note it carries."""

    text: str
    value: float = math.nan
    note: str | None = None


@dataclass
class Row:
    """One row of the template."""

    label: str
    setting: str
    tokens: int
    cells: list[str]


def make(number: int, records: Iterable[Path], published: Iterable[Path], out: Path) -> Path:
    """Write table `number` to `out` (.tex): measured `records` beside `published` ones, or these alone."""
    records, beside = list(records), load_frame(published)
    frame = load_frame(records) if records else beside
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, render(number, frame, beside if records else None))
    return out


def render(number: int, frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> str:
    """Table `number` as LaTeX; with `published`, cells are `measured ± s.e. (published)`. Raises TableError."""
    if number not in NUMBERS:
        raise TableError(f"table {number}: cannot be made; there is table {', '.join(map(str, NUMBERS))}")
    points = table11_points(frame)
    if points.empty:
        raise TableError(f"table {number}: no ImageNet-1k top-1 record of an image reduction was given")
    measured = bool((points.source == "measured").all())
    beside = table11_points(published) if published is not None else None
    content = _measured_content(points, beside) if measured else _published_content(points)
    return _environment().get_template(f"table{number}.tex.j2").render(measured=measured, **content)


def table11_points(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The records of Table 11's cells, each with the `place` (stage) of the column the paper puts it in.

    The full-length baseline has one stage, pretrain; the paper prints it under fine-tune, and so do we.
    """
    kept = frame[(frame.benchmark == "imagenet1k") & (frame.metric == "acc1")]
    kept = kept[(kept.text_reduction == "truncation") & (kept.text_tokens == 32)]
    kept = kept[(kept.source == "measured") | (kept.table == 11)]
    other = {"pretrain": "finetune", "finetune": "pretrain"}
    return kept.assign(place=kept.stage.where(kept.image_reduction != "none", kept.stage.map(other)))


def _published_content(points: pandas.DataFrame) -> dict[str, Any]:
    cells = {}
    for record in points.itertuples():
        text = {"-": "--"}.get(record.printed, record.printed)
        # Notes on empty cells explain our ids, and the caption explains N/A: only numbers carry marks.
        note = record.note if not math.isnan(record.value) and record.image_reduction != "none" else None
        cells[_key(record)] = Cell(text, record.value, note)
    caption = (
        "Zero-shot top-1 accuracy (\\%) on ImageNet-1k, as published. "
        "Tokens: image tokens with the class token; text tokens: 32. "
        "Bold: best at (about) the same number of tokens. N/A: the paper "
        "uses ratios of 50\\,\\% and 75\\,\\% for grid masking."
    )
    return _content(cells, "published", caption, "table11")


def _measured_content(points: pandas.DataFrame, published: pandas.DataFrame | None) -> dict[str, Any]:
    printed = {}
    if published is not None:
        numbers = published[published.value.notna()]
        printed = {_key(record): record.printed for record in numbers.itertuples()}
    cells, seeds = {}, set()
    for key, group in points.groupby(["image_reduction", "patches", "model", "place"]):
        seeds.add(len(group))
        if len(group) >= MINIMAL_SEEDS:
            found = over_seeds(group.value.to_numpy())
            mean, error = found.mean, found.standard_error
        else:  # the test items are common to the seeds: their errors do not average out
            mean, error = group.value.mean(), math.sqrt((group.standard_error**2).mean())
        beside = f" {{\\scriptsize ({printed[key]})}}" if key in printed else ""
        cells[key] = Cell(f"${mean:.1f} \\pm {error:.1f}${beside}")
    scale, name, n = points.scale.iloc[0], points.dataset_name.iloc[0], int(points.dataset_n.iloc[0])
    over = "seeds" if min(seeds) >= MINIMAL_SEEDS else "test items"
    count = "/".join(str(number) for number in sorted(seeds))
    caption = (
        f"Zero-shot top-1 accuracy (\\%), measured at the {escape(scale)} scale "
        f"on {escape(name)} ($n = {n}$), mean over {count} seed(s) $\\pm$ standard error over {over}. "
        "In brackets: the paper's number on ImageNet-1k; the two are not comparable, "
        "only the signs and orders of differences are. Tokens: the paper's count."
    )
    return _content(cells, f"measured, scale {scale}", caption, f"table11-{scale}")


def _key(record: Any) -> tuple[str, int, str, str]:
    return record.image_reduction, record.patches, record.model, record.place


def _content(cells: dict[tuple, Cell], source: str, caption: str, label: str) -> dict[str, Any]:
    """What the template needs: rows in groups of (about) the same length, best cells bold, notes marked."""
    models = [model for model in MODELS if any(key[2] == model for key in cells)]
    columns = [(model, place) for model in models for place in STAGES]
    # 98 and 100 patches (masks, 160 px) are one group.
    lengths = sorted({100 if patches == 98 else patches for _, patches, *_ in cells}, reverse=True)
    marks: dict[str, str] = {}
    groups = []
    for length in lengths:
        chosen = [length] if length != 100 else [100, 98]
        rows = [
            (reduction, patches)
            for reduction in REDUCTIONS
            for patches in chosen
            if any((reduction, patches, *column) in cells for column in columns)
        ]
        best = {column: _best(cells, rows, column) for column in columns}
        groups.append([_row(cells, *row, columns, best, marks) for row in rows])
    notes = [(mark, escape(note)) for note, mark in marks.items()]
    return {
        "groups": groups,
        "models": models,
        "notes": notes,
        "source": source,
        "caption": caption,
        "label": label,
    }


def _best(cells: dict[tuple, Cell], rows: list[tuple[str, int]], column: tuple[str, str]) -> float:
    """The largest value of a column within a group; NaN (no bold) where nothing competes."""
    values = [cells[*row, *column].value for row in rows if (*row, *column) in cells]
    numbers = [value for value in values if not math.isnan(value)]
    return max(numbers) if len(numbers) > 1 else math.nan


def _row(
    cells: dict[tuple, Cell],
    reduction: str,
    patches: int,
    columns: list[tuple[str, str]],
    best: dict[tuple[str, str], float],
    marks: dict[str, str],
) -> Row:
    own = [cells.get((reduction, patches, *column), Cell("--")) for column in columns]
    shared = own[0].note if own[0].note and all(cell.note == own[0].note for cell in own) else None
    texts = []
    for cell, column in zip(own, columns, strict=True):
        text = f"\\textbf{{{cell.text}}}" if cell.value == best[column] else cell.text
        texts.append(text + _mark(cell.note if not shared else None, marks))
    label = {"none": "baseline"}.get(reduction, reduction) + _mark(shared, marks)
    return Row(label, _setting(reduction, patches), patches + 1, texts)


def _mark(note: str | None, marks: dict[str, str]) -> str:
    if note is None:
        return ""
    letter = marks.setdefault(note, string.ascii_lowercase[len(marks)])
    return f"\\textsuperscript{{{letter}}}"


def _setting(reduction: str, patches: int) -> str:
    """Masking ratio or image size as the paper's second column has it."""
    if reduction == "resize":
        return f"${PAPER_PIXELS[patches]} \\times {PAPER_PIXELS[patches]}$"
    return f"{100 * (1 - patches / 196):.1f}\\,\\%"


def escape(text: str) -> str:
    """Plain text as LaTeX text."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], "\\" + found[0]), text)


def _environment() -> jinja2.Environment:
    """Jinja with delimiters that LaTeX does not use; an unknown name in a template is an error."""
    import jinja2

    return jinja2.Environment(
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
        autoescape=False,  # LaTeX, not HTML: texts pass `escape`
    )
