"""The types of a record, and what is generated from them: the check of a records file and its JSON Schema.

A record is a plain dict; these types say what it holds. `schemas/record.schema.json` is the same for readers in other
languages. It is generated, and written anew by `python -m clipa.schema`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from clipa import study
from clipa.files import write_json_atomically
from clipa.provenance import IMAGE_DIGEST
from clipa.sources import Integrity, Sha256

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).parent / "schemas" / "record.schema.json"

# ------------------------------------------------------------------------------------------------- types of fields

_ABSOLUTE_PATH = re.compile(r"""(^|[\s"'=:(,])/[A-Za-z0-9._~-]|(^|[\s"'=(,])[A-Za-z]:\\""")


def _without_absolute_path(text: str) -> str:
    if _ABSOLUTE_PATH.search(text):
        raise PydanticCustomError(
            "absolute_path", "Input holds an absolute path; give a name or a relative path"
        )
    return text


def _without_duplicates(items: list[str]) -> list[str]:
    if len(set(items)) != len(items):
        raise PydanticCustomError("duplicates", "Input holds an entry twice")
    return items


@dataclass(frozen=True)
class OneOf:
    """Annotates a string that must be among `names`."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return AfterValidator(self._check).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return handler(schema) | {"enum": list(self.names)}

    def _check(self, name: str) -> str:
        if name not in self.names:
            raise PydanticCustomError(
                "unknown_name", "Input should be one of {names}", {"names": ", ".join(self.names)}
            )
        return name


Text = Annotated[
    str,
    AfterValidator(_without_absolute_path),
    Field(json_schema_extra={"not": {"pattern": _ABSOLUTE_PATH.pattern}}),
]
RecordId = Annotated[str, Field(pattern="^[A-Za-z0-9@._/-]+$")]
Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]
_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)$"
Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9.-]*$")]
RunName = Annotated[str, Field(pattern="^[A-Za-z0-9]+(-[A-Za-z0-9]+)+$")]
ProtocolName = Annotated[
    str, Field(pattern="^[a-z][a-z0-9-]*$", description="By config/protocols.yaml; without one the study's.")
]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
StageKind = Annotated[str, OneOf(study.STAGE_KINDS)]
ImageReduction = Annotated[str, OneOf(("none", *study.IMAGE_REDUCTIONS))]
ImageSize = Annotated[int, Field(ge=1, description="The paper's pixels.")]
Patches = Annotated[int, Field(ge=1, description="Patches kept, in the paper's coordinates.")]
ImageTokens = Annotated[int, Field(ge=2, description="Patches kept and one class token.")]
TextReduction = Annotated[str, OneOf(tuple(study.TEXT_REDUCTIONS))]
TextTokens = Annotated[int, Field(ge=1, description="Length of the text, [CLS] included.")]
Unit = Literal[
    "percent",
    "points",
    "GPU hours",
    "1e12 GFLOPs",
    "1e11 GFLOPs",
    "GFLOPs",
    "M",
    "count",
    "rate",
    "samples",
    "text",
]

# --------------------------------------------------------------------------------------------------------- records

_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@with_config(_CLOSED)
class Dataset(TypedDict):
    """What was really evaluated; never called by a benchmark's name unless it is that benchmark."""

    name: Text
    split: Text
    n: Count
    fingerprint: Fingerprint


@with_config(_CLOSED)
class Actual(TypedDict):
    """What ran at this scale: the stage's input, the size of the model, the samples of this stage."""

    image_size: Count
    patches: Count | None
    text_tokens: Count
    width: Count
    layers: Count
    parameters: Count
    samples: Count


@with_config(_CLOSED)
class Factors(TypedDict, total=False):
    """What else sets a published number apart: recipe and data of its run. Lists go by the stages of fine-tuning."""

    recipe: Literal["CLIPA"]
    data_source: Literal["LAION-400M", "LAION-2B", "DataComp-1B"]
    pretrain_samples: Count
    finetune_samples: list[Count]
    finetune_image_size: list[Count]
    finetune_mask: Literal["random", "grid", "block"]
    finetune_mask_ratio: list[Share]
    finetune_patches: list[Count]
    finetune_batch_size: Count
    pooling: Literal["cls", "gap"]
    color_jitter: bool
    implementation: Literal["jax", "pytorch"]


@with_config(_CLOSED)
class Outcomes(TypedDict):
    """One outcome per test item, in the order of the test set, in base64.

    Bits are numpy.packbits of 'correct'; ranks are little-endian uint16, 0 is the best.
    """

    kind: Literal["bits", "ranks"]
    n: Count
    data: Annotated[
        str, Field(pattern="^[A-Za-z0-9+/]*={0,2}$", json_schema_extra={"contentEncoding": "base64"})
    ]


@with_config(_CLOSED)
class Groups(TypedDict):
    """Of a mean over groups of items (ARO, ``…_macro``): each item's group, and how many items a group must have.

    Little-endian uint16 in base64, numbered as they first occur; 65535: in no group.
    """

    smallest: Count
    data: Annotated[
        str, Field(pattern="^[A-Za-z0-9+/]*={0,2}$", json_schema_extra={"contentEncoding": "base64"})
    ]


@with_config(_CLOSED)
class Code(TypedDict):
    """A code that trained a stage, and the step from which it ran."""

    from_step: Annotated[int, Field(ge=0)]
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None
    dirty: bool | None
    code: Fingerprint


@with_config(_CLOSED)
class Container(TypedDict, total=False):
    """The container that a stage was trained in, or a checkpoint evaluated: what was told of it."""

    image: Annotated[str, Field(pattern=IMAGE_DIGEST)]
    lock: Sha256


@with_config(_CLOSED)
class Provenance(TypedDict):
    """Where a measured number comes from: code, packages, data, machine."""

    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None
    dirty: bool | None
    packages: dict[str, Text]
    data_fingerprint: Fingerprint
    inputs: NotRequired[
        Annotated[
            dict[str, Fingerprint], Field(description="Digests of what the stage was made from, by name.")
        ]
    ]
    commits: NotRequired[list[Code]]
    integrity: NotRequired[
        Annotated[Integrity, Field(description="When bytes of shards were compared with their digests.")]
    ]
    hardware: Text
    container: NotRequired[Container]
    seconds: Size
    samples_seen: Annotated[int, Field(ge=0)]
    evaluator: Text
    created: Annotated[str, Field(pattern=_TIME)]


class _AnyRecord(TypedDict):
    """The fields of every record. Table, figure and column are those of the paper."""

    id: RecordId
    schema_version: Literal[SCHEMA_VERSION]
    table: Annotated[int, Field(ge=1, le=15)] | None
    figure: Annotated[int, Field(ge=1, le=10)] | None
    column: Text | None
    patches: Patches | None
    image_tokens: ImageTokens | None
    metric: Text


_COORDINATES = ("image_reduction", "image_size", "text_reduction", "text_tokens")
# The rules of `_published` that join several fields, in JSON Schema.
_PUBLISHED_RULES = [
    {
        "if": {"properties": {"unit": {"const": "percent"}}},
        "then": {"properties": {"value": {"type": ["number", "null"], "minimum": 0, "maximum": 100}}},
    },
    {
        "anyOf": [
            {"properties": {name: {"not": {"type": "null"}} for name in ("table", "row", "column")}},
            {"properties": {"figure": {"not": {"type": "null"}}}},
        ]
    },
    {
        "if": {"properties": {"run": {"type": "string"}}},
        "then": {"properties": {name: {"not": {"type": "null"}} for name in _COORDINATES}},
    },
]


@with_config(_CLOSED | {"json_schema_extra": {"allOf": _PUBLISHED_RULES}})
class PublishedRecord(_AnyRecord):
    """A number of the paper."""

    source: Literal["published"]
    scale: Literal["paper"]
    row: Annotated[Text | None, Field(description="As headed in the paper, its cells joined by ' | '.")]
    model: Text | None
    run: RunName | None
    case: Annotated[
        Name | None,
        Field(description="What the id names where the run alone does not say which number it is."),
    ]
    stage: StageKind | None
    image_reduction: ImageReduction | None
    image_size: ImageSize | None
    text_reduction: TextReduction | None
    text_tokens: TextTokens | None
    benchmark: Text | None
    value: Annotated[
        float | Text | list[float] | None,
        Field(description="In the record's unit; null where the paper has none."),
    ]
    unit: Unit
    printed: Annotated[
        Annotated[Text, Field(min_length=1)] | None,
        Field(description="The cell exactly as the paper prints it; null where no text of it is had."),
    ]
    section: NotRequired[
        Annotated[
            str,
            Field(
                pattern=r"^\d+(\.\d+)*$", description="Whose text states the number that a figure only plots."
            ),
        ]
    ]
    factors: Factors
    note: Text | None
    same_as: Annotated[
        list[RecordId], AfterValidator(_without_duplicates), Field(json_schema_extra={"uniqueItems": True})
    ]


@with_config(_CLOSED)
class MeasuredRecord(_AnyRecord):
    """A number that was measured here, in the paper's coordinates; `actual` says what ran."""

    source: Literal["measured"]
    scale: Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$")]
    model: Text
    run: RunName
    recipe: NotRequired[
        Annotated[Name, Field(description="By config/recipes.yaml; without one the study's.")]
    ]
    stage: StageKind
    image_reduction: ImageReduction
    image_size: ImageSize
    text_reduction: TextReduction
    text_tokens: TextTokens
    benchmark: Text
    value: Percent
    dataset: Dataset
    standard_error: Annotated[Size, Field(description="Over test items, percentage points.")]
    seed: Annotated[int, Field(ge=0)]
    stage_fingerprint: Fingerprint
    actual: Actual
    protocol: Fingerprint
    protocol_name: NotRequired[ProtocolName]
    outcomes: Outcomes
    groups: NotRequired[Groups]
    provenance: Provenance


@with_config(_CLOSED)
class Checkpoint(TypedDict):
    """What was evaluated where it is no stage of a run: by what it was asked for, and by digests."""

    reference: Annotated[Text, Field(description="hf-hub:…, an OpenCLIP name/tag, or the name of a folder.")]
    digest: Annotated[Sha256, Field(description="Of weights, configuration, preprocessing and tokenizer.")]
    weights: Sha256
    revision: Annotated[
        str | None, Field(pattern="^[0-9a-f]{40}$", description="The hub's commit; null: no hub's.")
    ]


@with_config(_CLOSED)
class CheckpointActual(TypedDict):
    """What ran: its input and size. Patches are null where the image tower has none."""

    image_size: Count
    patches: Count | None
    text_tokens: Count
    parameters: Count


@with_config(_CLOSED)
class CheckpointProvenance(TypedDict):
    """Where the number of a checkpoint comes from: evaluating code, packages, machine."""

    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None
    dirty: bool | None
    packages: dict[str, Text]
    hardware: Text
    container: NotRequired[Container]
    seconds: Size
    evaluator: Text
    created: Annotated[str, Field(pattern=_TIME)]


@with_config(_CLOSED)
class CheckpointRecord(_AnyRecord):
    """A number measured here of a checkpoint: like a run's, without its coordinates and seed."""

    source: Literal["measured"]
    scale: Literal["released"]
    case: Annotated[
        Name, Field(description="The row of Tables 1 to 3 by config/released.yaml, or the reference.")
    ]
    model: None
    run: None
    stage: None
    seed: None
    benchmark: Text
    value: Percent
    dataset: Dataset
    standard_error: Annotated[Size, Field(description="Over test items, percentage points.")]
    checkpoint: Checkpoint
    actual: CheckpointActual
    protocol: Fingerprint
    protocol_name: ProtocolName
    outcomes: Outcomes
    groups: NotRequired[Groups]
    provenance: CheckpointProvenance


@with_config(_CLOSED)
class DerivedRecord(TypedDict):
    """A number computed from published ones (:mod:`clipa.published.derived`). It is in no file of records."""

    id: RecordId
    source: Literal["derived"]
    scale: Literal["paper"]
    table: int
    figure: None
    model: Text | None
    run: RunName | None
    case: Annotated[Name | None, Field(description="Of a ratio: both models.")]
    stage: StageKind | None
    image_reduction: ImageReduction | None
    image_size: ImageSize | None
    patches: Patches | None
    image_tokens: ImageTokens | None
    text_reduction: TextReduction | None
    text_tokens: TextTokens | None
    benchmark: Text | None
    metric: Text
    value: Annotated[float, Field(description="The central value, unrounded, in the record's unit.")]
    bounds: Annotated[
        list[float], Field(description="Least and greatest value that the rounded cells allow.")
    ]
    text: Annotated[Text, Field(description="The value with what the rounding of its cells leaves open.")]
    unit: Literal["points", "points per tenfold parameters", "times", "tokens", "pixels"]
    formula: Annotated[Text, Field(description="In the language of claims (clipa.published.formulas).")]
    rests_on: Annotated[list[RecordId], Field(min_length=1)]
    note: Text | None


def _refusal(field: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{reason}", {"field": field, "reason": reason})


def _published(record: PublishedRecord) -> PublishedRecord:
    value = record["value"]
    percentage = value is None or (isinstance(value, (int, float)) and 0 <= value <= 100)
    if record["unit"] == "percent" and not percentage:
        raise _refusal("value", f"{value!r} is no percentage")
    if record["figure"] is None and None in (record["table"], record["row"], record["column"]):
        raise _refusal("table", "a table, row and column or a figure must be given")
    for field in _COORDINATES if record["run"] is not None else ():
        if record[field] is None:
            raise _refusal(field, f"must be given for the run {record['run']}")
    return record


def _kind(record: Any) -> str | None:
    """Which of the types a record has; None: of no known source."""
    source = record.get("source") if isinstance(record, dict) else None
    return "of a checkpoint" if source == "measured" and "checkpoint" in record else source


Record = Annotated[
    Annotated[PublishedRecord, AfterValidator(_published), Tag("published")]
    | Annotated[MeasuredRecord, Tag("measured")]
    | Annotated[CheckpointRecord, Tag("of a checkpoint")],
    Discriminator(_kind),
]


@with_config(_CLOSED)
class Document(TypedDict):
    """One record is one number with its factors and its source. Published and measured numbers are both records."""

    schema_version: Literal[SCHEMA_VERSION]
    records: list[Record]
    digest: NotRequired[Annotated[Sha256, Field(description="of all else in the file")]]


# ----------------------------------------------------------------------------------------------- check and JSON Schema


@functools.cache
def _adapter() -> TypeAdapter[Document]:
    return TypeAdapter(Document)


def fault(document: Any) -> str | None:
    """The first thing wrong with a records document, in one line (record id, field, reason), or None."""
    try:
        _adapter().validate_python(document)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    else:
        return None
    path = _path(document, errors[0])
    # Of a field with several types, each type has its own error.
    reasons = dict.fromkeys(_reason(each) for each in errors if _path(document, each) == path)
    where = ""
    if path[:1] == ["records"] and len(path) > 1:
        record = document["records"][path[1]]
        identity = record.get("id", f"number {path[1]}") if isinstance(record, dict) else f"number {path[1]}"
        where, path = f"record {identity}: ", path[2:]
    if path:
        where += f"field {'.'.join(map(str, path))}: "
    return where + ", or ".join(reasons)


def _path(document: Any, error: ErrorDetails) -> list[str | int]:
    """Where an error is in the document: what pydantic says, less the members of unions that it tried there."""
    path, here = [], document
    for part in error["loc"]:
        if isinstance(part, int) or (isinstance(here, dict) and part in here):
            path.append(part)
            here = here[part]
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return [*path, error["ctx"]["field"]] if error["type"] == "rule" else path


def _reason(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "does not belong to a record of this source"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return "the source must be published or measured"
    shown = repr(error["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return re.sub("^(Input|String|List)", lambda _: shown, error["msg"])


class _JsonSchema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # "Schema Version" says no more than schema_version


def json_schema() -> dict[str, Any]:
    """The types of a records file as JSON Schema (2020-12)."""
    return {
        "$schema": _JsonSchema.schema_dialect,
        "title": "Records of An Inverse Scaling Law for CLIP Training",
        **_adapter().json_schema(schema_generator=_JsonSchema),
    }


if __name__ == "__main__":
    write_json_atomically(SCHEMA_PATH, json_schema())
