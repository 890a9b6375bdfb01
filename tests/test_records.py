"""Records: types, JSON Schema, ids, outcomes, drops, atomic writing."""

import json
import os
from pathlib import Path

import numpy
import pytest
from jsonschema import Draft202012Validator

from clipa import schema
from clipa.files import write_json_atomically
from clipa.records import (
    RecordError,
    check_document,
    correct_items,
    decode_outcomes,
    encode_outcomes,
    frame_of,
    load_frame,
    paired_drop,
    read_records,
    record_id,
    write_records,
)
from fabricated import measured_grid, measured_record

ROOT = Path(__file__).parents[1]
ABSOLUTE_PATHS = ("/home/someone/runs", "local-dir:/data/model", "python=/usr/bin/python", "C:\\data")


@pytest.fixture
def record():
    return measured_record("S/16", "none", "pretrain", 0, numpy.arange(100) < 25)


@pytest.fixture
def published(record):
    measured = {
        "dataset",
        "standard_error",
        "seed",
        "stage_fingerprint",
        "actual",
        "protocol",
        "outcomes",
        "provenance",
    }
    kept = {key: value for key, value in record.items() if key not in measured}
    kept |= {
        "source": "published",
        "scale": "paper",
        "table": 11,
        "row": "baseline | 0.0% | 197",
        "column": "S/16 fine-tune",
        "printed": "25.0",
        "unit": "percent",
    }
    kept |= {"case": None, "note": None, "same_as": [], "value": 25.0, "factors": {}}
    return kept | {"id": record_id(kept)}


def check(*records):
    check_document({"schema_version": 1, "records": list(records)}, "some.json")


def test_valid_records_pass_and_survive_the_file(tmp_path, record, published):
    assert record["id"] == "micro-v1.S16-none-truncation32.pretrain.imagenet1k.acc1.seed0"
    assert published["id"] == "table11.S16-none-truncation32.pretrain.imagenet1k.acc1"
    path = tmp_path / "records.json"
    write_records(path, [record, published])
    assert read_records(path) == [record, published]
    assert len(path.read_text().splitlines()) == 4
    write_records(path, [])
    assert read_records(path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "24.0"}, "field value"),
        ({"value": 124.0}, "field value"),
        ({"value": None}, "field value"),
        ({"colour": "red"}, "colour"),
        ({"printed": "25.0"}, "field printed: does not belong"),
        ({"stage": "warmup"}, "field stage"),
        ({"patches": 100}, "image_tokens"),
        ({"seed": 1}, "id should be"),
        ({"stage_fingerprint": "xyz"}, "field stage_fingerprint"),
        ({"dataset": {"name": "x", "split": "test", "n": 3}}, "field dataset"),
    ],
)
def test_a_wrong_measured_record_is_refused_in_one_line(record, change, said):
    with pytest.raises(RecordError) as caught:
        check(record | change)
    message = str(caught.value)
    assert message.startswith("some.json: record micro-v1.S16-none-truncation32")
    assert said in message and "\n" not in message


@pytest.mark.parametrize(
    "missing", ["outcomes", "provenance", "seed", "protocol", "actual", "model", "value"]
)
def test_no_field_may_be_missing(record, missing):
    with pytest.raises(RecordError, match=missing):
        check({k: v for k, v in record.items() if k != missing})


def test_published_records_have_no_measured_parts(published, record):
    check(published)
    with pytest.raises(RecordError, match="field seed: does not belong"):
        check(published | {"seed": 0})
    with pytest.raises(RecordError, match="printed"):
        check({k: v for k, v in published.items() if k != "printed"})
    with pytest.raises(RecordError, match=r"field factors\.colour: does not belong"):
        check(published | {"factors": {"colour": "red"}})
    with pytest.raises(RecordError, match="field value"):
        check(published | {"value": 567})
    with pytest.raises(RecordError, match="occurs twice"):
        check(record, record)


