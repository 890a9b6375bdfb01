"""No measured number can be taken for one of the paper: in no page, table of LaTeX or output of the command line.

A measured number is one of an accepted record or of a mean over seeds, as this artifact prints it: `15.6 ± 1.9`.
"""

import re
from pathlib import Path

import pytest

from clipa.published import citation
from clipa.published.measured import means, recorded
from clipa.records import recorded_scales
from clipa.render import terminal
from html_tree import Node, every, read

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = re.compile(r"\d+\.\d(?:\$?\s*(?:±|\\pm)\s*)\d+\.\d")
"""A measured number wherever it is printed. Derived ones have this form, too, but never stand on a page."""


@pytest.fixture(scope="module")
def averaged():
    return [one for scale in recorded_scales() for one in means(recorded(scale))]


def says_what_it_is(text: str, record: dict) -> bool:
    """Data set, stand-in with its size, scale, n and seeds: all that keeps a number apart from the paper's."""
    parts = (
        record["dataset"]["name"],
        f"{record['model']} stand-in, ",
        f"at scale {record['scale']}",
        f"n = {record['dataset']['n']}",
        f"{len(record['seeds'])} seed" if "seeds" in record else f"seed {record['seed']}",
    )
    return all(part in text for part in parts)


def test_names_citations_and_rows_of_measured_numbers_say_what_they_are(averaged):
    assert len(averaged) > 300
    for record in [one.record for one in averaged] + [one.records[0] for one in averaged]:
        assert says_what_it_is(citation.citation(record), record)
        assert "Not a number of the paper" in citation.citation(record)
        assert citation.value_text(record) in citation.citation(record)
        assert says_what_it_is(citation.cell(record), record)
        note = citation.bibtex(record).split("@software")[1].replace("\\_", "_")
        assert says_what_it_is(note, record)
        assert "not printed in the paper" in note
        names = (citation.quantity(record), citation.model_text(record), citation.place(record))
        for text in (*names, citation.cell(record), *citation.setting(record)):
            assert not re.search("ImageNet|COCO|ARO|ObjectNet", text), text
            assert text != record["model"]


def test_search_finds_measured_numbers_only_where_words_ask_for_them(averaged):
    published, _ = terminal.cite_report(["L/16", "resize", "64"])
    assert not WRITTEN.search(published)
    for words in (
        ["measured", "L/16", "resize", "64"],
        ["micro-v1", "table", "11"],
        ["micro-v1", "imagenet"],
    ):
        text, _ = terminal.cite_report(words)
        for line in text.splitlines():
            if WRITTEN.search(line):
                assert "measured here at scale micro-v1: pictograms/v1/" in line
                assert "stand-in, " in line


@pytest.mark.parametrize(
    "words", ["S/16 baseline", "L/16 resize 64 finetune", "B/16 resize 112 truncation 16"]
)
def test_the_answer_for_a_measured_number_says_what_it_is(averaged, words):
    text, code = terminal.cite_report(["measured", *words.split()])
    assert code == 0
    plain = " ".join(text.split())
    assert "ImageNet" not in plain.replace("on ImageNet-1k [15]", "")
    for one in averaged:
        if f" {one.id} " in plain and plain.startswith(citation.value_text(one.record)):
            assert says_what_it_is(plain.partition(" more in other settings")[0], one.record)


def rows_of(page: Node) -> list[Node]:
    return [row for table in page.all("table") for body in table.all("tbody") for row in body.all("tr")]


def test_the_page_of_numbers_keeps_them_apart(averaged):
    page = read((ROOT / "docs" / "numbers.html").read_text(encoding="utf-8"))
    by_id = {one.id: one.record for one in averaged}
    (table,) = [node for node in page.all("table") if node.attributes["id"] == "measured-table"]
    found = [row for row in rows_of(page) if row.attributes["id"] in by_id]
    assert len(found) == len(averaged)
    assert {id(row) for row in found} == {id(row) for row in table.all("tbody")[0].all("tr")}
    for row in found:
        assert says_what_it_is(row.text, by_id[row.attributes["id"]]), row.text
        assert "ImageNet" not in row.text
        # What the script of the page copies is made from these cells.
        place, sample = (row.of_class("p")[0].all(name)[0].text for name in ("b", "span"))
        value, quantity, model = (row.of_class(name)[0].text.replace("‑", "-") for name in "vqo")
        copied = f"{value}: {quantity}, {model}, {sample} ({place}; record {row.attributes['id']} of "
        assert citation.citation(by_id[row.attributes["id"]]).startswith(copied)
    inside = {id(node) for node in every(table)}
    for node in every(page):
        if id(node) in inside or node.name in ("html", "body", "main", "section", "table", "script", "style"):
            continue
        own = "".join(child for child in node.children if isinstance(child, str))
        if WRITTEN.search(own) and node.name in ("td", "th", "b", "small", "span", "a"):
            assert node.name == "b", own  # verdicts on claims: what the tables give, with their rounding


def test_the_page_to_explore_keeps_them_apart(averaged):
    page = read((ROOT / "docs" / "law.html").read_text(encoding="utf-8"))
    by_id = {one.id: one.record for one in averaged}
    for table in page.all("table"):
        scale = table.attributes["data-source"]
        for row in table.all("tbody")[0].all("tr"):
            identity = row.all("a")[0].text
            assert (identity in by_id) == (scale != "published")
            if identity in by_id:
                assert says_what_it_is(row.text, by_id[identity]), row.text
                assert f"at scale {scale}" in row.text
                assert not re.search("ImageNet|Table", row.text), row.text
            else:
                assert not re.search("stand-in|pictograms|measured|seed", row.text), row.text
    for panel in page.of_class("panel"):
        caption = panel.all("figcaption")[0].text
        measured = "measured" in panel.attributes["class"].split()
        assert (
            "Measured here at scale" in caption and "stand-ins" in caption and "n = " in caption
        ) == measured
        assert ("ImageNet-1k" in caption) != measured


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tables").rglob("*.tex")), ids=lambda path: path.as_posix()[-24:]
)
def test_tables_keep_them_apart(path):
    text = path.read_text(encoding="utf-8")
    measured = path.parent.name in recorded_scales()
    cells = [line for line in text.splitlines() if " & " in line and r"\pm" in line]
    if not measured:
        assert not WRITTEN.search(text)
        return
    assert cells
    for line in cells:
        for cell in line.split(" & "):
            # No cell has a measured number and one of the paper.
            assert not (WRITTEN.search(cell) and re.search(r"\(\d+\.\d+\)", cell)), cell
    caption = text[text.index(r"\caption") :]
    for part in ("measured", "stand-in", path.parent.name, "pictograms", "$n = "):
        assert part in caption, part
    assert "Headings are the paper's coordinates" in caption
    assert "ImageNet" not in caption


def test_the_command_line_names_the_scale_of_measured_verdicts():
    for line in terminal.claims_report("micro-v1", None, False).splitlines():
        assert not WRITTEN.search(line)
    assert "records measured at scale micro-v1" in terminal.claims_report("micro-v1", None, False)
