"""Tables of measured numbers: each in the place of the published one of its run, and nothing where none belongs."""

import re

import pytest

from clipa.plan import filling
from clipa.render.tables import TableError, render
from fabricated import measured_grid
from printed_latex import by_id, read_back, records_of


@pytest.fixture(scope="module")
def measured():
    return measured_grid({"resize112": (3, 3.2, 2), "resize64": (10, 7, 5)})


def test_measured_cells_stand_in_the_places_of_published_ones(measured):
    latex = render(11, records_of(11), measured)
    (table,) = read_back(latex)
    assert [row[2].text for row in table.rows] == ["197", "50", "17"]
    values = [
        r["value"] for r in measured if r["run"] == "L16-resize64-truncation32" and r["stage"] == "finetune"
    ]
    mean = sum(values) / 3
    error = (sum((value - mean) ** 2 for value in values) / 2 / 3) ** 0.5
    assert table.rows[2][8].text == f"${mean:.1f} \\pm {error:.1f}$"
    assert table.rows[0][3].text == "--" and "56.7" not in latex
    words = " ".join(latex.split())
    for part in (
        "measured at the micro-v1 scale on pictograms/v1/plain ($n = 4000$)",
        "not comparable with the paper's",
        "stand-ins of",
        "mean over 3 seeds",
        "over seeds",
        r"\label{tab:table11-micro-v1}",
    ):
        assert part in words
    assert not any(entry.bold for row in table.rows for entry in row) and "Bold" not in latex
    one = render(11, records_of(11), [record for record in measured if record["seed"] == 0])
    assert "mean over 1 seed $" in " ".join(one.split())
    assert "standard error over test items" in " ".join(one.split())


def test_tables_that_share_a_run_share_its_measured_number(measured):
    expected = read_back(render(11, records_of(11), measured))[0].rows[1][3:]
    (row,) = read_back(render(12, records_of(12), measured))[0].rows
    assert [entry.text for entry in row] == ["truncation", "112×112", "32", *(e.text for e in expected)]
    third = read_back(render(13, records_of(13), measured))[0]
    assert [above for above, *_ in third.heads[1:]] == ["ViT-S/16", "ViT-S/16", "ViT-B/16", "ViT-B/16"]
    assert [entry.text for entry in third.rows[1][1:]] == [entry.text for entry in expected[:4]]


def as_measured(record: dict, **changes) -> dict:
    """A published number as if measured once."""
    correct = measured_grid({}, seeds=(0,), n=50)[0]
    fields = ("model", "run", "stage", "benchmark", "metric", "value")
    return correct | {name: record[name] for name in fields} | {"standard_error": 5.5} | changes


def test_a_recipe_of_the_same_slug_fills_no_cell(measured):
    clipa = by_id("table1.B16-resize112-truncation16.finetune.imagenet1k.acc1")
    assert clipa["factors"]["recipe"] == "CLIPA"
    plain_run = as_measured(clipa)
    with pytest.raises(TableError, match=r"^table 1: none of its cells was measured by the records given$"):
        render(1, records_of(1), [plain_run])
    assert filling(clipa) == ["B16-resize112-truncation16-clipa-batch8k"]
    (table,) = read_back(render(1, records_of(1), [plain_run | {"recipe": "clipa-batch8k"}]))
    assert [entry.text for entry in table.rows[0][2:]] == ["$63.2 \\pm 5.5$"]


def test_a_finetuned_baseline_does_not_fill_the_dash(measured):
    extra = as_measured(by_id("table11.S16-none-truncation32.finetune.imagenet1k.acc1"), value=33.0)
    (table,) = read_back(render(11, records_of(11), [*measured, extra]))
    assert table.rows[0][3].text == "--"
    with pytest.raises(TableError, match="none of its cells"):
        render(11, records_of(11), [extra])


def test_a_wide_measured_table_goes_model_by_model():
    records = [
        as_measured(
            record, dataset={"name": record["benchmark"], "split": "test", "n": 9, "fingerprint": "0"}
        )
        for record in records_of(15)
    ]
    latex = render(15, records_of(15), records)
    assert [len(table.heads) for table in read_back(latex)] == [10, 10, 10]
    assert re.findall(r"\\label\{tab:(.*)\}", latex) == [f"table15-micro-v1-{m}16" for m in "SBL"]
    assert latex.count("(48.60)") == 1 and latex.count(r" \pm 5.5") == 420


def test_what_does_not_belong_together_is_refused(measured):
    for change, message in (
        ({"scale": "mini"}, "table 11: the records mix scales"),
        (
            {"dataset": measured[0]["dataset"] | {"fingerprint": "0000aaaa"}},
            "mix test sets that stand for imagenet1k",
        ),
    ):
        with pytest.raises(TableError, match=message):
            render(11, records_of(11), [*measured[1:], measured[0] | change])


def test_published_gains_do_not_stand_beside_measured_numbers():
    """Tables 7 and 14 print what a row gains over another one: of the paper's numbers, not of these."""
    records = [
        as_measured(record, recipe=name.partition("truncation16-")[2])
        for record in records_of(14)
        if record["unit"] == "percent" and record["run"] is not None
        for name in filling(record)
        if name.endswith("negclip") == (record["stage"] == "negclip")
    ]
    latex = render(14, records_of(14), records)
    assert "+34.7" not in latex and "gained" not in latex
    (table,) = read_back(latex)
    assert len(table.rows) == 2
    assert "+34.7" in render(14, records_of(14))


def of_aro(record: dict, **changes) -> dict:
    """A published number of Table 14 as if measured, of the run that fills its cell."""
    run = next(name for name in filling(record) if name.endswith("negclip") == (record["stage"] == "negclip"))
    return as_measured(record, recipe=run.partition("truncation16-")[2], **changes)


@pytest.mark.parametrize("grouped", [True, False])
def test_aros_first_two_columns_are_means_over_groups(grouped):
    """As ARO's authors report them; where records have none, the table says so. The order sets stay as they are."""
    published = [r for r in records_of(14) if r["unit"] == "percent" and r["run"] is not None]
    measured = [of_aro(record, value=11.1) for record in published]
    groups = {"data": "", "smallest": 1}
    if grouped:
        measured += [of_aro(record, metric="acc1_macro", value=77.7, groups=groups) for record in published]
    latex = " ".join(render(14, records_of(14), measured).split())
    (table,) = read_back(render(14, records_of(14), measured))
    cells = [[entry.text.split()[0].strip("$") for entry in row[2:]] for row in table.rows]
    assert cells == 2 * [["77.7", "77.7", "11.1", "11.1"] if grouped else 4 * ["11.1"]]
    said = r"On aro/vg\_relation and aro/vg\_attribution these are means over items"
    assert (said in latex) is not grouped
    # Of one seed alone a mean over groups is none of all seeds.
    if grouped:
        more = [record | {"seed": 1} for record in measured if "groups" not in record]
        assert "77.7" not in render(14, records_of(14), [*measured, *more])
