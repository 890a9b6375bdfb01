"""docs/numbers.html, also in a browser: what it shows, filters, sorts and copies, and that it loads nothing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import chromium
from clipa.published import citation
from clipa.published.claims import Evaluation
from clipa.published.errata import ROUNDING, about, errata_of
from clipa.published.measured import means, recorded, scales_of
from clipa.published.search import matches, record_terms, terms_of
from clipa.records import published_records, recorded_scales
from clipa.render import numbers_page
from html_tree import Node, every, read

ROOT = Path(__file__).resolve().parent.parent
RESIZE64 = "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1"


def rows(page: Node) -> list[Node]:
    """Of the table of published numbers."""
    return page.all("tbody")[0].all("tr")


def measured_rows(page: Node) -> list[Node]:
    """Of the table of measured numbers, which is another one."""
    return page.all("tbody")[1].all("tr")


def visible(page: Node) -> list[str]:
    return [
        row.attributes["id"] for row in [*rows(page), *measured_rows(page)] if "hidden" not in row.attributes
    ]


@pytest.fixture(scope="module")
def records():
    return published_records(ROOT / "results" / "published")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return numbers_page.write(tmp_path_factory.mktemp("page") / "numbers.html")


@pytest.fixture(scope="module")
def static(page) -> Node:
    return read(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def browse(page, tmp_path_factory):
    """The page as Chromium has it after its script has run; None without Chromium, outside of CI."""
    profile = tmp_path_factory.mktemp("chromium")

    def dom(address: str, script: str = "") -> Node | None:
        shown = chromium.scripted(page, script) if script else page
        found = chromium.document(shown.as_uri() + address, profile)
        return None if found is None else read(found[0])

    return dom


# -------------------------------------------------------------------------------------------- without a browser


def test_every_published_number_has_a_row_that_says_it(static, records):
    by_id = {row.attributes["id"]: row for row in rows(static)}
    assert len(by_id) == len(rows(static))
    for record in records:
        if record["value"] is None and record["table"] is None:
            assert record["id"] not in by_id
            continue
        row = by_id[record["id"]]
        assert row.of_class("v")[0].text.startswith(citation.value_text(record))
        assert row.of_class("o")[0].text == (record["model"] or "")
        assert citation.place(record) in row.of_class("p")[0].text
        if record["row"]:
            assert f"{record['row']} {record['column']}" in row.of_class("p")[0].text
        if record["note"]:
            assert record["note"] in row.of_class("s")[0].text
        if citation.printed_differently(record):
            assert f"printed “{record['printed']}”" in row.of_class("v")[0].text


def test_a_published_row_leads_to_its_measured_counterpart_and_shows_no_number_of_it(static):
    by_id = {row.attributes["id"]: row for row in [*rows(static), *measured_rows(static)]}
    micro = recorded("micro-v1")
    values = [
        record["value"]
        for record in micro
        if (record["run"], record["stage"]) == ("L16-resize64-truncation32", "finetune")
        and record["benchmark"] == "imagenet1k"
    ]
    mean = sum(values) / len(values)
    error = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
    assert len(values) >= 3
    (link,) = counterparts(by_id[RESIZE64])
    assert link.text == "counterpart at micro-v1"
    own = by_id[link.attributes["href"].removeprefix("#")]
    assert own in measured_rows(static)
    assert own.of_class("v")[0].text == f"{mean:.1f} ± {error:.1f} %"
    assert own.of_class("o")[0].text == "L/16 stand-in, 0.5 M"
    assert own.of_class("q")[0].text == "pictograms/v1/plain, top‑1 accuracy"
    assert own.of_class("p")[0].text == f"measured here at scale micro-v1 n = 4000, {len(values)} seeds"
    assert "imagenet1k in the id: pictograms/v1/plain in its place" in own.of_class("i")[0].text


def counterparts(row: Node) -> list[Node]:
    return [link for link in row.of_class("p")[0].all("a") if link.text.startswith("counterpart")]


def test_another_recipe_is_no_counterpart(records):
    """Tables 1, 6 and 7 have this run with recipes; Table 7's baseline is the study's."""
    run = "L16-resize64-truncation16"
    (like,) = [one for one in recorded("micro-v1") if one["run"] == "L16-resize64-truncation32"][:1]
    record = {**like, "run": run, "stage": "finetune", "text_tokens": 16}
    record["id"] = f"micro-v1.{run}.finetune.imagenet1k.acc1.seed0"

    def filled(one: dict) -> list[str]:
        page = read(numbers_page.render(records, {"micro-v1": [one]}))
        assert [row.attributes["id"] for row in measured_rows(page)] == [one["id"].removesuffix(".seed0")]
        return [row.attributes["id"] for row in rows(page) if counterparts(row)]

    assert filled(record) == ["table7.baseline.finetune.imagenet1k.acc1"]
    other = {
        **record,
        "recipe": "clipa-batch7k",
        "id": f"micro-v1.{run}-clipa-batch7k.finetune.imagenet1k.acc1.seed0",
    }
    cases = ("gap-jitter-batch7k", "gap-jitter-pytorch-batch7k")  # one implementation here
    assert filled(other) == [
        "table1.L16-resize64-truncation16.finetune.imagenet1k.acc1",
        *(f"table7.{case}.finetune.imagenet1k.acc1" for case in cases),
    ]


def test_every_measured_record_has_an_anchor(static):
    anchors = {span.attributes.get("id") for row in measured_rows(static) for span in row.all("span")}
    for scale in recorded_scales():
        for record in recorded(scale):
            assert record["id"] in anchors


def test_links_on_the_page_lead_somewhere(static):
    ids = [node.attributes["id"] for node in every(static) if node.attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = {link.attributes["href"] for link in static.all("a") if "href" in link.attributes}
    assert {target for target in targets if not target.startswith("#")} == {"law.html"}
    assert {target.removeprefix("#") for target in targets - {"law.html"}} <= set(ids)
    rested = {identity for paragraph in static.of_class("ids") for identity in paragraph.text.split()}
    assert rested
    assert rested <= set(ids)


def test_nothing_is_loaded_from_elsewhere(page, static):
    for node in every(static):
        assert node.name not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in node.attributes
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|//[a-z.-]+\.(?:com|org|net|io)/", html)
    assert len(html.encode()) < 1_600_000


def test_page_is_accessible_without_and_with_script(static):
    for head, of_table in zip(static.all("thead"), (rows(static), measured_rows(static)), strict=True):
        heads = head.all("th")
        assert all(head.attributes["scope"] == "col" and head.text for head in heads)
        for row in of_table:
            assert len([child for child in row.children if isinstance(child, Node)]) == len(heads)
    assert static.all("html")[0].attributes["lang"] == "en"
    labelled = {node.attributes.get("for") for node in static.all("label")}
    for field in [*static.all("input"), *static.all("select")]:
        inside = any(field in label.all(field.name) for label in static.all("label"))
        assert inside or field.attributes["id"] in labelled
    assert "hidden" in static.all("form")[0].attributes
    assert all("hidden" not in row.attributes for row in rows(static))


def test_claims_and_errata_are_all_there(static, records):
    evaluation = Evaluation(records)
    scales = scales_of(evaluation, recorded_scales())
    claims = numbers_page.claim_entries(evaluation, scales)
    items = {item.attributes["id"]: item for item in static.of_class("claims")[0].all("li")}
    assert len(items) == len(claims) > 150
    for entry in claims:
        item, claim = items[entry.anchor], entry.result.claim
        assert item.attributes["data-verdict"] == entry.result.verdict
        formula = " ".join((claim.formula or "").split())
        for text in (
            claim.quote,
            claim.states or "",
            entry.result.computed,
            formula,
            entry.cost,
            claim.why or "",
        ):
            assert text in item.text
        assert (" ".join(entry.result.rests_on)) in item.text
        for one in entry.measured:
            assert f"Measured at {one.scale}: {one.verdict}" in item.text
    assert any(entry.measured for entry in claims)
    assert sum(bool(entry.cost) for entry in claims) > 100
    listed = static.of_class("not-claims")[0].all("li")
    assert len(listed) == len(evaluation.content.not_claims)
    for item, entry in zip(listed, evaluation.content.not_claims, strict=True):
        assert entry.quote in item.text
    articles = {article.attributes["id"]: article for article in static.all("article")}
    errata = [erratum for erratum in errata_of(evaluation) if erratum.kind != ROUNDING]
    assert len(articles) == len(errata)
    for erratum in errata:
        for line in (*erratum.says, *erratum.sentences):
            assert line in articles[f"erratum-{erratum.id}"].text
    concerned = [row for row in rows(static) if row.of_class("erratum")]
    assert {row.attributes["id"] for row in concerned} == {
        record["id"]
        for record in records
        if (record["table"] is not None or record["value"] is not None) and about(record, errata)
    }


def test_text_of_records_cannot_become_markup(records):
    evil = '<script>alert("1")</script> & "x"'
    record = {
        **records[0],
        "id": "table1.evil.gpu_hours",
        "note": evil,
        "row": evil,
        "model": evil,
        "same_as": [],
    }
    html = numbers_page.render([*records, record], {})
    assert evil not in html
    page = read(html)
    (row,) = [row for row in rows(page) if row.attributes["id"] == record["id"]]
    assert row.of_class("o")[0].text == evil
    assert evil in row.of_class("s")[0].text
    assert evil in row.of_class("p")[0].text


def test_same_records_give_the_same_bytes(page, tmp_path, monkeypatch):
    out = str(tmp_path / "again.html")
    code = f"from pathlib import Path; from clipa.render.numbers_page import write; write(Path({out!r}))"
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": seed},
        )
        assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_stored_page_is_what_the_records_give(page):
    stored = ROOT / "docs" / "numbers.html"
    assert stored.read_bytes() == page.read_bytes(), "old: python -m clipa numbers --output docs/numbers.html"


# ------------------------------------------------------------------------------------------------ in a browser


QUERIES = [
    "",
    "L/16 resize 64",
    "l16 resized to 64×64, fine-tuned",
    "OpenCLIP-B/32 imagenet-v2",
    "synt",
    "syntx",
    "base",
    "quantum",
    "83.0",
    "4,600",
    "25%",
    "L16-resize64-truncation32",
    RESIZE64.upper(),
    "ViT-B/16, random masking to 16 tokens; fine-tuned",
    "coco image retrieval 112x112",
    "text-to-image retrieval Flickr",
    "(I37,T8) sketch",
    "Tab. 4 params",
    "gpu hours of the OpenAI models",
    "learning rate",
    "negclip coco-order",
    "H/14 DataComp 336 px mask 40",
]


def test_browser_finds_what_the_command_finds(browse, records):
    """Terms and matches in JavaScript are those of `clipa.published.search`, over the very same records."""
    script = f"""
      const answers = {json.dumps(QUERIES)}.map((query) => {{
        document.getElementById("q").value = query;
        document.getElementById("bar").dispatchEvent(new Event("input"));
        return [
          [...document.querySelectorAll("#table tbody tr:not([hidden])")].map((row) => row.id),
          document.getElementById("count").textContent,
          document.getElementById("nothing").hidden,
        ];
      }});
      document.body.dataset.answers = JSON.stringify(answers);
    """
    page = browse("?source=published", script)
    if page is None:
        return
    answers = json.loads(page.all("body")[0].attributes["data-answers"])
    shown = [record for record in records if record["value"] is not None or record["table"] is not None]
    have = {record["id"]: record_terms(record) for record in shown}
    counts = []
    for query, (ids, count, nothing_hidden) in zip(QUERIES, answers, strict=True):
        terms = terms_of(query)
        expected = [name for name in have if all(matches(term, have[name], name.lower()) for term in terms)]
        assert ids == expected, query
        assert count.split()[0] == f"{len(expected):,}"
        assert nothing_hidden == bool(expected)
        counts.append(len(expected))
    assert counts[0] == len(shown)
    assert counts.count(0) == 2
    assert min(count for count in counts if count) == 1


def test_browser_filters_and_sorts(browse):
    page = browse("?place=table11&model=L/16&stage=finetune&sort=value-")
    if page is None:
        return
    shown = visible(page)
    assert len(shown) == 17
    values = [
        float(row.attributes.get("data-v", "-inf"))
        for row in rows(page)
        if row.attributes["id"] in set(shown)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == 69.5
    # Published and measured numbers stand in two tables, and both are sorted.
    heads = [head for head in page.all("th") if "aria-sort" in head.attributes]
    assert len(heads) == 2
    for head in heads:
        assert head.attributes == {**head.attributes, "aria-sort": "descending", "data-sort": "value"}


def test_browser_highlights_the_number_of_the_address(browse):
    page = browse(f"?q=OpenCLIP#{RESIZE64}")
    if page is None:
        return
    found = [row for row in rows(page) if "found" in (row.attributes.get("class") or "").split()]
    assert [row.attributes["id"] for row in found] == [RESIZE64]
    # Shown although the filter would leave it out, and nothing else is.
    shown = visible(page)
    assert RESIZE64 in shown
    assert all("OpenCLIP" in identity for identity in shown if identity != RESIZE64)
    assert not {row.attributes["id"] for row in measured_rows(page)} & set(shown)


def test_browser_copies_the_citation_of_a_measured_number(browse):
    one = next(one for one in means(recorded("micro-v1")) if "L16-resize64-truncation32.finetune" in one.id)
    script = f"""
      navigator.clipboard.writeText = async (text) => {{ document.body.dataset.copied = text; }};
      document.getElementById({one.id!r}).querySelector("button.copy").click();
    """
    page = browse("", script)
    if page is not None:
        assert page.all("body")[0].attributes["data-copied"] == citation.citation(one.record)


def test_browser_copies_the_citation_and_remembers_the_search(browse, records):
    script = f"""
      navigator.clipboard.writeText = async (text) => {{ document.body.dataset.copied = text; }};
      document.getElementById({RESIZE64!r}).querySelector("button.copy").click();
      document.getElementById("q").value = "G/14 83.0";
      document.getElementById("bar").dispatchEvent(new Event("input"));
      document.querySelector('th[data-sort="model"] button').click();
      document.body.dataset.address = location.search;
      document.querySelector('#verdicts [data-verdict="contradicted"]').click();
      document.querySelector(".claims li:not([hidden]) details").open = true;
    """
    page = browse("", script)
    if page is None:
        return
    (body,) = page.all("body")
    (record,) = [record for record in records if record["id"] == RESIZE64]
    assert body.attributes["data-copied"] == citation.citation(record)
    assert visible(page) == [
        "table2.G14-resize84-truncation8-datacomp1b-12.8B-512M-128M.finetune.imagenet1k.acc1"
    ]
    assert body.attributes["data-address"] == "?q=G%2F14+83.0&sort=model"
    shown = [item for item in page.of_class("claims")[0].all("li") if "hidden" not in item.attributes]
    assert {item.attributes["data-verdict"] for item in shown} == {"contradicted"}
    assert shown[0].of_class("ids")[0].all("a")
