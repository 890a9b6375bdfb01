"""The record: one number with its factors and its source; how it is stored, checked and loaded.

Published numbers (`results/published`) and measured ones (`results/recorded`, `results/runs`) are the same
kind of record, described by `schemas/record.schema.json` (JSON Schema 2020-12). A record is a plain dict; a
records file is `{"schema_version": 1, "records": [...]}`. This module stands on the ground floor: only the
standard library is imported at its top; NumPy, pandas and jsonschema where they are needed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipa.outcomes import correct_items, paired_drop
from clipa.study import TABLE4_PARAMETERS

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).parent / "schemas" / "record.schema.json"
ROOT = Path(__file__).resolve().parents[2]
PUBLISHED_DIRECTORY = Path("results/published")
RECORDED_DIRECTORY = Path("results/recorded")

Record = dict[str, Any]

# What must agree between two records before their difference means anything.
SAME_EXPERIMENT = (
    "source",
    "scale",
    "table",
    "figure",
    "model",
    "text_reduction",
    "benchmark",
    "metric",
    "seed",
)

FACTORS = [
    "id",
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
    "image_reduction",
    "image_size",
    "patches",
    "image_tokens",
    "text_reduction",
    "text_tokens",
    "benchmark",
    "metric",
    "value",
    "unit",
    "printed",
    "note",
    "seed",
    "standard_error",
    "stage_fingerprint",
]
NESTED = {
    "dataset": ("name", "split", "n", "fingerprint"),
    "actual": ("image_size", "patches", "text_tokens", "width", "layers", "parameters", "samples"),
}

COMPUTED = ("parameters", "drop", "drop_standard_error")


class RecordError(ValueError):
    """A records file is missing, unreadable or invalid. The message is one line: file, record, field, reason."""


def write_bytes_atomically(path: str | Path, content: bytes) -> None:
    """Write so that `path` holds either its old content or all of `content`, whatever happens.

    A temporary file in the same folder is written, synced and renamed, then the folder is synced. The
    temporary is removed if anything fails. Raises OSError as the file system gives it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write text atomically, in UTF-8 with the line ends it has, whatever the locale."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: str | Path, content: Any) -> None:
    """Write one JSON document atomically: keys in the order given, indented, newline at the end.

    Raises ValueError for NaN and infinities (no JSON has them), before anything is written.
    """
    write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Check records against the schema and write them atomically, one to a line (so that diffs are readable).

    Raises RecordError, before anything is written, for the first invalid record.
    """
    document = {"schema_version": SCHEMA_VERSION, "records": [dict(record) for record in records]}
    check_document(document, str(path))
    lines = ",\n".join(json.dumps(r, ensure_ascii=False, allow_nan=False) for r in document["records"])
    head = f'{{"schema_version": {SCHEMA_VERSION}, "records": [\n'
    write_text_atomically(path, head + lines + ("\n" if lines else "") + "]}\n")


def read_records(path: str | Path) -> list[Record]:
    """Read and check one records file. Raises RecordError naming file, record id and field."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: no such records file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path}: cannot be read as JSON: {error}") from None
    check_document(document, str(path))
    return document["records"]


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def check_document(document: Any, name: str) -> None:
    """Raise RecordError, in one line that starts with `name`, unless `document` is a valid records document.

    Beyond the schema: ids are unique and say what their record holds; image_tokens is patches + 1.
    """
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(document))
    if error is not None:
        raise RecordError(f"{name}: {_explain(document, error)}")
    seen: set[str] = set()
    for record in document["records"]:
        identity = record["id"]
        if identity in seen:
            raise RecordError(f"{name}: record {identity}: id occurs twice")
        seen.add(identity)
        if identity != record_id(record):
            raise RecordError(f"{name}: record {identity}: id should be {record_id(record)} by its fields")
        if record["patches"] is not None and record["image_tokens"] != record["patches"] + 1:
            raise RecordError(
                f"{name}: record {identity}: field image_tokens: must be patches + 1 (class token)"
            )


