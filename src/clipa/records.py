"""Records: one number each, with its factors and its source; how they are stored, loaded and compared.

Published numbers (`results/published`) and measured ones (`results/recorded`, `results/runs`) are both records: plain
dicts, typed by `clipa.schema`. A records file is `{"schema_version": 1, "records": [...]}`. NumPy and pandas are
imported where they are needed.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipa.files import check_digest, read_json, with_digest, write_text_atomically
from clipa.schema import SCHEMA_VERSION, Actual, Dataset, Groups, Outcomes, Record, fault
from clipa.study import TABLE4_PARAMETERS, parse_run

if TYPE_CHECKING:
    import numpy
    import pandas

_INSTALLED = Path(str(importlib.resources.files("clipa"))) / "artifact"
ROOT = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2]
"""What has `results` and `config`: the checkout, or the copy of both that a wheel carries (pyproject.toml)."""
PUBLISHED_DIRECTORY = Path("results/published")
RECORDED_DIRECTORY = Path("results/recorded")


_NO_GROUP = 65535


class RecordError(ValueError):
    """A records file is missing, unreadable or invalid. The message is one line: file, record, field, reason."""


def check_document(document: Any, name: str) -> None:
    """Raise RecordError, in one line that starts with `name`, unless `document` is a valid records document.

    Beyond the types: ids are unique and say what their record holds; image_tokens is patches + 1.
    """
    if (reason := fault(document)) is not None:
        raise RecordError(f"{name}: {reason}")
    seen: set[str] = set()
    for record in document["records"]:
        here = f"{name}: record {record['id']}"
        if record["id"] in seen:
            raise RecordError(f"{here}: id occurs twice")
        seen.add(record["id"])
        if record["id"] != record_id(record):
            raise RecordError(f"{here}: id should be {record_id(record)} by its fields")
        if record["patches"] is not None and record["image_tokens"] != record["patches"] + 1:
            raise RecordError(f"{here}: field image_tokens: must be patches + 1 (class token)")


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Check records and write them atomically, one to a line (so that diffs are readable).

    Raises RecordError, before anything is written, for the first invalid record.
    """
    document = {"schema_version": SCHEMA_VERSION, "records": [dict(record) for record in records]}
    check_document(document, str(path))
    lines = ",\n".join(json.dumps(r, ensure_ascii=False, allow_nan=False) for r in document["records"])
    head = f'{{"schema_version": {SCHEMA_VERSION}, "records": [\n'
    tail = f'], "digest": "{with_digest(document)["digest"]}"}}\n'
    write_text_atomically(path, head + lines + ("\n" if lines else "") + tail)


def read_records(path: str | Path) -> list[Record]:
    """Read and check one records file. Raises RecordError naming file, record id and field."""
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such records file") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as JSON: {error}") from None
    check_document(document, str(path))
    if "digest" in document:  # published numbers, and records of before, have none
        try:
            check_digest(document)
        except ValueError as error:
            raise RecordError(f"{path}: {error}; get it again") from None
    return document["records"]


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


def published_records(directory: Path = ROOT / PUBLISHED_DIRECTORY) -> list[Record]:
    """Every published record: Tables 1 to 15, then the figures that the paper gives as plots only (RecordError)."""
    names = [f"table{number}" for number in range(1, 16)] + ["figure5", "figure6"]
    return load_records(Path(directory) / f"{name}.json" for name in names)


def recorded_scales(root: Path = ROOT) -> list[str]:
    """The scales that have accepted records."""
    folder = root / RECORDED_DIRECTORY
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def record_id(record: Mapping[str, Any]) -> str:
    """The id that a record's own fields give, e.g. `table11.L16-resize64-truncation32.finetune.imagenet1k.acc1`.

    Published ids start with table or figure and leave out what a record has not (`table4.L16.vision.width`); where
    the run alone does not say which number it is, the case stands in its place. Measured ones start with the
    scale and end with the seed; those of a checkpoint have its protocol in the place of the stage, and no seed.
    """
    subject = record.get("case") or run_name(record)
    if "checkpoint" in record:
        parts = [record["scale"], subject, record["protocol_name"], record["benchmark"], record["metric"]]
        return ".".join(parts)
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


def of_the_study(records: Iterable[Record], without: Sequence[str] = ()) -> list[Record]:
    """Records of runs without a recipe: what the law and Figures 1 to 10 are about (§3, §4).

    ``without``: models that are left out.
    """
    return [record for record in records if not record.get("recipe") and record.get("model") not in without]


# --------------------------------------------------------------------------------------------- per-item outcomes


def encode_outcomes(outcomes: Sequence[Any] | numpy.ndarray) -> Outcomes:
    """Per-item outcomes as the record keeps them.

    `outcomes` [n]: booleans (correct or not) become packed bits; integers (the rank of the right answer, 0 is
    the best) become little-endian uint16. Raises ValueError for other types and for ranks beyond 65535.
    """
    import numpy

    array = numpy.asarray(outcomes)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"outcomes: expected one row of items, got shape {array.shape}")
    if array.dtype == bool:
        kind, raw = "bits", numpy.packbits(array).tobytes()
    elif numpy.issubdtype(array.dtype, numpy.integer):
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"outcomes: ranks must lie in 0..65535, got {array.min()}..{array.max()}")
        kind, raw = "ranks", array.astype("<u2").tobytes()
    else:
        raise ValueError(f"outcomes: expected booleans or integers, got {array.dtype}")
    return {"kind": kind, "n": int(array.size), "data": base64.b64encode(raw).decode("ascii")}


