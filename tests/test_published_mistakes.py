"""Any mistake in the record of Tables 1 to 15 is noticed: a value changed or lost, columns or rows exchanged."""

from itertools import combinations

import pytest

from paper_layouts import LAYOUTS, TABLES
from paper_text import DIRECTORY, lines
from second_reading import Records, differences, stored

# What may be exchanged because it is the same: every text tower of Table 4 is as wide as the embedding, and two
# rows of Table 11 hold no number (grid masking with larger ratios: N/A).
EQUAL = {
    4: [("Embed dim", "Text Transformer width")],
    11: [("grid | 81.6% | 37", "grid | 91.8% | 17")],
}


@pytest.mark.parametrize("number", TABLES)
def test_any_value_changed_lost_or_doubled_is_noticed(number):
    records = stored(number)
    assert not differences(number, records)
    for index, record in enumerate(records):
        before, after = records[:index], records[index + 1 :]
        assert differences(number, before + after), f"{record['id']} may be lost"
        assert differences(number, [*records, record]), f"{record['id']} may stand twice"
        for change in changes(record):
            assert differences(number, [*before, record | change, *after]), f"{record['id']}: {change}"


def changes(record: dict) -> list[dict]:
    """Small mistakes: the value by 0.1 (words and lists: something else), the print, both alike, either lost."""
    value, printed = record["value"], record["printed"]
    if value is None:
        return [{"value": 0.1}, {"value": 0.0}, {"printed": "0.1"}]
    lost = [{"value": None}, {"printed": None}, {"value": None, "printed": None}]
    if isinstance(value, str):
        return [*lost, {"value": value + "s"}, {"printed": printed + "s"}]
    if isinstance(value, list):
        return [
            *lost,
            {"value": [value[0] + 0.1, *value[1:]]},
            {"value": value[::-1]},
            {"printed": str(value)},
        ]
    near = [round(value + step, 6) for step in (0.1, -0.1)]
    alone = [change for number in near for change in ({"value": number}, {"printed": str(number)})]
    return [*lost, *alone, *({"value": number, "printed": str(number)} for number in near)]


@pytest.mark.parametrize("axis", ["row", "column"])
@pytest.mark.parametrize("number", TABLES)
def test_two_rows_or_columns_exchanged_are_noticed(number, axis):
    records = stored(number)
    equal = []
    for one, other in combinations(dict.fromkeys(place(number, r)[axis] for r in records), 2):
        mutant = exchanged(number, records, axis, {one: other, other: one})
        if mutant == records:
            equal.append((one, other))
        else:
            assert differences(number, mutant), f"{one} and {other} may be exchanged"
    assert equal == [pair for pair in EQUAL.get(number, []) if (" | " in pair[0]) == (axis == "row")]


def place(number: int, record: dict) -> dict[str, object]:
    """Where a record stands in its table. Table 8 prints one label for three rows, which differ in their data."""
    row = f"{record['row']} | {record['case']}" if number == 8 else record["row"]
    return {"row": row, "column": record["column"], "gain": record["unit"] == "points"}


def exchanged(number: int, records: Records, axis: str, other: dict[str, str]) -> Records:
    """The records with what two rows or columns print exchanged where both print something; the ids stay."""
    at = {tuple(place(number, record).values()): record for record in records}
    result = []
    for record in records:
        here = place(number, record)
        there = here | {axis: other.get(here[axis], here[axis])}
        source = at.get(tuple(there.values()), record)
        result.append(record | {"value": source["value"], "printed": source["printed"]})
    return result


@pytest.mark.parametrize("axis", ["row", "column"])
@pytest.mark.parametrize("number", TABLES)
def test_two_labels_exchanged_are_noticed(number, axis):
    records = stored(number)
    for one, other in combinations(dict.fromkeys(record[axis] for record in records), 2):
        swap = {one: other, other: one}
        mutant = [record | {axis: swap.get(record[axis], record[axis])} for record in records]
        assert differences(number, mutant), f"{one} and {other} may be exchanged"


@pytest.mark.parametrize("number", [3, 7, 8, 10, 14])
def test_the_reading_goes_by_the_headings_of_the_text(number):
    heading = lines(DIRECTORY / f"table{number}.tsv")[0]
    columns = LAYOUTS[number].columns([heading])
    one, other = sorted(columns)[-2:]
    heading[one], heading[other] = heading[other], heading[one]
    assert columns[one] != columns[other]
    assert LAYOUTS[number].columns([heading]) == columns | {one: columns[other], other: columns[one]}


@pytest.mark.parametrize("number", [1, 2, 4, 11, 12, 13, 15])
def test_a_text_that_is_laid_out_otherwise_is_refused(number):
    layout = LAYOUTS[number]
    heading = lines(DIRECTORY / f"table{number}.tsv")[: layout.headings]
    last = max(layout.columns(heading))
    heading[-1][last - 1 : last + 1] = heading[-1][last - 1 : last + 1][::-1]
    with pytest.raises(AssertionError):
        layout.columns(heading)
