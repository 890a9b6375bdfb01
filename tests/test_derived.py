"""Derived numbers: computed from the published records, each with a formula, and of a species of their own."""

import copy
import math
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from clipa.published import citation
from clipa.published.derived import KINDS, derived_records
from clipa.published.formulas import evaluate
from clipa.published.quantities import Published
from clipa.records import published_records
from clipa.schema import DerivedRecord, fault

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def published():
    return published_records(ROOT / "results" / "published")


@pytest.fixture(scope="module")
def derived(published):
    return {record["id"]: record for record in derived_records(published)}


def test_every_kind_has_records_of_the_type(published, derived):
    adapter = TypeAdapter(DerivedRecord)
    for kind in KINDS:
        assert derived_records(published, [kind])
    assert len(derived) == sum(len(derived_records(published, [kind])) for kind in KINDS) > 500
    for record in derived.values():
        adapter.validate_python(record)
        assert record["id"].startswith("derived.table")
        assert record["bounds"][0] <= record["value"] <= record["bounds"][1]


def test_a_derived_number_is_what_its_formula_gives(published, derived):
    numbers = Published(published)
    for record in derived.values():
        value, rests_on = evaluate(record["formula"], numbers)
        assert float(value.value) == record["value"]
        assert set(rests_on) <= set(record["rests_on"]) <= {one["id"] for one in published}


def test_drops_are_those_of_the_paper_s_tables(published, derived):
    """By plain subtraction of the two cells, for every drop; the baseline's cell is the other one."""
    values = {record["id"]: record["value"] for record in published}
    drops = {name: record for name, record in derived.items() if name.endswith("_drop")}
    for name, record in drops.items():
        reduced = name.removeprefix("derived.").removesuffix("_drop")
        (full,) = set(record["rests_on"]) - {reduced}
        assert record["value"] == pytest.approx(values[full] - values[reduced])
        assert not re.search(r"-(?:resize|random|grid|block)\d+-\w+32\.", full) or "table1" in full
    by_hand = {"L16-resize64-truncation32": 69.2 - 66.2, "S16-random16-truncation32": 56.7 - 47.5}
    for run, drop in by_hand.items():
        assert drops[f"derived.table11.{run}.finetune.imagenet1k.acc1_drop"]["value"] == pytest.approx(drop)


def test_slopes_are_least_squares(published, derived):
    """Against the normal equations, by hand, for the 64-pixel runs: drops 6.2, 4.3, 3.0 at 55, 141, 414 M."""
    x = [math.log10(size) for size in (55, 141, 414)]
    y = [6.2, 4.3, 3.0]
    mean = sum(x) / 3
    slope = sum((a - mean) * b for a, b in zip(x, y, strict=True)) / sum((a - mean) ** 2 for a in x)
    found = derived["derived.table11.resize64-truncation32.finetune.imagenet1k.acc1_drop_slope"]
    assert found["value"] == pytest.approx(slope, abs=1e-4)
    assert {f"table4.{m}.total.parameters" for m in ("S16", "B16", "L16")} <= set(found["rests_on"])


def test_another_cell_gives_another_derived_number(published):
    """Nothing is typed: every derived number that rests on a cell moves with it."""
    cell = "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1"
    changed = copy.deepcopy(published)
    for record in changed:
        if cell in (record["id"], *record["same_as"]):
            record["value"], record["printed"] = 60.2, "60.2"
    before = {record["id"]: record["value"] for record in derived_records(published, ["drop", "slope"])}
    after = {record["id"]: record["value"] for record in derived_records(changed, ["drop", "slope"])}
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {
        "derived.table11.L16-resize64-truncation32.finetune.imagenet1k.acc1_drop",
        "derived.table11.resize64-truncation32.finetune.imagenet1k.acc1_drop_slope",
    }


def test_a_derived_number_is_no_published_one(derived):
    record = derived["derived.table11.L16-resize64-truncation32.finetune.imagenet1k.acc1_drop"]
    assert "must be published or measured" in fault({"schema_version": 1, "records": [record]})
    text = citation.citation(record)
    assert text.startswith("3.0 ± 0.1 points: ImageNet-1k, top-1 accuracy, drop from full length, L/16")
    assert record["formula"] in text
    assert text.endswith("which does not print it)")
    assert "derived, not printed in the paper" not in text
    assert r"derived.table11" in citation.bibtex(record)
