"""Reads the LaTeX of a table back: headings and cells as plain text, and where a published record belongs."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from clipa.render.tables import SOURCES

PUBLISHED = Path(__file__).parents[1] / "results" / "published"

# Headings that the tables have instead of the paper's.
HEADS = {
    2: {"compute(1e12)": "Compute"},
    3: {
        "compute": "Compute",
        "Caltech 101": "Caltech-101",
        "Cifar10": "CIFAR-10",
        "Cifar100": "CIFAR-100",
        "Clevr_all": "Clevr count",
        "Clevr_dis": "Clevr distance",
        "Dmlab": "DMLab",
        "Dtd": "DTD",
        "Eurosat": "EuroSAT",
        "Kitti": "KITTI",
        "Pcam": "PCam",
        "Resisc45": "RESISC45",
        "Smallnorb_A": "SmallNORB azimuth",
        "Smallnorb_E": "SmallNORB elevation",
        "Svhn": "SVHN",
    },
    4: {"Embed dim": "Embedding"}
    | {
        f"{tower} Transformer {part}": f"{tower} transformer {part}"
        for tower in ("Vision", "Text")
        for part in ("layers", "width", "heads")
    }
    | {f"# params (M) {part}": f"Parameters (M) {part}" for part in ("vision", "text", "total")},
    8: {"data source": "Data", "# seen samples": "Samples", "total compute (×1e11)": "Compute"},
    10: {"training FLOPs": "GFLOPs"},
    15: {
        f"{model} {printed}": f"{model} {meant}"
        for model in ("S/16", "B/16", "L/16")
        for printed, meant in (("I-to-T", "image"), ("T-to-I", "text"))
    },
}
# Row headings that are misprinted.
MEANT = {
    "CLIPA-L16 (I37,T8)": "CLIPA-L/16 (I37,T8)",
    "12.8B+512M": "12.8B+128M",
    "CLIPA-L/16 ((I17.T16)": "CLIPA-L/16 (I17,T16)",
    "resizing": "resize",
}
PLAIN = (
    (r"\$\\times\$", "×"),
    (r"\\textsuperscript\{2\}", "²"),
    (r"\\ding\{51\}", "✓"),
    (r"\\ding\{55\}", "✗"),
    (r"\\ensuremath\{(\d+) \\times 10\^\{(-?\d+)\}\}", r"\1e\2"),
    (r"\$([+-][\d.]+)\$", r"\1"),
    (r"\\rotatebox\{90\}\{(.*)\}", r"\1"),
    (r"\\text(?:bf|it)\{([^{}]*)\}", r"\1"),
    (r"\\([%#&_$])", r"\1"),
)
MARK = r"\\textsuperscript\{([a-z])\}"


@dataclass
class Printed:
    """One tabular. `heads`: per column (heading above several, own heading, marks). `rows`: cells as `Entry`."""

    heads: list[tuple[str, str, str]]
    groups: list[list[list["Entry"]]]
    notes: dict[str, str]

    @property
    def rows(self) -> list[list["Entry"]]:
        return [row for group in self.groups for row in group]

    def column(self, name: str) -> int:
        """The one column headed `name`: `S/16 pre-train`, or its own heading alone."""
        found = [i for i, (above, own, _) in enumerate(self.heads) if name in (own, f"{above} {own}")]
        assert len(found) == 1, (name, self.heads)
        return found[0]


@dataclass(frozen=True)
class Entry:
    """One cell: plain text, whether its number is bold, letters of its notes."""

    text: str
    bold: bool
    marks: str

    @classmethod
    def of(cls, latex: str) -> "Entry":
        marks = "".join(re.findall(MARK, latex))
        latex = re.sub(r"\\rlap\{((?:" + MARK + r")+)\}", "", latex)
        return cls(plain(re.sub(MARK, "", latex)), r"\textbf{" in latex, marks)


def plain(latex: str) -> str:
    """LaTeX of a cell as the text that is printed."""
    text = latex.strip()
    for pattern, replacement in PLAIN:
        text = re.sub(pattern, replacement, text)
    return text


def read_back(latex: str) -> list[Printed]:
    """Every tabular in `latex`."""
    return [
        _tabular(part)
        for part in re.findall(r"\\begin\{tabular\}.*?\\end\{(?:sideways)?table\}", latex, re.S)
    ]


def _tabular(latex: str) -> Printed:
    align = re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", latex)[1]
    head, *groups = latex.split(r"\bottomrule")[0].split(r"\toprule")[1].split(r"\midrule")
    head = re.sub(r"\\cmidrule\(lr\)\{\d+-\d+\}", "", head)
    lines = [line.strip().removesuffix(r"\\") for line in head.splitlines() if line.strip()]
    above = [""] * len(align)
    if len(lines) == 2:
        above = [text for cell in _cells(lines[0]) for text in _spread(cell)]
    own = [Entry.of(cell) for cell in _cells(lines[-1])]
    assert len(above) == len(own) == len(align)
    bodies = [[_row(line, len(align)) for line in group.splitlines() if line.strip()] for group in groups]
    notes = dict(re.findall(r"^ *\\textsuperscript\{([a-z])\}~(.*?)(?:\\par)?$", latex, re.M))
    heads = [(a, entry.text, entry.marks) for a, entry in zip(above, own, strict=True)]
    return Printed(heads, bodies, notes)


def _row(line: str, width: int) -> list[Entry]:
    row = [Entry.of(cell) for cell in _cells(line.strip().removesuffix(r"\\"))]
    assert len(row) == width, line
    return row


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line)]


def _spread(cell: str) -> list[str]:
    found = re.fullmatch(r"\\multicolumn\{(\d+)\}\{c\}\{(.*)\}", cell)
    return [plain(found[2])] * int(found[1]) if found else [plain(cell)]


def records_of(number: int) -> list[dict]:
    return json.loads((PUBLISHED / SOURCES[number][0]).read_text(encoding="utf-8"))["records"]


def by_id(identity: str) -> dict:
    number = int(re.match(r"table(\d+)", identity)[1])
    return next(record for record in records_of(number) if record["id"] == identity)


def labels_of(record: dict) -> list[str]:
    """What heads the record's row, without numbers of the paper's bibliography."""
    return [re.sub(r" \[[\d, ]+\]", "", MEANT.get(label, label)) for label in record["row"].split(" | ")]


def place(table: Printed, number: int, record: dict) -> Entry:
    """The cell that a reader finds under the record's row and column headings."""
    name = HEADS.get(number, {}).get(record["column"], record["column"])
    column = table.column(name)
    wanted = labels_of(record)
    found = [row for row in table.rows if [e.text for e in row if e.text][: len(wanted)] == wanted]
    if number == 14:  # with NegCLIP and without: the mark is the second heading
        found = [row for row in found if (row[1].text == "✓") == (record["stage"] == "negclip")]
    if number == 8:  # three rows share a heading; data and samples tell them apart
        factors = record["factors"]
        billions = f"{factors['pretrain_samples'] / 1e9:g}B + {factors['finetune_samples'][0] / 1e6:g}M"
        keys = (factors["data_source"], billions)
        found = [row for row in found if (row[3].text, row[4].text) == keys]
    assert len(found) == 1, (record["id"], len(found))
    return found[0][column]
