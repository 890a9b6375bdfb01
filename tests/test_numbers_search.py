"""The page of numbers and `clipa cite` give the same rows and the same suggestions for the same query."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import chromium
from clipa.published.derived import derived_records
from clipa.published.measured import means, recorded
from clipa.published.search import (
    CHANGES,
    entries_of,
    nearest,
    search,
    species,
    species_asked_for,
    terms_of,
)
from clipa.published.search_data import search_data
from clipa.records import published_records, recorded_scales
from clipa.render import terminal

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = (ROOT / "src" / "clipa" / "render" / "numbers_search.js").read_text(encoding="utf-8")
PHRASINGS = [
    line.split("\t")[0]
    for line in (ROOT / "tests" / "cite_phrasings.tsv").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
MISTYPED = [
    "L/16 trunctation",
    "slpoe resize 64",
    "resise",
    "table 16",
    "L/16 resize 65 finetune",
    "L16-resize64-truncation33",
    "quantum",
    "60.27",
    "the paper",
    "measured L/16 rezise 64",
    "derived",
    # White space, digits and letters of which the two languages have different ideas.
    "L16\x1cresize\x8564\ufefffinetune",
    "٣tokens ²",
    "İ ΑΣ ﬁnetune",
    "99999999999999999999tokens",
]


@pytest.fixture(scope="module")
def entries():
    """All that can be searched, in the order of the page."""
    published = published_records(ROOT / "results" / "published")
    measured = [record for scale in recorded_scales() for record in recorded(scale)]
    return entries_of(
        [*published, *derived_records(published), *(one.record for one in means(measured)), *measured]
    )


@pytest.fixture(scope="module")
def page(entries, tmp_path_factory):
    """A page with the search and its data alone."""
    data = json.dumps(search_data(entries, recorded_scales())).replace("<", "\\u003c")
    file = tmp_path_factory.mktemp("search") / "search.html"
    file.write_text(
        f'<meta charset="utf-8"><script>{SCRIPT}\nconst searched = searchOver({data});</script>',
        encoding="utf-8",
    )
    return file


def asked_of_the_page(page, queries):
    script = f"""
      return {json.dumps(queries)}.map((query) => {{
        const terms = searched.termsOf(query), asked = searched.speciesAskedFor(terms);
        const those = searched.entries.filter((entry) => asked.has(entry.species));
        const {{ hits, further }} = searched.search(query, those);
        const close = hits.length ? null : searched.nearest(terms, those);
        const ids = (some) => some.map((entry) => entry.id);
        return [terms, ids(hits), ids(further), close && [close.near, close.ids, close.meant]];
      }});
    """
    with chromium.browser(page.parent / "chromium") as browser:
        return browser and browser.ask(page, script)


def asked_here(entries, query):
    terms = terms_of(query)
    asked = species_asked_for(terms, recorded_scales())
    those = [entry for entry in entries if species(entry.record) in asked]
    found = search([query], those)
    close = None if found.hits else nearest(terms, those)
    return [
        terms,
        [record["id"] for record in found.hits],
        [record["id"] for record in found.further],
        close and [close.near, close.ids, close.meant],
    ]


def compare(page, entries, queries):
    told = asked_of_the_page(page, queries)
    if told is not None:
        for query, own in zip(queries, told, strict=True):
            assert own == asked_here(entries, query), query


WORDS = sorted({word for query in PHRASINGS for word in query.split()})
MADE = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from([*CHANGES, "measured", "micro-v1", "L16-resize96", "vtab/dtd", "table15"]),
    st.from_regex(r"(L|resi|tok|synt|table|imagenet)[-/ ]?[0-9a-z]{0,3}%?", fullmatch=True),
    st.text(max_size=6),
)
QUERIES = st.lists(MADE, min_size=1, max_size=4).map(" ".join)


def made_queries() -> list[str]:
    """Queries that hypothesis makes; collected, since the browser takes seconds to start."""
    made: list[str] = []

    @settings(max_examples=120, phases=[Phase.generate], derandomize=True, database=None, deadline=None)
    @given(QUERIES)
    def collect(query: str) -> None:
        made.append(query)

    collect()
    return made


def test_page_and_command_line_find_the_same(page, entries):
    compare(page, entries, [*PHRASINGS, *MISTYPED, *made_queries()])


def test_the_command_searches_what_the_page_searches(entries, monkeypatch):
    """`clipa cite` reads the records of the species that a query asks for, in the page's order."""
    for query in ("L/16 resize 64", "slope drop resize 64", "derived", "measured S/16", "micro-v1 seed0"):
        asked = species_asked_for(terms_of(query), recorded_scales())
        read = [record["id"] for record in terminal._numbers_asked_for(query.split(), ())]
        assert read == [entry.record["id"] for entry in entries if species(entry.record) in asked]


def test_a_typo_has_a_suggestion_that_finds_something(entries):
    published = [entry for entry in entries if species(entry.record) == "published"]
    for query, meant in {
        "L/16 trunctation": "l/16 truncation",
        "B/16 fintune": "b/16 finetune",
        "OpenCILP": "openclip",
        "imagnet-v2": "imagenetv2",
    }.items():
        terms = terms_of(query)
        assert not search([query], published).hits
        close = nearest(terms, published)
        assert close.meant == meant and terms_of(meant) == meant.split()
        assert search([close.meant], published).hits
        text, code = terminal.cite_report(query.split())
        assert code == 1 and f"did you mean: clipa cite {meant}\n" in text


def test_patterns_are_read_alike_by_both_languages():
    data = search_data([], [])
    for pattern in [*data["patterns"].values(), *(pattern for pattern, _ in data["rewrites"])]:
        assert not re.search(r"\(\?(?![:=!])|\\[AZ]|(?<!\\)\$\w", pattern), pattern