def _explain(document: Any, error: Any) -> str:
    """One line from a jsonschema error: record id, field, reason."""
    path = list(error.absolute_path)
    where = ""
    if len(path) >= 2 and path[0] == "records":
        record = document["records"][path[1]]
        identity = record.get("id", f"number {path[1]}") if isinstance(record, dict) else f"number {path[1]}"
        field = ".".join(str(part) for part in path[2:])
        where = f"record {identity}: " + (f"field {field}: " if field else "")
    elif path:
        where = f"field {'.'.join(map(str, path))}: "
    if error.validator == "not" and error.validator_value:
        reason = f"{error.instance!r} holds an absolute path; give a name or a relative path"
    elif error.validator == "not":
        reason = "does not belong to a record of this source"
    else:
        reason = " ".join(error.message.split())
    return where + (reason if len(reason) <= 300 else reason[:297] + "...")


def record_id(record: Mapping[str, Any]) -> str:
    """The id that a record's own fields give, e.g. `table11.L16-resize64-truncation32.finetune.imagenet1k.acc1`.

    Published ids start with table or figure and leave out what a record has not (`table4.L16.vision.width`); where
    the run alone does not say which number it is, the case stands in its place. Measured ones start with the
    scale and end with the seed.
    """
    subject = record.get("case") or run_name(record)
    middle = [subject, record["stage"], record["benchmark"], record["metric"]]
    if record["source"] == "measured":
        parts = [record["scale"], *middle, f"seed{record['seed']}"]
    elif record["table"] is not None:
        parts = [f"table{record['table']}", *middle]
    else:
        parts = [f"figure{record['figure']}", *middle]
    return ".".join(part for part in parts if part is not None)


def run_name(record: Mapping[str, Any]) -> str | None:
    """The name of a record's run, with the recipe of measured ones (`B16-resize112-truncation16-clipa-batch8k`)."""
    return f"{record['run']}-{record['recipe']}" if record.get("recipe") else record["run"]


def of_the_study(records: Iterable[Record]) -> list[Record]:
    """Records of runs without a recipe: what the law and Figures 1 to 10 are about (§3, §4)."""
    return [record for record in records if not record.get("recipe")]


_ABSOLUTE_PATH = re.compile(r"(^|[\s\"'=:(,])/[A-Za-z0-9._~-]|(^|[\s\"'=(,])[A-Za-z]:\\")


def absolute_paths(content: Any) -> list[str]:
    """Every string in a JSON value, keys included, that holds an absolute path (base64 outcomes excepted)."""
    if isinstance(content, str):
        return [content] if _ABSOLUTE_PATH.search(content) else []
    if isinstance(content, Mapping):
        kept = [value for key, value in content.items() if key != "outcomes"]
        return [found for value in [*content.keys(), *kept] for found in absolute_paths(value)]
    if isinstance(content, (list, tuple)):
        return [found for value in content for found in absolute_paths(value)]
    return []


# ----------------------------------------------------------------------------------------------------- loading


def baseline_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies the baseline that a record's drop is measured from (DESIGN: the word `drop`).

    Image reductions: the full-length run with the same text, stage pretrain. Short texts: the run with the
    same image reduction and the same text reduction at 32 tokens, stage finetune.
    """
    if record["text_tokens"] is not None and record["text_tokens"] < 32:
        stage = "pretrain" if record["image_reduction"] == "none" else "finetune"
        return (*_common_key(record), stage, *_image_key(record), 32)
    return (*_common_key(record), "pretrain", "none", None, 32)


def own_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key under which `baseline_key` of another record finds this one."""
    return (*_common_key(record), record["stage"], *_image_key(record), record["text_tokens"])


def _common_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    dataset = (record.get("dataset") or {}).get("fingerprint")
    return (*(record.get(name) for name in SAME_EXPERIMENT), dataset)


