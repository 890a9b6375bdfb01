"""A table of the paper, read from its text alone: the second reading of `results/published`.

`paper_tables/table<n>.tsv` holds the lines of a table as they were extracted from the paper's PDF. `read` gives
its cells under the ids of records, which come from the headings and row labels of that text as a `Layout` (see
`paper_layouts.py`) describes them. Nothing here looks at the stored records.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

DIRECTORY = Path(__file__).parent / "paper_tables"

# What the extraction made of the print, undone in headings and row labels. Values are taken as they are.
ARTEFACTS = [
    (r"\\times ", "×"),  # ($\times 1e11$)
    (r"\$|[{}]", ""),  # $12.8B@224^{2}$
    (r"\s*(\^2|²)", "²"),  # 224 ², 224^2
    (r"(?<=\d) (?=[BM]@)", ""),  # 2.56 B@112
    (r"\s*\+\s*", "+"),  # 64²+128M and 112² + 128M are printed alike
]
LOST = ""  # a cell that the text does not have
NO_SUCH_NUMBER = {"-", "N/A"}


class Cell(NamedTuple):
    """A printed value (LOST where the text lacks it) and where it stands: row label and column heading."""

    printed: str
    row: str
    column: str


@dataclass(frozen=True)
class Column:
    """A column of values: its heading, benchmark and metric, and model and stage where the column heads them."""

    heading: str
    name: str
    model: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Layout:
    """How one table is read.

    `columns` gives {position: Column} from the `headings` lines of heading; `labels` are the positions of the row
    labels. `subject` gives subject and stage of the ids from a row's cells; the stage is empty where the column
    tells it or nothing does. `mend` puts right what the text has torn or prints once for several rows.
    """

    headings: int
    labels: tuple[int, ...]
    columns: Callable[[list[list[str]]], dict[int, Column]]
    subject: Callable[[list[str]], tuple[str, str]]
    mend: Callable[[list[list[str]]], None] = lambda rows: None


def clean(text: str) -> str:
    """A heading or row label with the extraction's artefacts undone."""
    for pattern, replacement in ARTEFACTS:
        text = re.sub(pattern, replacement, text)
    return text.strip()


def lines(path: Path) -> list[list[str]]:
    """The lines of a table's text, cells stripped but otherwise as extracted; the comment on top left out."""
    text = path.read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.split("\t")] for line in text.splitlines() if line[0] != "#"]


def read(number: int, layout: Layout, directory: Path = DIRECTORY) -> dict[str, Cell]:
    """{record id: Cell} of Table `number`; AssertionError where the text is not as the layout says.

    A bracketed gain is a cell of its own. The full-length baseline of Tables 11 and 13 has one training, pretrain,
    which the paper prints under fine-tune, with '-' under pre-train.
    """
    text = lines(directory / f"table{number}.tsv")
    columns = layout.columns(text[: layout.headings])
    body = [
        row for row in text[layout.headings :] if sum(map(bool, row)) > 1
    ]  # Table 14 ends in a caption's ghost
    layout.mend(body)
    found: dict[str, Cell] = {}
    for row in body:
        subject, stage = layout.subject(row)
        label = " | ".join(clean(row[i]) for i in layout.labels if row[i])
        for position, column in columns.items():
            own = {"": stage, "cost": ""}.get(column.stage, column.stage)
            if subject.startswith("none-") and own:
                own = {"pretrain": "finetune", "finetune": "pretrain"}[own]
            parts = [f"table{number}", column.model + subject, own, column.name]
            identity = ".".join(part for part in parts if part)
            for ending, printed in _split(row[position]):
                assert identity + ending not in found, f"{identity + ending} is in the text twice"
                found[identity + ending] = Cell(printed, label, column.heading)
    return found


def _split(printed: str) -> list[tuple[str, str]]:
    """(end of the id, text) for a cell: one, or two for `67.8 (+1.5)`; the lost cell of Table 14 has lost both."""
    pair = re.fullmatch(r"(\S+) (\([+-][\d.]+\))", printed)
    if pair:
        return [("", pair[1]), ("_gain", pair[2])]
    return [("", LOST), ("_gain", LOST)] if printed == LOST else [("", printed)]


def meaning(identity: str, printed: str) -> float | str | list[float] | None:
    """What a printed cell says, in its record's unit: a number, several, words, or None for no number."""
    if printed == LOST or printed in NO_SUCH_NUMBER:
        return None
    if (identity, printed) in SLIPS:
        return SLIPS[identity, printed]
    text = re.sub(r" \[[\d, ]+\]$", "", printed)  # citations
    if several := re.fullmatch(r"\(([\d.]+), ([\d.]+)\)", text):
        return [float(number) for number in several.groups()]
    if samples := re.fullmatch(r"([\d.]+)B \+ (\d+)M", text):
        return [round(float(samples[1]) * 1e9), int(samples[2]) * 1e6]
    if fraction := re.fullmatch(r"(\d+)/([\d.]+)", text):
        return float(fraction[1]) / float(fraction[2])
    if number := re.fullmatch(r"\(?\+?(\d[\d.]*(e-\d+)?)(G|\))?", text):
        return float(number[1])
    return text


# The one value that is not what its digits say: 299 percent. Its neighbours are 30.9, 29.3, 31.1 in Table 12.
SLIPS = {("table12.S16-resize112-random6.pretrain.imagenet1k.acc1", "299"): 29.9}
