"""The README shows what the software prints, and names commands that exist."""

import re
from pathlib import Path

import pytest

from clipa import recipes
from clipa.cli import parser
from clipa.published import claims
from clipa.render import terminal

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str, text: str = README) -> str:
    """The text block between the marks `<!-- name: begin … -->` and `<!-- name: end -->`."""
    found = re.search(rf"<!-- {name}: begin.*?-->\n```text\n(.*?)```\n<!-- {name}: end -->", text, re.S)
    assert found, name
    return found[1]


def test_the_verdict_table_is_what_is_computed():
    counts = terminal.claims_report(None, None, False).split("\nContradicted (")[0].strip() + "\n"
    assert block("claims") == counts


def test_the_number_is_cited_as_shown():
    text, code = terminal.cite_report(["L/16", "resize", "64", "finetune"], as_json=False, bibtex=False)
    assert code == 0 and block("cite") == text.split("\n\n")[0].strip() + "\n"


def test_the_models_are_as_shown():
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert block("models", method) == terminal.models_report() + "\n"


def test_the_recipes_are_as_shown():
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert block("recipes", method) == recipes.report() + "\n"


def test_every_verb_that_is_shown_exists():
    shown = re.findall(r"(?m)^(?:python -m )?clipa ([^#\n`]+)", README)
    assert len(shown) >= 4
    for line in shown:
        if line.strip() != "--help":
            assert parser().parse_args(line.split()).verb


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"(?m)^#+ (.*)$", README)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in anchors, anchor


@pytest.mark.parametrize("number", [1100, 218])
def test_counts_in_prose_are_counted(number):
    from clipa.records import published_records

    counted = {
        1100: sum(record["table"] is not None for record in published_records()),
        218: len(claims.load().claims),
    }
    assert counted[number] == number and str(number) in README
