"""The stored records of the paper's tables beside the reading of their text, and how the two differ."""

from functools import cache
from pathlib import Path

from clipa.records import read_records
from paper_layouts import cells
from paper_text import clean, meaning

PUBLISHED = Path(__file__).parents[1] / "results" / "published"

# The fields of a published record, in their order.
COORDINATES = ["image_reduction", "image_size", "patches", "image_tokens", "text_reduction", "text_tokens"]
KEYS = [
    "id",
    "schema_version",
    "source",
    "scale",
    "table",
    "figure",
    "row",
    "column",
    "model",
    "run",
    "case",
    "stage",
]
KEYS += [*COORDINATES, "benchmark", "metric", "value", "unit", "printed", "note", "same_as", "factors"]

Records = list[dict]
_cleaned = cache(clean)


@cache
def stored(number: int) -> Records:
    """The records of Table `number`, checked against the schema. Not to be changed: copies are."""
    return read_records(PUBLISHED / f"table{number}.json")


@cache
def expected(number: int) -> dict[str, dict]:
    """{id: what the text says of value, print, row and column} for Table `number`."""
    return {
        identity: cell._asdict() | {"printed": cell.printed or None, "value": meaning(identity, cell.printed)}
        for identity, cell in cells(number).items()
    }


def differences(number: int, records: Records) -> list[str]:
    """How records differ from the text of Table `number`, cell for cell; empty if they do not.

    Values and prints must be equal; row labels and headings once the extraction's artefacts are undone in both.
    """
    wanted = expected(number)
    ids = [record["id"] for record in records]
    found = [f"{identity}: not in the records" for identity in wanted.keys() - set(ids)]
    found += [f"{len(ids) - len(set(ids))} ids stand twice"] if len(set(ids)) < len(ids) else []
    for record in records:
        identity = record["id"]
        if identity not in wanted:
            found.append(f"{identity}: not in the text")
            continue
        for field, said in wanted[identity].items():
            value = _cleaned(record[field]) if field in ("row", "column") else record[field]
            if value != said:
                found.append(f"{identity}: {field} {value!r}, in the text {said!r}")
    return found
