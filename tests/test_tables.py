"""Table 11 as LaTeX, published and measured: every number, the bold ones, the structure, and a compilation."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clipa import tables
from clipa.results import frame_of, load_frame, write_records
from clipa.tables import TableError, escape, render
from fabricated import measured_grid

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "table11.json"


@pytest.fixture(scope="module")
def published():
    return load_frame([PUBLISHED])


@pytest.fixture(scope="module")
def measured():
    return frame_of(measured_grid({"resize112": (3, 3.2, 2), "resize64": (10, 7, 5)}))


def body(latex: str) -> list[list[str]]:
    """Cells of the rows between the column heads and \\bottomrule."""
    inside = latex.split("Strategy")[1].split(r"\bottomrule")[0]
    rows = [line for line in inside.splitlines()[1:] if line.rstrip().endswith(r"\\")]
    return [[cell.strip() for cell in row.rstrip().removesuffix(r"\\").split("&")] for row in rows]


def plain(cell: str) -> str:
    cell = re.sub(r"\\textsuperscript\{.\}", "", cell)
    return re.sub(r"\\textbf\{(.*?)\}", r"\1", cell).replace("--", "-")


def test_published_table_has_every_cell_as_printed(published):
    rows = body(render(11, published))
    assert len(rows) == 17 and {len(row) for row in rows} == {9}
    printed = published.set_index(["image_reduction", "patches", "column"]).printed
    names = {"baseline": "none"}
    for row in rows:
        reduction = names.get(plain(row[0]), plain(row[0]))
        for index, cell in enumerate(row[3:]):
            column = f"{('S/16', 'B/16', 'L/16')[index // 2]} {('pre-train', 'fine-tune')[index % 2]}"
            assert plain(cell) == printed[reduction, int(row[2]) - 1, column]
    assert rows[4][1] == r"$160 \times 160$" and rows[9][1] == r"81.6\,\%"


def test_the_best_of_a_group_is_bold(published):
    latex = render(11, published)
    rows = {(plain(row[0]), row[2]): row[3:] for row in body(latex)}
    assert rows["block", "99"][5] == r"\textbf{69.5}" and rows["resize", "101"][1] == r"\textbf{56.0}"
    assert all(cell.startswith(r"\textbf") for cell in rows["resize", "17"])
    assert not any("textbf" in cell for cell in rows["baseline", "197"] + rows["grid", "17"])
    # In each of the four groups exactly one cell a column is bold: no ties in the paper's table.
    assert latex.count(r"\textbf{") == 4 * 6 + 1


def test_notes_are_marked_where_they_belong(published):
    latex = render(11, published)
    assert r"58.51\textsuperscript{a}" in latex and r"resize\textsuperscript{b}" in latex
    assert latex.count(r"\textsuperscript{a}") == latex.count(r"\textsuperscript{b}") == 2


def test_measured_cells_stand_beside_published_ones(measured, published):
    latex = render(11, measured, published)
    rows = body(latex)
    assert [row[2] for row in rows] == ["197", "50", "17"]
    values = measured[(measured.run == "L16-resize64-truncation32") & (measured.stage == "finetune")].value
    expected = f"${values.mean():.1f} \\pm {values.std(ddof=1) / 3**0.5:.1f}$ {{\\scriptsize (66.2)}}"
    assert rows[2][8] == expected
    assert rows[0][3] == "--" and "(56.7)" in rows[0][4]
    for part in (
        "micro scale",
        "pictograms/v1/plain ($n = 4000$)",
        "not comparable",
        "over 3 seed(s)",
        "over seeds",
    ):
        assert part in " ".join(latex.split())
    alone = render(11, measured)
    assert "scriptsize" not in alone and "textbf{3" not in alone
    one = render(11, measured[measured.seed == 0], published)
    assert "standard error over test items" in " ".join(one.split())


def test_what_cannot_be_made_is_said(published):
    with pytest.raises(TableError, match="table 12: cannot be made"):
        render(12, published)
    with pytest.raises(TableError, match="no ImageNet-1k"):
        render(11, published[published.table == 12])


def test_make_writes_the_file(tmp_path, published):
    out = tables.make(11, [], [PUBLISHED], tmp_path / "tables" / "table11.tex")
    assert out.read_text(encoding="utf-8") == render(11, published)
    write_records(tmp_path / "records.json", measured_grid({"resize64": (10, 7, 5)}, n=200))
    beside = tables.make(11, [tmp_path / "records.json"], [PUBLISHED], tmp_path / "measured.tex")
    assert "measured, scale micro" in beside.read_text(encoding="utf-8")


def test_text_is_escaped():
    assert escape("a_b 50% {x} ~ \\ C&A #1 $2 ^") == (
        r"a\_b 50\% \{x\} \textasciitilde{} \textbackslash{} C\&A \#1 \$2 \textasciicircum{}"
    )


def test_latex_is_well_formed(measured, published, tmp_path):
    for name, latex in (("published", render(11, published)), ("measured", render(11, measured, published))):
        opened, closed = (re.findall(rf"\\{word}{{(\w+)}}", latex) for word in ("begin", "end"))
        assert opened == ["table", "tabular"] and closed == opened[::-1]
        unescaped = re.sub(r"\\[{}%&]", "", latex)
        assert unescaped.count("{") == unescaped.count("}") and latex.count("$") % 2 == 0
        assert "(((" not in latex and "((*" not in latex and latex.isascii()
        columns = len(re.search(r"\\begin{tabular}{(\w+)}", latex)[1])
        assert {len(row) for row in body(latex)} == {columns}
        if shutil.which("pdflatex"):
            _compile(tmp_path / f"{name}.tex", latex)


def _compile(path: Path, latex: str) -> None:
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    path.write_text(f"{head}\n{latex}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "Overfull \\hbox" not in done.stdout, done.stdout[-2000:]