@pytest.mark.parametrize("text", ABSOLUTE_PATHS)
def test_no_text_holds_an_absolute_path(record, published, text):
    with pytest.raises(RecordError, match=r"provenance\.hardware: .*absolute path"):
        check(record | {"provenance": record["provenance"] | {"hardware": text}})
    with pytest.raises(RecordError, match=r"field row: .*absolute path"):
        check(published | {"row": text})


@pytest.mark.parametrize(
    "text", ["pictograms/v1/plain", "CLIP_benchmark 1.6.2, L/16", "https://example.org/a/b"]
)
def test_names_and_addresses_are_no_absolute_paths(record, text):
    check(record | {"provenance": record["provenance"] | {"hardware": text}})


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(RecordError, match="no such records file"):
        read_records(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"schema_version": 1, "rec')
    with pytest.raises(RecordError, match=r"cut\.json: cannot be read as JSON"):
        read_records(tmp_path / "cut.json")
    (tmp_path / "old.json").write_text('{"schema_version": 0, "records": []}')
    with pytest.raises(RecordError, match="field schema_version"):
        read_records(tmp_path / "old.json")


def test_frame_has_drops_and_no_outcomes():
    records = measured_grid({"resize64": (10, 6, 4)}, seeds=(0, 1))
    frame = frame_of(records)
    assert len(frame) == len(records) and "outcomes" not in frame
    final = frame[(frame.stage == "finetune") & (frame.seed == 1)].set_index("model")
    start = frame[(frame.image_reduction == "none") & (frame.seed == 1)].set_index("model")
    for model in final.index:
        assert final["drop"][model] == pytest.approx(start["value"][model] - final["value"][model])
        unpaired = numpy.hypot(start["standard_error"][model], final["standard_error"][model])
        assert 0 < final["drop_standard_error"][model] < unpaired
    assert (start["drop"] == 0).all()
    assert frame.dataset_n.unique().tolist() == [4000]
    # A baseline on other test items is no baseline.
    records[0]["dataset"] = records[0]["dataset"] | {"fingerprint": "deadbeef"}
    assert frame_of(records)["drop"].isna().sum() == 2


def test_short_texts_drop_from_the_same_text_reduction_at_32():
    long = measured_record("S/16", "resize112", "finetune", 0, numpy.arange(100) < 30)
    short = long | {"text_tokens": 8, "run": "S16-resize112-truncation8", "value": 20.0}
    short |= {"outcomes": encode_outcomes(numpy.arange(100) < 20)}
    frame = frame_of([long, short | {"id": record_id(short)}])
    assert frame["drop"][1] == 10


def test_a_published_id_leaves_out_what_the_number_has_not(published):
    def identity(**changes):
        return record_id(published | changes)

    nothing = {"run": None, "stage": None, "benchmark": None}
    assert identity(case="OpenCLIP-B16", **nothing, metric="gpu_hours") == "table11.OpenCLIP-B16.gpu_hours"
    assert identity(**nothing | {"stage": "pretrain"}, table=5, metric="base_lr") == "table5.pretrain.base_lr"
    assert identity(case="gap", stage="finetune") == "table11.gap.finetune.imagenet1k.acc1"
    assert identity(table=None, figure=5).startswith("figure5.S16-none-truncation32.pretrain.")


def test_a_model_without_patches_has_drops_too(published):
    convnext = {"model": "ConvNeXt-T", "table": 13, "patches": None, "image_tokens": None}
    baseline = published | convnext | {"run": "ConvNeXt-T-none-truncation32"}
    short = baseline | {"image_reduction": "resize", "image_size": 64, "stage": "finetune", "value": 20.5}
    short |= {"run": "ConvNeXt-T-resize64-truncation32"}
    frame = frame_of([record | {"id": record_id(record)} for record in (baseline, short)])
    assert list(frame["drop"]) == [0.0, 4.5]


def test_numbers_in_other_units_are_no_accuracies(published):
    setting = published | {"value": "AdamW", "unit": "text", "case": "x"}
    frame = frame_of([published, setting | {"id": record_id(setting)}])
    assert list(frame.unit) == ["percent", "text"]
    assert frame.value[0] == 25.0 and frame.value.isna()[1] and frame["drop"].isna()[1]


def test_two_files_may_not_hold_the_same_record(tmp_path, record):
    for name in ("a.json", "b.json"):
        write_records(tmp_path / name, [record])
    with pytest.raises(RecordError, match=r"b\.json: record .*: is in .*a\.json too"):
        load_frame([tmp_path / "a.json", tmp_path / "b.json"])


def test_writing_is_atomic(tmp_path, monkeypatch, record):
    path = tmp_path / "out.json"
    write_json_atomically(path, {"b": 1, "a": "ü"})
    assert path.read_bytes() == '{\n  "b": 1,\n  "a": "ü"\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(path, {"x": float("nan")})
    with pytest.raises(RecordError):
        write_records(path, [record | {"value": 3.0, "seed": -1}])

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_json_atomically(path, {"new": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"] and json.loads(path.read_text())["b"] == 1


# ------------------------------------------------------------------------------------------------ types and schema


def without(record, name):
    return {key: value for key, value in record.items() if key != name}


def nested(outer, **changes):
    return lambda record: record | {outer: record[outer] | changes}


def setting(**changes):
    return lambda record: record | changes


@pytest.fixture(scope="module")
def json_schema():
    return Draft202012Validator(json.loads(schema.SCHEMA_PATH.read_text(encoding="utf-8")))


def test_the_schema_file_is_the_one_generated_from_the_types(json_schema):
    Draft202012Validator.check_schema(json_schema.schema)
    assert json_schema.schema == schema.json_schema(), "write it anew: python -m clipa.schema"


def test_types_and_schema_accept_every_stored_record(json_schema):
    paths = sorted((ROOT / "results").glob("published/*.json")) + sorted(
        (ROOT / "results").glob("recorded/**/*.json")
    )
    assert len(paths) > 200
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        check_document(document, path.name)
        assert json_schema.is_valid(document), path


EITHER = {
    "stage": setting(stage="warmup"),
    "image reduction": setting(image_reduction="blur"),
    "text reduction": setting(text_reduction="shuffle"),
    "version": setting(schema_version=2),
    "source": setting(source="guessed"),
    "no source": lambda record: without(record, "source"),
    "id": setting(id="an id"),
    "table": setting(table=16),
    "figure": setting(figure=0),
    "run": setting(run="S16"),
    "benchmark": setting(benchmark="/data/imagenet"),
    "column": setting(column=3),
    "text number": setting(image_size="224"),
    "yes as a number": setting(image_size=True),
    "fraction": setting(patches=3.5),
    "class token alone": setting(image_tokens=1),
    "no tokens": setting(text_tokens=0),
    "unknown field": setting(colour="red"),
    "above 100": setting(value=100.5),
    "below 0": setting(value=-1),
    "value in words": setting(value="many"),
    **{
        f"run without {name}": setting(**{name: None})
        for name in ("image_reduction", "image_size", "text_reduction", "text_tokens")
    },
}
MEASURED = {
    "no value": setting(value=None),
    "no run": setting(run=None),
    "no model": setting(model=None),
    "scale": setting(scale="Micro"),
    "seed": setting(seed=-1),
    "error": setting(standard_error=-0.1),
    "fingerprint": setting(stage_fingerprint="0123ABCD"),
    "protocol": setting(protocol="0123"),
    "recipe": setting(recipe=""),
    "fields of published records": setting(unit="percent"),
    "dataset of nothing": nested("dataset", n=0),
    "unknown part": nested("actual", depth=3),
    "width": nested("actual", width=0),
    "kind of outcomes": nested("outcomes", kind="bytes"),
    "outcomes": nested("outcomes", data="not base64"),
    "commit": nested("provenance", commit="main"),
    "dirty": nested("provenance", dirty="no"),
    "packages": nested("provenance", packages={"torch": 2}),
    "path of a package": nested("provenance", packages={"torch": "/opt/torch"}),
    "time": nested("provenance", created="2026-01-02"),
    "seconds": nested("provenance", seconds=-1),
}
PUBLISHED = {
    "scale": setting(scale="micro-v1"),
    "unit": setting(unit="metres"),
    "nowhere": setting(table=None),
    "no row": setting(row=None),
    "no column": setting(column=None),
    "nothing printed": setting(printed=""),
    "truth": setting(unit="text", value=True),
    "words in a list": setting(unit="count", value=[1, "two"]),
    "twice the same": setting(same_as=["a", "a"]),
    "case": setting(case="gap pooling"),
    "recipe": nested("factors", recipe="FLIP"),
    "ratio": nested("factors", finetune_mask_ratio=[1.5]),
    "samples": nested("factors", finetune_samples=3),
    "fields of measured records": setting(standard_error=0.1),
}


@pytest.mark.parametrize(
    ("source", "spoil"),
    [
        pytest.param(source, spoil, id=f"{source} {name}")
        for source, cases in (("record", EITHER | MEASURED), ("published", EITHER | PUBLISHED))
        for name, spoil in cases.items()
    ],
)
def test_types_and_schema_refuse_alike(request, json_schema, source, spoil):
    good = request.getfixturevalue(source)
    for record, valid in ((good, True), (spoil(good), False)):
        document = {"schema_version": 1, "records": [record]}
        assert json_schema.is_valid(document) == valid
        fault = schema.fault(document)
        assert (fault is None) == valid
    assert fault.startswith(f"record {spoil(good)['id']}: ") and "\n" not in fault and len(fault) < 300


def test_types_and_schema_require_the_same_fields(json_schema, record, published):
    for good in (record, published):
        for name in good:
            document = {"schema_version": 1, "records": [without(good, name)]}
            assert schema.fault(document) and not json_schema.is_valid(document), name
    for document in (None, [], {}, {"schema_version": 1}, {"schema_version": 1, "records": [3]}):
        assert schema.fault(document) and not json_schema.is_valid(document), document


@pytest.mark.parametrize("field", ["id", "metric", "value"])
def test_a_fault_names_the_record_by_number_where_it_has_no_id(record, field):
    fault = schema.fault({"schema_version": 1, "records": [record, without(record, "id") | {field: []}]})
    assert fault.startswith("record number 1: field " if field != "id" else "record []: field id: ")


# ------------------------------------------------------------------------------------------------------- outcomes


@pytest.mark.parametrize("n", [1, 7, 8, 9, 4001])
def test_outcomes_round_trip(n):
    random = numpy.random.default_rng(n)
    bits, ranks = random.random(n) < 0.3, random.integers(0, 65536, n)
    for found in (bits, ranks):
        encoded = encode_outcomes(found)
        json.dumps(encoded)
        assert numpy.array_equal(decode_outcomes(encoded), found)
    short = encode_outcomes(bits) | {"n": n + 8}
    with pytest.raises(ValueError, match="bytes for"):
        decode_outcomes(short)


def test_outcomes_refuse_what_they_cannot_hold():
    for wrong in ([0.5, 0.5], [70000], [-1], [[True]], []):
        with pytest.raises(ValueError, match="outcomes"):
            encode_outcomes(numpy.asarray(wrong))


def test_ranks_are_correct_below_the_cut_off():
    ranks = encode_outcomes(numpy.array([0, 4, 5, 900]))
    for metric, expected in (("image_retrieval_recall@5", 2), ("image_retrieval_recall@1", 1), ("acc5", 2)):
        assert correct_items({"id": "one", "metric": metric, "outcomes": ranks}).sum() == expected


def test_paired_drop_by_hand():
    baseline = numpy.array([1, 1, 1, 0], bool)
    reduced = numpy.array([1, 0, 0, 0], bool)
    drop, error = paired_drop(baseline, reduced)
    assert drop == 50 and error == pytest.approx(100 * 0.5 / 2)
    with pytest.raises(ValueError, match="same test set"):
        paired_drop(baseline, reduced[:3])


@pytest.mark.parametrize(
    "content", [b"[" * 20_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b"", b"[", b"null"]
)
def test_what_is_no_json_ends_in_one_line(tmp_path, content):
    path = tmp_path / "records.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