def _image_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The image reduction and its size: patches kept, or pixels where there are none (ConvNeXt)."""
    reduction = record["image_reduction"]
    return reduction, None if reduction == "none" else record["patches"] or record["image_size"]


def published_records(directory: Path = ROOT / PUBLISHED_DIRECTORY) -> list[Record]:
    """Every published record, Table 1 to 15, then the figures that the paper gives as plots only.

    Not checked against the schema (that takes seconds; the tests do it). Raises RecordError if a file is missing.
    """
    names = [f"table{number}" for number in range(1, 16)] + ["figure5", "figure6"]
    records: list[Record] = []
    for name in names:
        path = Path(directory) / f"{name}.json"
        try:
            records += json.loads(path.read_text(encoding="utf-8"))["records"]
        except (OSError, ValueError, KeyError) as error:
            raise RecordError(f"{path}: cannot be read as records: {error}") from None
    return records


def load_records(paths: Iterable[str | Path]) -> list[Record]:
    """The records of several files. Raises RecordError if two files hold a record of the same id."""
    records: list[Record] = []
    origin: dict[str, str | Path] = {}
    for path in paths:
        for record in read_records(path):
            if record["id"] in origin:
                raise RecordError(f"{path}: record {record['id']}: is in {origin[record['id']]} too")
            origin[record["id"]] = path
            records.append(record)
    return records


def frame_of(records: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Tidy DataFrame, one row per record, outcomes left out.

    Columns: the record's own fields, `dataset_*` and `actual_*` for the nested ones, and three computed ones:
    `parameters` of both towers (measured, or Table 4's), and in percentage points `drop` from the record's
    baseline and `drop_standard_error` (paired over test items; NaN for published numbers). The last two are NaN
    where no baseline is among `records`.
    """
    import pandas

    percents = [record for record in records if record.get("unit", "percent") == "percent"]
    baselines = {own_key(record): record for record in percents if record["value"] is not None}
    rows = []
    for record in records:
        row = {name: record.get(name) for name in FACTORS}
        if not isinstance(row["value"], (int, float)):  # settings in words, lists: `printed` has them
            row["value"] = None
        row["unit"] = row["unit"] or "percent"
        for outer, names in NESTED.items():
            row |= {f"{outer}_{name}": (record.get(outer) or {}).get(name) for name in names}
        row["parameters"] = parameters_of(record)
        row["drop"], row["drop_standard_error"] = _drop(record, baselines.get(baseline_key(record)))
        rows.append(row)
    columns = [*FACTORS, *(f"{outer}_{name}" for outer, names in NESTED.items() for name in names)]
    frame = pandas.DataFrame(rows, columns=[*columns, *COMPUTED])
    for name in ("value", "standard_error", *COMPUTED):
        frame[name] = frame[name].astype(float)
    return frame


def parameters_of(record: Mapping[str, Any]) -> float:
    """Parameters of both towers: counted in the model that ran, else Table 4's total; NaN where neither is known."""
    if "actual" in record:
        return float(record["actual"]["parameters"])
    return 1e6 * TABLE4_PARAMETERS.get(record["model"], math.nan)


def load_frame(paths: Iterable[str | Path]) -> pandas.DataFrame:
    """Records of several files as a tidy DataFrame (see `frame_of`). Raises RecordError."""
    return frame_of(load_records(paths))


def _drop(record: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> tuple[float, float]:
    if baseline is None or record["value"] is None or record.get("unit", "percent") != "percent":
        return math.nan, math.nan
    if record is baseline:
        return 0.0, 0.0 if record["source"] == "measured" else math.nan
    # Published values are printed to 0.1 (once to 0.01): rounding removes binary noise, no information.
    if record["source"] == "published":
        return round(baseline["value"] - record["value"], 2), math.nan
    return paired_drop(correct_items(baseline), correct_items(record))
