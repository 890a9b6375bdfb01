"""Records: schema, ids, outcomes, drops, atomic writing."""

import json
import os
import subprocess
import sys

import numpy
import pytest

from clipa import outcomes, results
from clipa.records import RecordError
from fabricated import measured_grid, measured_record


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
    return kept | {"id": results.record_id(kept)}


def check(*records):
    results.check_document({"schema_version": 1, "records": list(records)}, "some.json")


def test_valid_records_pass_and_survive_the_file(tmp_path, record, published):
    assert record["id"] == "micro.S16-none-truncation32.pretrain.imagenet1k.acc1.seed0"
    assert published["id"] == "table11.S16-none-truncation32.pretrain.imagenet1k.acc1"
    path = tmp_path / "records.json"
    results.write_records(path, [record, published])
    assert results.read_records(path) == [record, published]
    assert len(path.read_text().splitlines()) == 4
    results.write_records(path, [])
    assert results.read_records(path) == []


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
    assert message.startswith("some.json: record micro.S16-none-truncation32")
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
    with pytest.raises(RecordError, match=r"field factors: .*colour"):
        check(published | {"factors": {"colour": "red"}})
    with pytest.raises(RecordError, match="field value"):
        check(published | {"value": 567})
    with pytest.raises(RecordError, match="occurs twice"):
        check(record, record)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("/home/someone/runs", True),
        ("local-dir:/data/model", True),
        ("python=/usr/bin/python", True),
        ("C:\\data", True),
        ("pictograms/v1/plain", False),
        ("CLIP_benchmark 1.6.2, L/16", False),
        ("https://example.org/a/b", False),
    ],
)
def test_provenance_holds_no_absolute_path(record, text, bad):
    changed = record | {"provenance": record["provenance"] | {"hardware": text}}
    assert bool(results.absolute_paths(changed)) == bad
    if bad:
        with pytest.raises(RecordError, match=r"provenance\.hardware: .*absolute path"):
            check(changed)
    else:
        check(changed)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(RecordError, match="no such records file"):
        results.read_records(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"schema_version": 1, "rec')
    with pytest.raises(RecordError, match=r"cut\.json: cannot be read as JSON"):
        results.read_records(tmp_path / "cut.json")
    (tmp_path / "old.json").write_text('{"schema_version": 0, "records": []}')
    with pytest.raises(RecordError, match="field schema_version"):
        results.read_records(tmp_path / "old.json")


def test_frame_has_drops_and_no_outcomes():
    records = measured_grid({"resize64": (10, 6, 4)}, seeds=(0, 1))
    frame = results.frame_of(records)
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
    assert results.frame_of(records)["drop"].isna().sum() == 2


def test_short_texts_drop_from_the_same_text_reduction_at_32():
    long = measured_record("S/16", "resize112", "finetune", 0, numpy.arange(100) < 30)
    short = long | {"text_tokens": 8, "run": "S16-resize112-truncation8", "value": 20.0}
    short |= {"outcomes": outcomes.encode_outcomes(numpy.arange(100) < 20)}
    frame = results.frame_of([long, short | {"id": results.record_id(short)}])
    assert frame["drop"][1] == 10


def test_a_published_id_leaves_out_what_the_number_has_not(published):
    def identity(**changes):
        return results.record_id(published | changes)

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
    frame = results.frame_of([record | {"id": results.record_id(record)} for record in (baseline, short)])
    assert list(frame["drop"]) == [0.0, 4.5]


def test_numbers_in_other_units_are_no_accuracies(published):
    setting = published | {"value": "AdamW", "unit": "text", "case": "x"}
    frame = results.frame_of([published, setting | {"id": results.record_id(setting)}])
    assert list(frame.unit) == ["percent", "text"]
    assert frame.value[0] == 25.0 and frame.value.isna()[1] and frame["drop"].isna()[1]


def test_two_files_may_not_hold_the_same_record(tmp_path, record):
    for name in ("a.json", "b.json"):
        results.write_records(tmp_path / name, [record])
    with pytest.raises(RecordError, match=r"b\.json: record .*: is in .*a\.json too"):
        results.load_frame([tmp_path / "a.json", tmp_path / "b.json"])


def test_writing_is_atomic(tmp_path, monkeypatch, record):
    path = tmp_path / "out.json"
    results.write_json_atomically(path, {"b": 1, "a": "ü"})
    assert path.read_bytes() == '{\n  "b": 1,\n  "a": "ü"\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        results.write_json_atomically(path, {"x": float("nan")})
    with pytest.raises(RecordError):
        results.write_records(path, [record | {"value": 3.0, "seed": -1}])

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        results.write_json_atomically(path, {"new": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"] and json.loads(path.read_text())["b"] == 1


def test_ground_floor_imports_only_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import clipa.results; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names); "
        "sys.exit(str(new - {'clipa'}) if new - {'clipa'} else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