def decode_outcomes(encoded: Outcomes) -> numpy.ndarray:
    """The array behind `encode_outcomes`: bool [n] or uint16 [n]. Raises ValueError if data and n disagree."""
    import numpy

    raw, n = base64.b64decode(encoded["data"], validate=True), encoded["n"]
    expected = math.ceil(n / 8) if encoded["kind"] == "bits" else 2 * n
    if len(raw) != expected:
        raise ValueError(f"outcomes: {len(raw)} bytes for {n} {encoded['kind']}, expected {expected}")
    if encoded["kind"] == "bits":
        return numpy.unpackbits(numpy.frombuffer(raw, numpy.uint8), count=n).astype(bool)
    return numpy.frombuffer(raw, "<u2").astype(numpy.uint16)


def correct_items(record: Mapping[str, Any]) -> numpy.ndarray:
    """Per item, was the answer right under the record's metric? bool [n]. Recall@k counts ranks below k."""
    outcomes = decode_outcomes(record["outcomes"])
    if outcomes.dtype == bool:
        return outcomes
    match = re.fullmatch(r".*_recall@(\d+)|acc(\d+)", record["metric"])
    if match is None:
        raise ValueError(f"record {record['id']}: metric {record['metric']} has no cut-off for ranks")
    return outcomes < int(match[1] or match[2])


def percent_and_error(correct: numpy.ndarray) -> tuple[float, float]:
    """Accuracy in percent and its binomial standard error in points, from bool [n]."""
    share = float(correct.mean())
    return 100 * share, 100 * math.sqrt(share * (1 - share) / len(correct))


def encode_groups(groups: Sequence[str | None], smallest: int) -> Groups:
    """The group of each item (None: in none), as a record keeps it. ValueError for more than 65,535 groups."""
    import numpy

    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, groups)))}
    if len(numbers) > _NO_GROUP:
        raise ValueError(f"{len(numbers)} groups of items, at most {_NO_GROUP} are kept")
    array = numpy.array([numbers.get(name, _NO_GROUP) for name in groups], "<u2")
    return {"smallest": smallest, "data": base64.b64encode(array.tobytes()).decode("ascii")}


MEANS_OVER_GROUPS = frozenset({"aro/vg_relation", "aro/vg_attribution"})
"""Of these ARO's authors report a mean over relations, or pairs of attributes (:func:`value_and_error`), so that Table
14's ``acc1`` is our ``acc1_macro``. Of the two order sets they report the share of items, our ``acc1``."""


def value_and_error(record: Mapping[str, Any]) -> tuple[float, float]:
    """The value and its standard error over items that a record's outcomes give, in percent and points.

    Of a record with groups it is the mean of their accuracies (ARO's), each of those that have enough items counting
    alike; the groups are taken as given. ValueError where outcomes and groups disagree, or no group is large enough.
    """
    import numpy

    correct = correct_items(record)
    if "groups" not in record:
        return percent_and_error(correct)
    raw = base64.b64decode(record["groups"]["data"], validate=True)
    if len(raw) != 2 * len(correct):
        raise ValueError(f"groups: {len(raw)} bytes for {len(correct)} items")
    groups = numpy.frombuffer(raw, "<u2")
    counted = groups != _NO_GROUP
    sizes = numpy.bincount(groups[counted])
    right = numpy.bincount(groups[counted], weights=correct[counted], minlength=len(sizes))
    enough = sizes >= record["groups"]["smallest"]
    if not enough.any():
        raise ValueError(f"groups: none has {record['groups']['smallest']} items")
    shares = right[enough] / sizes[enough]
    variance = (shares * (1 - shares) / sizes[enough]).sum() / enough.sum() ** 2
    return 100 * float(shares.mean()), 100 * math.sqrt(variance)


def paired_drop(baseline: numpy.ndarray, reduced: numpy.ndarray) -> tuple[float, float]:
    """Drop in points and its standard error over the same test items (bool [n] twice), paired item by item."""
    if baseline.shape != reduced.shape:
        raise ValueError(f"paired drop: {len(baseline)} items against {len(reduced)}: not the same test set")
    difference = baseline.astype(float) - reduced.astype(float)
    return 100 * float(difference.mean()), 100 * float(difference.std()) / math.sqrt(len(difference))


# ---------------------------------------------------------------------------------------- drops and the data frame


# What must agree between two records before their difference means anything.
SAME_EXPERIMENT = ("source", "scale", "recipe", "table", "figure", "benchmark", "metric", "seed")

# Columns of `frame_of` that are fields of a record, of its nested parts, and computed.
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
NESTED = {"dataset": tuple(Dataset.__annotations__), "actual": tuple(Actual.__annotations__)}
COMPUTED = ("parameters", "drop", "drop_standard_error")


def baseline_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key under which the baseline of a record's drop is found (the rule is ``clipa.study``'s, of runs)."""
    if record["run"] is None:
        return ()
    baseline = parse_run(record["run"]).baseline
    return _key(record, baseline.coordinates, baseline.final_stage)


def own_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key under which `baseline_key` of another record finds this one."""
    return _key(record, record["run"], record["stage"])


def _key(record: Mapping[str, Any], run: str, stage: str) -> tuple[Any, ...]:
    dataset = (record.get("dataset") or {}).get("fingerprint")
    return (*(record.get(name) for name in SAME_EXPERIMENT), dataset, run, stage)


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
