"""docs/numbers.html: what it shows and carries, and that it loads nothing. In a browser: test_numbers_browser.py."""

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipa.published import citation
from clipa.published.claims import Evaluation
from clipa.published.derived import derived_records
from clipa.published.errata import ROUNDING, about, errata_of
from clipa.published.measured import means, recorded, scales_of
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
    (table,) = [node for node in page.all("table") if node.attributes.get("id") == "measured-table"]
    return table.all("tbody")[0].all("tr")


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
def packed(static) -> dict:
    """What the page carries packed, by the id of its script element."""
    found = {}
    for node in static.all("script"):
        if node.attributes.get("type") == "application/octet-stream":
            found[node.attributes["id"]] = json.loads(gzip.decompress(base64.b64decode(node.text)))
    return found


def packed_rows(packed: dict, name: str) -> list[Node]:
    return read(f"<table>{packed['packed'][name]}</table>").all("tr")


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


def test_every_measured_record_has_a_row_of_its_own(packed):
    by_id = {row.attributes["id"]: row for row in packed_rows(packed, "seeds")}
    accepted = [record for scale in recorded_scales() for record in recorded(scale)]
    assert set(by_id) == {record["id"] for record in accepted}
    for record in accepted:
        assert by_id[record["id"]].of_class("v")[0].text == citation.value_text(record)
        assert f"seed {record['seed']}" in by_id[record["id"]].of_class("p")[0].text


def test_every_derived_number_has_a_row_with_formula_and_conflicts(packed, records):
    by_id = {row.attributes["id"]: row for row in packed_rows(packed, "derived")}
    derived = derived_records(records)
    assert len(derived) == len(by_id) == 630
    published = {record["id"]: record for record in records}
    errata = [erratum for erratum in errata_of(Evaluation(records)) if erratum.kind != ROUNDING]
    with_conflicts = 0
    for record in derived:
        row = by_id[record["id"]]
        assert row.of_class("v")[0].text == citation.value_text(record)
        place = row.of_class("p")[0]
        assert f"derived from {citation.place(record)}" in place.text and record["formula"] in place.text
        assert place.of_class("ids")[0].text.split() == record["rests_on"]
        own = {one.id for identity in record["rests_on"] for one in about(published[identity], errata)}
        assert {link.attributes["href"] for link in row.of_class("erratum")} == {f"#{name}" for name in own}
        with_conflicts += bool(own)
    assert with_conflicts > 100


def test_tables_are_there_as_printed_and_each_number_leads_to_its_record(packed, records):
    panels = [read(text) for text in packed["packed"]["printed"]]
    assert [panel.all("details")[0].attributes["id"] for panel in panels] == [
        f"printed-table{number}" for number in range(1, 16)
    ]
    by_id = {record["id"]: record for record in records}
    linked = [link for panel in panels for link in panel.all("a")]
    names = [link.attributes["href"].removeprefix("#") for link in linked]
    in_tables = {name: record for name, record in by_id.items() if record["table"] is not None}
    # A lost gain has no bracket behind the number that could lead to it.
    lost = {name for name, record in in_tables.items() if name.endswith("_gain") and record["value"] is None}
    assert sorted(names) == sorted(set(in_tables) - lost)
    for name, link in zip(names, linked, strict=True):
        record = by_id[name]
        if isinstance(record["value"], (int, float)) and record["unit"] in ("percent", "GPU hours"):
            (digits,) = re.findall(r"^[\d.]+", link.text.replace("lost", ""))
            assert float(digits) == record["value"], name


def test_citations_of_the_page_are_those_of_the_command_line(packed, records):
    carried = packed["packed"]
    measured = [record for scale in recorded_scales() for record in recorded(scale)]
    known = {r["id"]: r for r in [*records, *derived_records(records), *measured]}
    known |= {one.id: one.record for one in means(measured)}
    identities = [identity for identity, *_ in carried["search"]["records"]]
    assert sorted(identities) == sorted(known)
    for identity, text in zip(identities, carried["citations"], strict=True):
        assert text == citation.citation(known[identity])


def test_links_on_the_page_lead_somewhere(static, packed):
    parts = [
        *packed["packed"]["printed"],
        *(packed["packed"][name] for name in ("plotted", "derived", "seeds")),
    ]
    pages = [static, *(read(f"<div>{part}</div>") for part in parts)]
    ids = [node.attributes["id"] for page in pages for node in every(page) if node.attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [link for page in pages for link in page.all("a")]
    targets = {link.attributes["href"] for link in links if "href" in link.attributes}
    assert {target for target in targets if not target.startswith("#")} == {"law.html"}
    assert {target.removeprefix("#") for target in targets - {"law.html"}} <= set(ids)
    rested = packed["packed"]["restsOn"]
    assert set(rested) <= set(ids) and len(rested) > 200
    assert max(position for positions in rested.values() for position in positions) < len(
        packed["packed"]["search"]["records"]
    )


def test_anchors_of_errata_are_those_of_the_page_of_errata(static):
    page = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    there = re.findall(r'(?m)^### <a id="([^"]+)"></a>', page)
    here = [article.attributes["id"] for article in static.all("article")]
    assert set(here) <= set(there) and len(here) > 50


def test_nothing_is_loaded_from_elsewhere(page, static):
    for node in every(static):
        assert node.name not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in node.attributes
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|//[a-z.-]+\.(?:com|org|net|io)/", html)
    assert len(html.encode()) < 1_600_000


def test_page_is_accessible_without_and_with_script(static):
    published, _, measured = static.all("thead")
    for head, of_table in ((published, rows(static)), (measured, measured_rows(static))):
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


def test_claims_and_errata_are_all_there(static, packed, records):
    carried = packed["packed"]
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
        assert [carried["search"]["records"][at][0] for at in carried["restsOn"].get(entry.anchor, ())] == [
            *entry.result.rests_on
        ]
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
            assert line in articles[erratum.id].text
    concerned = [row for row in rows(static) if row.of_class("erratum")]
    assert {row.attributes["id"] for row in concerned} == {
        record["id"]
        for record in records
        if (record["table"] is not None or record["value"] is not None) and about(record, errata)
    }


def test_text_of_records_cannot_become_markup(records):
    evil = '<script>alert("1")</script> & "x"'
    first = next(record for record in records if record["id"] == "table1.OpenAI-B16.imagenet1k.acc1")
    changed = {**first, "note": evil, "model": evil}
    html = numbers_page.render([changed if record is first else record for record in records], {})
    assert evil not in html
    page = read(html)
    (row,) = [row for row in rows(page) if row.attributes["id"] == first["id"]]
    assert row.of_class("o")[0].text == evil
    assert evil in row.of_class("s")[0].text


def test_same_records_give_the_same_bytes(page, tmp_path):
    """In another process, so with other hashes of strings."""
    out = str(tmp_path / "again.html")
    code = f"from pathlib import Path; from clipa.render.numbers_page import write; write(Path({out!r}))"
    environment = {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def unpacked(page: Path) -> str:
    """The page with its packed parts as text: another zlib packs the same text to other bytes."""
    return re.sub(
        r'(octet-stream" id="[^"]+">)([^<]+)',
        lambda found: found[1] + gzip.decompress(base64.b64decode(found[2])).decode(),
        page.read_text(encoding="utf-8"),
    )


def test_stored_page_is_what_the_records_give(page):
    stored = ROOT / "docs" / "numbers.html"
    assert unpacked(stored) == unpacked(page), "old: python -m clipa numbers --output docs/numbers.html"
