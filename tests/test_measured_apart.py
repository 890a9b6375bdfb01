"""No measured number can be taken for one of the paper: in no page, table of LaTeX or output of the command line.

A measured number is one of an accepted record or of a mean over seeds, as this artifact prints it: `15.6 ± 1.9`. In
pages that people write it is any percentage or number of points that is not one of the paper's.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipa.published import citation
from clipa.published.derived import derived_records
from clipa.published.measured import means, recorded
from clipa.records import published_records, recorded_scales
from clipa.render import terminal
from html_tree import Node, every, read

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = re.compile(r"\d+\.\d(?:\$?\s*(?:±|\\pm)\s*)\d+\.\d")
"""A measured number wherever it is printed. Derived ones have this form, too; they stand in a table of their own."""


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
        # The citation says what these cells say.
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


def test_what_the_page_carries_packed_keeps_them_apart():
    html = (ROOT / "docs" / "numbers.html").read_text(encoding="utf-8")
    text = re.search(r'id="packed">([^<]+)', html)[1]
    carried = json.loads(gzip.decompress(base64.b64decode(text)))
    known = {record["id"]: record for scale in recorded_scales() for record in recorded(scale)}
    seeds = read(carried["seeds"]).all("tr")
    assert {row.attributes["id"] for row in seeds} == set(known)
    for row in seeds:
        assert says_what_it_is(row.text, known[row.attributes["id"]]), row.text
        assert "ImageNet" not in row.text
    for row in read(carried["derived"]).all("tr"):
        assert row.attributes["id"].startswith("derived.")
        assert row.of_class("p")[0].text.startswith("derived from Table ")
    assert not WRITTEN.search(carried["plotted"] + "".join(carried["printed"]))


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


# ------------------------------------------------------------------------------------- pages that people write

GENERATED = {
    "claims.md",
    "errata.md",
}  # from claims and records; their numbers are checked where they are made
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in GENERATED),
]
NUMBER = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)(?: ± [\d.]+| ?%| points\b)")
ABOUT_ACCURACY = re.compile(r"accurac|\bdrops?\b|top-1|recall@1|\bpoints\b|± \d")
SAYS_MEASURED = re.compile(r"\bmeasured|micro|\bmini\b|pictogram|stand-in|small scale")
SAYS_PAPER = re.compile(r"the paper|Tables? \d|§\d|Figures? \d|published|clipa cite")
OF_THE_PAPER = re.compile("ImageNet|COCO|Flickr30k|ObjectNet|VTAB")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Paragraphs, lists, tables and code blocks, each with its headings and its section's first paragraph."""
    headings: list[tuple[int, str]] = []
    first = ""
    for block in re.split(r"\n\s*\n(?=(?:[^`]*```[^`]*```)*[^`]*\Z)", text):
        if (heading := re.match(r"(#+) (.*)\n?", block)) is not None:
            level = len(heading[1])
            headings = [one for one in headings if one[0] < level] + [(level, heading[2])]
            # What a whole page is about is in its title; a section's beginning holds for the section.
            first, block = "", block[heading.end() :]
        if block.strip():
            yield block, " ".join([*(name for _, name in headings), first])
            first = first or (block if len(headings) > 1 else "")


def doubtful(text: str, printed: set[str]) -> list[str]:
    """Numbers of a page, with the words before, that do not say whose they are. `printed`: the paper's numbers."""
    found = []
    for block, around in blocks(text):
        if not ABOUT_ACCURACY.search(block):
            continue
        measured = SAYS_MEASURED.search(f"{around} {block}")
        for number in NUMBER.finditer(block):
            own = SAYS_PAPER.search(block) and f"{float(number[1]):g}" in printed
            names = OF_THE_PAPER.search(block) and not own and "pictogram" not in block
            if not (measured or own) or (names and WRITTEN.match(block, number.start())):
                found.append(f"…{block[max(0, number.start() - 60) : number.end()]}".replace("\n", " "))
    return found


@pytest.fixture(scope="module")
def printed():
    """The paper's numbers, and what is derived from them, to the digits that a sentence has."""
    published = published_records()
    numbers = {r["value"] for r in published if isinstance(r["value"], (int, float))}
    numbers |= {abs(round(record["value"], 1)) for record in derived_records(published)}
    return {f"{number:g}" for number in numbers}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_that_people_write_say_whose_their_numbers_are(page, printed):
    assert not doubtful(page.read_text(encoding="utf-8"), printed)


@pytest.mark.parametrize(
    ("text", "how_many"),
    [
        ("# The law\n\nL/16 reaches an accuracy of 15.6 ± 1.9 % with 17 tokens.", 1),
        ("# The law\n\nBy Table 11, the drop of L/16 is 12.4 points.", 1),
        ("# The law\n\nMeasured at micro-v1, L/16 has an ImageNet accuracy of 15.6 ± 1.9 %.", 1),
        ("# The law\n\n## Measured here\n\nText.\n\n## Accuracy\n\nL/16 drops by 28.4 points.", 1),
        ("# The law\n\n```text\nAccuracy, %\n\n  full  33.0 ± 6.7  39.1 ± 3.6\n```", 2),
        ("# The law\n\nBy Table 11, L/16 has an accuracy of 66.2 %, a drop of 3.0 points.", 0),
        ("# The law\n\n## At micro-v1\n\nIt varies.\n\nL/16 has an accuracy of 15.6 ± 1.9 %.", 0),
    ],
)
def test_a_number_that_does_not_say_whose_it_is_would_be_found(text, how_many, printed):
    assert len(doubtful(text, printed)) == how_many
