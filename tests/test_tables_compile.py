"""The tables and numbers as pdflatex sees them: together, on narrow and wide pages, and every number by its id."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clipa.render.tables import NUMBERS, make, make_numbers, render, render_numbers
from fabricated import measured_grid
from printed_latex import PUBLISHED, records_of

TABLES = Path(__file__).parents[1] / "tables"
PACKAGES = "texlive-latex-recommended texlive-fonts-recommended"
ALL = sorted(PUBLISHED.glob("*.json"))


def everything() -> list[dict]:
    """Records of all files, those of the figures too."""
    return [record for path in ALL for record in json.loads(path.read_text(encoding="utf-8"))["records"]]


def have_latex() -> bool:
    """Whether pdflatex is there; on CI it must be."""
    if shutil.which("pdflatex"):
        return True
    assert not os.environ.get("CI"), f"install TeX Live (Debian: apt-get install {PACKAGES})"
    print(f"not compiled: pdflatex is missing (Debian: apt-get install {PACKAGES})")
    return False


def pdflatex(folder: Path, name: str) -> tuple[int, str]:
    """Exit code and log of one run, lines unbroken."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "max_print_line": "10000"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    return done.returncode, (folder / name).with_suffix(".log").read_text(encoding="latin-1")


def complaints(log: str) -> list[str]:
    """Lines of a log that speak of boxes, references, fonts or floats; not those of a first run."""
    found = re.findall(r"^.*(?:Overfull|Underfull|Warning|undefined|^!).*$", log, re.M)
    return [line for line in found if "Rerun" not in line and "No file" not in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tables as they are made now, and what is written by hand beside them."""
    out = tmp_path_factory.mktemp("tables")
    for number in NUMBERS:
        make(number, [], ALL, out / f"table{number}.tex")
    make_numbers(ALL, out / "numbers.tex")
    shutil.copy(TABLES / "tables.tex", out)
    return out


def test_all_tables_and_numbers_compile_together(folder):
    if not have_latex():
        return
    for _ in range(2):
        code, log = pdflatex(folder, "tables.tex")
        assert code == 0, log[-2000:]
    assert complaints(log) == [] and "Output written on tables.pdf (9 pages" in log
    assert (folder / "tables.lot").read_text(encoding="utf-8").count("contentsline {table}") == 15


def test_any_page_is_wide_enough(folder):
    """Article's default page, 345 pt wide, and a measured table beside: tables shrink, boxes do not stick out."""
    if not have_latex():
        return
    measured = render(11, records_of(11), measured_grid({"resize112": (3, 3.2, 2)}, n=100))
    (folder / "measured.tex").write_text(measured, encoding="utf-8")
    inputs = "".join(rf"\input{{table{number}}}\clearpage" for number in NUMBERS)
    head = r"\documentclass{article}\usepackage{booktabs,graphicx,pifont,rotating}"
    (folder / "narrow.tex").write_text(
        rf"{head}\begin{{document}}\input{{measured}}\clearpage{inputs}\end{{document}}", encoding="utf-8"
    )
    code, log = pdflatex(folder, "narrow.tex")
    assert code == 0 and [line for line in complaints(log) if "Label(s)" not in line] == []


def test_numbers_have_every_citable_record():
    records = everything()
    latex = render_numbers(records)
    lines = re.findall(r"^\\clipa(define|same|unprinted)\{(.*?)\}\{(.*?)\}(?:\{(.*)\})?$", latex, re.M)
    assert sorted(identity for _, identity, *_ in lines) == sorted(
        record["id"] for record in records if record["value"] is not None
    )
    assert lines[0][1].startswith("table1.") and lines[-1][1].startswith("figure6.")
    by_identity = {identity: (kind, value, printed) for kind, identity, value, printed in lines}
    six = by_identity["table12.S16-resize112-random6.pretrain.imagenet1k.acc1"]
    assert six == ("define", "29.9", "299")
    assert by_identity["table7.gap.finetune.imagenet1k.acc1_gain"] == ("define", "1.5", "(+1.5)")
    assert by_identity["table4.L16.vision.width"][:2] == ("same", "1024")
    first = records_of(1)[0]
    unprinted = render_numbers([first | {"printed": None}])
    assert rf"\clipaunprinted{{{first['id']}}}{{4600}}" in unprinted


DOCUMENT = r"""
\documentclass{article}
\usepackage{hyperref}
\input{numbers}
\begin{document}
\listoftables
\section{\clipanumber{table11.S16-resize64-truncation32.finetune.imagenet1k.acc1} in a heading}
$x^{\clipanumber{table5.pretrain.base_lr}}$
\begin{table}
  \caption{\clipanumber{table1.OpenAI-B32.mscoco_captions.text_retrieval_recall@1} and
    \clipaprinted{table12.S16-resize112-random6.pretrain.imagenet1k.acc1}}
\end{table}
\edef\found{\clipanumber{table8.L16-resize96-truncation8-laion400m-2.56B-128M.finetune.imagenet1k.acc1}}
\def\wanted{69.3}
\ifx\found\wanted\else\errmessage{not expanded}\fi
%(more)s
\end{document}
"""


def compiled(folder: Path, more: str, runs: int = 1) -> tuple[int, str]:
    """Exit code and log of `DOCUMENT` with more lines in it."""
    (folder / "citing.tex").write_text(DOCUMENT.replace("%(more)s", more), encoding="utf-8")
    return [pdflatex(folder, "citing.tex") for _ in range(runs)][-1]


def test_every_number_is_what_its_id_says(folder):
    """Out of LaTeX again: id, value and printed form of every record."""
    if not have_latex():
        return
    records = [record for record in everything() if record["value"] is not None]
    lines = [
        rf"\typeout{{@@{record['id']} \clipanumber{{{record['id']}}} @ \clipaprinted{{{record['id']}}}@}}"
        for record in records
    ]
    code, log = compiled(folder, "%\n".join(lines), runs=2)
    assert code == 0 and complaints(log) == [], log[-2000:]
    found = dict(re.findall(r"^@@(\S+) (.*)@$", log, re.M))
    assert list(found) == [record["id"] for record in records]
    for record in records:
        words = re.sub(r"\\clipatext *\{(.*?)\}", r"\1", found[record["id"]]).replace(r"\%", "%")
        value, printed = words.split(" @ ")
        if record["id"] == "table5.pretrain.base_lr":
            assert value == r"\ensuremath {8 \times 10^{-6}}" and printed == "8e-6"
        elif isinstance(record["value"], (int, float)) and "/" not in value:
            assert float(value) == record["value"], record["id"]
        assert printed == record["printed"], record["id"]
    assert "50.2 and 299}" in (folder / "citing.lot").read_text(encoding="utf-8")


def test_an_unknown_id_is_an_error_that_names_it(folder):
    if not have_latex():
        return
    code, log = compiled(folder, r"\clipanumber{table11.S16_resize@65}")
    assert code != 0 and "There is no value with the id 'table11.S16_resize@65'" in log
    lost = "table14.OpenCLIP-B16.negclip.aro/vg_relation.acc1"
    code, log = compiled(folder, rf"\clipaprinted{{{lost}}}")
    assert code != 0 and f"There is no printed form with the id '{lost}'" in log
