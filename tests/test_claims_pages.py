"""docs/claims.md, docs/errata.md and what `clipa claims` prints: complete, linked, computed, the same each time."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from clipa.claims import CONTRADICTED, VERDICTS, WITHIN, check, report, write_pages
from clipa.claims.effort import calibrated, effort, seconds_of
from clipa.claims.errata import errata_page
from clipa.claims.judged import judge_all
from clipa.claims.markdown import in_cell, plain
from clipa.claims.pages import claims_page
from clipa.records import RecordError, published_records

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def judged():
    return judge_all()


@pytest.fixture(scope="module")
def pages(judged):
    return {"claims.md": claims_page(judged), "errata.md": errata_page(judged)}


@pytest.fixture(scope="module")
def records():
    return {record["id"]: record for record in published_records()}


def anchors(page):
    return re.findall(r'<a id="([^"]+)"></a>', page)


# ----------------------------------------------------------------------------------------------------------- pages


def test_the_pages_in_docs_are_what_the_records_give(tmp_path):
    for path in write_pages(tmp_path):
        assert path.read_bytes() == (DOCS / path.name).read_bytes(), "run: clipa claims --write docs"


def test_every_claim_has_its_row(judged, pages):
    assert sorted(anchors(pages["claims.md"])) == sorted(result.claim.id for result in judged.results)


def test_errata_has_every_claim_that_does_not_plainly_hold_and_every_conflict(judged, pages):
    expected = [r.claim.id for r in judged.results if r.verdict in (CONTRADICTED, WITHIN)]
    expected += [conflict.id for conflict in judged.content.conflicts]
    assert sorted(anchors(pages["errata.md"])) == sorted(expected)


def test_links_between_the_pages_lead_somewhere(pages):
    targets = {f"{name}#{anchor}" for name, page in pages.items() for anchor in anchors(page)}
    links = {
        link for page in pages.values() for link in re.findall(r"\]\(((?:claims|errata)\.md#[^)]+)\)", page)
    }
    assert links
    assert links <= targets


def test_every_row_has_the_cells_of_its_head(pages):
    for page in pages.values():
        width = 0
        for row in page.splitlines():
            if not row.startswith("|"):
                width = 0
                continue
            cells = len(re.findall(r"(?<!\\)\|", row)) - 1
            width = width or cells
            assert cells == width, row


def test_the_head_counts_what_follows(judged, pages):
    for verdict in VERDICTS:
        count = sum(result.verdict == verdict for result in judged.results)
        assert f"| {verdict} | {count} |" in pages["claims.md"]
    assert f"The {len(judged.results)} quantitative statements" in pages["claims.md"]


def test_every_number_that_is_no_claim_is_listed(judged, pages):
    listed = pages["claims.md"].split("## Numbers that are no claim")[1]
    for entry in judged.content.not_claims:
        assert in_cell(plain(entry.quote)) in listed


def test_a_contradicted_claim_shows_the_tables_number_and_it_is_computed(judged):
    name = "s5-L16-17-tokens-over-B16"
    cell = "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1"

    def entry(page):
        return page.split(f'<a id="{name}"></a>')[1].split("### ")[0]

    assert "**The sentence:** 2.5. **The tables (Table 11):** 2.0 ± 0.1." in entry(errata_page(judged))
    numbers = judged.published.with_value(cell, 66.1)
    changed = tuple(check(result.claim, numbers) for result in judged.results)
    assert "**The tables (Table 11):** 1.9 ± 0.1." in entry(errata_page(replace(judged, results=changed)))


def test_failing_comparisons_are_shown_with_both_numbers(pages):
    entry = pages["errata.md"].split('<a id="s4.2-below-1-percent-at-8"></a>')[1].split("### ")[0]
    assert "2 of 24 comparisons are false" in entry
    assert r"1.6 ± 0.1 \< 1 for m = S16, n = 8, r = random" in entry


def test_prose_does_not_turn_into_markdown():
    assert plain("~33 × 2 * 3 [67] a_b < c") == r"\~33 × 2 \* 3 \[67] a\_b \< c"
    assert in_cell("a | b\n c") == r"a \| b c"


# ---------------------------------------------------------------------------------------------------------- effort


def of_table(records, number):
    return effort(
        record for record in records.values() if record["table"] == number and record["value"] is not None
    )


@pytest.mark.parametrize(
    ("table", "pretrainings", "finetunings"),
    [(11, 45, 42), (12, 60, 60), (15, 60, 60), (6, 1, 5), (9, 1, 10), (10, 1, 6), (8, 4, 4), (1, 3, 3)],
)
def test_trainings_are_counted_once(records, table, pretrainings, finetunings):
    found = of_table(records, table)
    assert (found.runs, found.finetunings, found.uncounted) == (pretrainings, finetunings, 0)


def test_settings_and_models_of_others_cost_nothing(records):
    others = ["table4.L16.vision.layers", "table1.OpenCLIP-B16.imagenet1k.acc1", "table10.224px-128M.flops"]
    assert effort(records[identity] for identity in others).stages == ()


def test_convnext_and_negclip_are_named_as_not_counted(records):
    assert of_table(records, 13).uncounted == 2 * 5 + 2 * 4
    assert of_table(records, 14).uncounted == 1


def test_a_pretrained_model_needs_no_finetuning(records):
    found = effort([records["table11.S16-resize64-truncation32.pretrain.imagenet1k.acc1"]])
    assert [stage.kind for stage in found.stages] == ["pretrain"]


def test_hours_are_calibrated_on_table_1(records):
    rate = calibrated(records)
    for run, hours in (
        ("B16-resize112-truncation16", 444),
        ("L16-resize64-truncation16", 628),
        ("L16-resize96-truncation8", 826),
    ):
        compute = effort([records[f"table1.{run}.finetune.imagenet1k.acc1"]]).multiply_adds
        assert rate.low * compute <= hours * (1 + 1e-9)
        assert hours <= rate.high * compute * (1 + 1e-9)
    assert rate.low < rate.mean < rate.high < 2 * rate.low


def test_recorded_seconds_are_summed_over_stages_of_the_standard_runs_only(records):
    run = "S16-resize64-truncation32"
    recorded = {(run, "pretrain"): {0: 60.0, 1: 80.0}, (run, "finetune"): {0: 10.0, 1: 20.0}}
    needed = effort([records[f"table11.{run}.finetune.imagenet1k.acc1"]])
    assert seconds_of(needed, recorded) == 85.0
    assert seconds_of(needed, {(run, "pretrain"): {0: 60.0}}) is None
    clipa = "L16-resize64-truncation16"
    other = effort([records[f"table1.{clipa}.finetune.imagenet1k.acc1"]])
    assert seconds_of(other, {(clipa, "pretrain"): {0: 1.0}, (clipa, "finetune"): {0: 1.0}}) is None


# ---------------------------------------------------------------------------------------------------------- report


def test_the_report_lists_what_is_contradicted_in_100_columns(judged):
    text = report(None, None, False)
    assert max(map(len, text.splitlines())) <= 100
    for result in judged.results:
        assert (f"  {result.claim.id}   {result.claim.place}\n" in text) == (result.verdict == CONTRADICTED)
    for verdict, count in judged.verdicts.items():
        assert re.search(rf"^  {verdict} +{count}$", text, re.MULTILINE)


def test_the_report_on_a_scale_lists_what_was_measured(judged):
    text = report("micro", None, False)
    assert max(map(len, text.splitlines())) <= 100
    for name, found in judged.measured["micro"].items():
        assert (f"  {name}   " in text) == (found.verdict != "not attempted")
        assert found.verdict == "not attempted" or found.said.split(",")[0] in text.replace("\n      ", " ")


def test_the_report_as_json(judged):
    document = json.loads(report(None, WITHIN, True))
    assert document["verdicts"] == judged.verdicts
    assert [claim["id"] for claim in document["claims"]] == [
        result.claim.id for result in judged.results if result.verdict == WITHIN
    ]
    measured = json.loads(report("micro", None, True))
    assert [claim["id"] for claim in measured["claims"]] == list(judged.measured["micro"])
    assert all(claim["measured"]["scale"] == "micro" for claim in measured["claims"])


@pytest.mark.parametrize(
    ("scale", "verdict", "message"),
    [
        (None, "wrong", "'wrong' is no verdict on published numbers: holds, "),
        ("micro", "holds", "'holds' is no verdict on measured numbers: reproduced, "),
    ],
)
def test_a_verdict_that_does_not_exist(scale, verdict, message):
    with pytest.raises(ValueError, match=message):
        report(scale, verdict, False)


def test_a_scale_without_records():
    with pytest.raises(RecordError, match=r"no accepted records of scale 'nano'.*micro"):
        report("nano", None, False)
