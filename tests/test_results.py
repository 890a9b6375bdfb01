"""Records: schema, ids, outcomes, drops, atomic writing."""

import json
import os
import subprocess
import sys

import numpy
import pytest

from clipa import results
from clipa.results import RecordError
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
        "column": "S/16 fine-tune",
        "printed": "25.0",
    }
    kept |= {"note": None, "same_as": [], "value": 25.0}
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


@pytest.mark.parametrize("n", [1, 7, 8, 9, 4001])
def test_outcomes_round_trip(n):
    random = numpy.random.default_rng(n)
    bits, ranks = random.random(n) < 0.3, random.integers(0, 65536, n)
    for outcomes in (bits, ranks):
        encoded = results.encode_outcomes(outcomes)
        json.dumps(encoded)
        assert numpy.array_equal(results.decode_outcomes(encoded), outcomes)
    short = results.encode_outcomes(bits) | {"n": n + 8}
    with pytest.raises(ValueError, match="bytes for"):
        results.decode_outcomes(short)


def test_outcomes_refuse_what_they_cannot_hold():
    for wrong in ([0.5, 0.5], [70000], [-1], [[True]], []):
        with pytest.raises(ValueError, match="outcomes"):
            results.encode_outcomes(numpy.asarray(wrong))


def test_ranks_are_correct_below_the_cut_off(record):
    ranks = results.encode_outcomes(numpy.array([0, 4, 5, 900]))
    for metric, expected in (("image_retrieval_recall@5", 2), ("image_retrieval_recall@1", 1), ("acc5", 2)):
        assert results.correct_items(record | {"metric": metric, "outcomes": ranks}).sum() == expected


def test_paired_drop_by_hand():
    baseline = numpy.array([1, 1, 1, 0], bool)
    reduced = numpy.array([1, 0, 0, 0], bool)
    drop, error = results.paired_drop(baseline, reduced)
    assert drop == 50 and error == pytest.approx(100 * 0.5 / 2)
    with pytest.raises(ValueError, match="same test set"):
        results.paired_drop(baseline, reduced[:3])


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
    short |= {"outcomes": results.encode_outcomes(numpy.arange(100) < 20)}
    frame = results.frame_of([long, short | {"id": results.record_id(short)}])
    assert frame["drop"][1] == 10


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
