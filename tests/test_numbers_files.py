"""All numbers as CSV, JSON and Parquet: what rows say, that no measured one passes for the paper's, and refusals."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipa.published import citation
from clipa.published.derived import derived_records
from clipa.published.flat import COLUMNS, flat_table
from clipa.published.measured import means, recorded
from clipa.records import published_records, recorded_scales
from clipa.render import numbers_files

ROOT = Path(__file__).resolve().parent.parent
RESIZE64 = "L16-resize64-truncation32.finetune.imagenet1k.acc1"


@pytest.fixture(scope="module")
def measured():
    return [record for scale in recorded_scales() for record in recorded(scale)]


@pytest.fixture(scope="module")
def table(measured):
    return flat_table(published_records(), measured)


def clipa(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "clipa", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_number_has_a_row_typed_as_its_columns_say(table, measured):
    published = published_records()
    counts = {
        source: len([row for row in table if row["source"] == source]) for source in ("published", "derived")
    }
    assert counts == {"published": len(published), "derived": len(derived_records(published))}
    assert len(table) == sum(counts.values()) + len(means(measured)) + len(measured)
    assert len({row["id"] for row in table}) == len(table)
    for row in table:
        assert list(row) == list(COLUMNS)
        for name, (kind, _) in COLUMNS.items():
            assert row[name] is None or type(row[name]) is kind, (row["id"], name)
    for name, (_, meaning) in COLUMNS.items():
        assert meaning and any(row[name] is not None for row in table), name


def test_rows_say_what_the_command_line_says(table):
    by_id = {row["id"]: row for row in table}
    published, derived = by_id[f"table11.{RESIZE64}"], by_id[f"derived.table11.{RESIZE64}_drop"]
    assert (published["value"], published["text"], published["row"]) == (
        66.2,
        "66.2 %",
        "resizing | 64×64 | 17",
    )
    assert (derived["text"], derived["low"], derived["high"]) == ("3.0 ± 0.1 points", 2.9, 3.1)
    assert derived["rests_on"].split() == [
        "table11.L16-none-truncation32.pretrain.imagenet1k.acc1",
        f"table11.{RESIZE64}",
    ]
    assert "stages-of-the-full-length-baseline" in derived["errata"].split()
    words = by_id["table5.pretrain.optimizer"]
    assert words["value"] is None and words["text"].startswith("AdamW")


def test_a_measured_row_says_what_it_is_and_stands_in_no_column_of_the_paper(table, measured):
    known = {record["id"]: record for record in measured}
    known |= {one.id: one.record for one in means(measured)}
    own = [row for row in table if row["source"] == "measured"]
    assert {row["id"] for row in own} == set(known)
    for row in own:
        record = known[row["id"]]
        assert row["evaluated_on"] == record["dataset"]["name"] and row["n"] == record["dataset"]["n"]
        assert row["model"] == citation.model_text(record) and "stand-in" in row["model"]
        assert row["scale"] == record["scale"] != "paper"
        assert row["seeds"].split() == [str(seed) for seed in record.get("seeds", [record.get("seed")])]
        assert "ImageNet" not in row["quantity"]
        for name in ("table", "figure", "row", "column", "printed"):
            assert row[name] is None
    of_paper = {(row["model"], row["evaluated_on"]) for row in table if row["source"] != "measured"}
    assert not of_paper & {(row["model"], row["evaluated_on"]) for row in own}


def test_csv_and_json_hold_the_table(table, tmp_path):
    made = clipa("numbers", "--output", "made/numbers.csv", cwd=tmp_path)
    assert (made.returncode, made.stdout) == (0, "made/numbers.csv\n"), made.stderr
    with open(tmp_path / "made" / "numbers.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [{name: cell for name, cell in line.items() if cell} for line in lines] == [
        {name: str(cell) for name, cell in row.items() if cell is not None} for row in table
    ]
    content = json.loads(numbers_files.as_json(table))
    assert content["rows"] == table and list(content["columns"]) == list(COLUMNS)


def test_parquet_holds_the_table_or_says_what_it_needs(table, tmp_path):
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        assert not os.environ.get("CI"), "pyarrow is not installed: envs/train.lock has it"
        print("no pyarrow here: Parquet was not written")
        done = clipa("numbers", "--output", "numbers.parquet", cwd=tmp_path)
        assert done.returncode != 0 and len(done.stderr.splitlines()) == 1
        assert "envs/parquet.lock, or write .csv or .json" in done.stderr
        assert not list(tmp_path.iterdir())
        return
    file = tmp_path / "numbers.parquet"
    file.write_bytes(numbers_files.as_parquet(table))
    assert parquet.read_table(file).to_pylist() == table
    for field in parquet.read_schema(file):
        assert field.metadata[b"meaning"].decode() == COLUMNS[field.name][1]


def test_another_ending_is_refused_in_one_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"numbers\.xls: the name must end in \.html, \.csv, \.json, \.parquet"
    ):
        numbers_files.write(tmp_path / "numbers.xls")
    assert not list(tmp_path.iterdir())
