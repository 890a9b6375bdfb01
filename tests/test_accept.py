"""What may be committed as a measurement, and what is refused."""

import shutil
from pathlib import Path

import numpy
import pytest

from clipa import accept as accept_module
from clipa.accept import AcceptError, accept, accept_plan
from clipa.config import load_scale
from clipa.plan import load_plan
from clipa.records import encode_outcomes, read_records, record_id, write_records
from clipa.stages import stages_of
from clipa.study import parse_run
from fabricated import LENGTHS, measured_record

CONFIG = Path(__file__).parents[1] / "config"


@pytest.fixture(scope="module")
def scale():
    return load_scale("micro-v1", CONFIG)


def records_of(scale, image="resize64", seed=0):
    """The records of one run, as its evaluation would write them."""
    correct = numpy.random.default_rng(seed).random(500) < 0.3
    stages = stages_of(parse_run(f"S16-{image}-truncation32"), scale, seed)
    made = [measured_record("S/16", image, s.kind, seed, correct) for s in stages]
    for record, stage in zip(made, stages, strict=True):
        record["stage_fingerprint"] = stage.fingerprint
    return made, stages


@pytest.fixture
def written(tmp_path, scale):
    made, stages = records_of(scale)
    path = tmp_path / "runs" / "records.json"
    path.parent.mkdir()
    write_records(path, made)
    return path, made, stages, tmp_path / "recorded"


def known(_commit):
    return True


def test_good_records_are_written_where_the_plan_looks(written, scale):
    path, made, stages, root = written
    (target,) = accept([path], scale, root, knows_commit=known)
    assert target == root / "micro-v1/S16-resize64-truncation32" / f"seed0-{stages[-1].fingerprint}.json"
    assert read_records(target) == made
    before = target.stat().st_mtime_ns
    accept([path], scale, root, knows_commit=known)  # again: nothing to do, nothing touched
    assert target.stat().st_mtime_ns == before


def test_other_records_replace_only_when_told(written, scale):
    path, made, _, root = written
    (target,) = accept([path], scale, root, knows_commit=known)
    made[0]["provenance"]["seconds"] = 99.0
    write_records(path, made)
    with pytest.raises(AcceptError, match="--replace"):
        accept([path], scale, root, knows_commit=known)
    assert read_records(target)[0]["provenance"]["seconds"] == 12.5
    accept([path], scale, root, replace=True, knows_commit=known)
    assert read_records(target)[0]["provenance"]["seconds"] == 99.0


def spoil_provenance(**changes):
    return lambda made: [r["provenance"].update(changes) for r in made]


def spoil_last(**changes):
    return lambda made: made[-1].update(changes)


def drop_stage(made):
    made.pop()


def other_benchmark(made):
    made[0]["benchmark"] = "objectnet"
    made[0]["dataset"]["name"] = "pictograms/v1/odd"
    made[0]["id"] = record_id(made[0])


def other_seed(made):
    made[1]["seed"] = 1
    made[1]["id"] = record_id(made[1])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_provenance(dirty=True), "uncommitted changes"),
        (spoil_provenance(commit=None, dirty=None), "outside a git checkout"),
        (spoil_last(stage_fingerprint="0123456789ab"), "the configuration says"),
        (spoil_last(value=31.0), "its outcomes give"),
        (spoil_last(standard_error=0.1), "field standard_error"),
        (spoil_last(outcomes=encode_outcomes(numpy.ones(499, bool))), "499 outcomes for a test set of 500"),
        (spoil_last(patches=36, image_tokens=37), "field patches is 36, the run says 16"),
        (drop_stage, "no record of stage finetune"),
        (other_benchmark, "not measured on the same benchmarks"),
        (other_seed, "mix several"),
        (lambda made: made.clear(), "holds no records"),
    ],
)
def test_doubtful_records_are_refused_in_one_line(written, scale, spoil, said):
    path, made, _, root = written
    spoil(made)
    write_records(path, made)
    with pytest.raises(AcceptError, match=said) as caught:
        accept([path], scale, root, knows_commit=known)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert not root.exists()


def test_all_or_nothing(written, scale, tmp_path):
    path, _, _, root = written
    bad, _ = records_of(scale, seed=1)
    bad[0]["provenance"]["dirty"] = True
    write_records(tmp_path / "bad.json", bad)
    with pytest.raises(AcceptError, match="uncommitted"):
        accept([path, tmp_path / "bad.json"], scale, root, knows_commit=known)
    assert not root.exists()
    with pytest.raises(AcceptError, match="same run and seed"):
        accept([path, path], scale, root, knows_commit=known)


def test_an_unknown_commit_is_refused(written, scale):
    path, _, _, root = written
    with pytest.raises(AcceptError, match="commit 000000000000 is not in this repository"):
        accept([path], scale, root)
    assert not accept_module.git_knows("0" * 40)


def test_published_numbers_and_other_scales_are_refused(written, scale):
    path, _, _, root = written
    published = CONFIG.parent / "results" / "published" / "table11.json"
    with pytest.raises(AcceptError, match="mix several"):
        accept([published], scale, root, knows_commit=known)
    with pytest.raises(AcceptError, match="measured at scale micro-v1, not paper"):
        accept([path], load_scale("paper", CONFIG), root, knows_commit=known)


def test_a_whole_plan_is_accepted_or_nothing(tmp_path):
    shutil.copytree(CONFIG, tmp_path / "config")
    plan = load_plan({"scale": "ci", "seeds": [0]}, tmp_path)
    correct = numpy.random.default_rng(0).random(300) < 0.3
    paths = []
    for run in plan.runs():
        image = run.slug.split("-")[1]
        stages = plan.job(run, 0).stages
        made = [measured_record(run.model, image, s.kind, 0, correct, scale="ci") for s in stages]
        for record, stage in zip(made, stages, strict=True):
            record["stage_fingerprint"] = stage.fingerprint
        paths.append(tmp_path / plan.job(run, 0).output)
        paths[-1].parent.mkdir(parents=True)
        write_records(paths[-1], made)
    hidden = paths[0].rename(paths[0].with_suffix(".away"))
    with pytest.raises(AcceptError, match="not measured yet"):
        accept_plan(plan, knows_commit=known)
    assert not plan.all_recorded()
    hidden.rename(paths[0])
    assert len(accept_plan(plan, knows_commit=known)) == len(paths) == len(plan.all_recorded())
    again = load_plan({"scale": "ci", "seeds": [0]}, tmp_path)
    filled = {job.records for job in again.jobs()}
    assert sorted(filled) == plan.all_recorded()  # what is recorded now fills the cells
    paths[0].unlink()
    assert len(accept_plan(plan, knows_commit=known)) == len(paths) - 1  # recorded before: nothing missing


def test_the_baseline_has_one_stage(scale, tmp_path):
    made, stages = records_of(scale, image="none")
    assert len(made) == len(stages) == 1 and LENGTHS["none"][1] == made[0]["patches"]
    write_records(tmp_path / "records.json", made)
    (target,) = accept([tmp_path / "records.json"], scale, tmp_path / "recorded", knows_commit=known)
    assert target.parent.name == "S16-none-truncation32"


def test_a_suite_is_kept_apart_and_must_be_whole(tmp_path, scale):
    correct = numpy.random.default_rng(1).random(500) < 0.3
    (stage,) = stages_of(parse_run("S16-none-truncation32"), scale, 0)
    made = [
        measured_record(
            "S/16", "none", "pretrain", 0, correct, stage_fingerprint=stage.fingerprint, benchmark=name
        )
        for name in scale.evaluation.suite
    ]
    for record, data in zip(made, scale.evaluation.suite.values(), strict=True):
        record["dataset"]["name"] = f"{scale.data.name}/{data.partition('/')[0]}"
    path = tmp_path / "suite.json"
    write_records(path, made)
    (target,) = accept([path], scale, tmp_path / "recorded", knows_commit=known)
    assert target.parent == tmp_path / "recorded/micro-v1/S16-none-truncation32/suite"
    write_records(path, made[:-1])
    with pytest.raises(AcceptError, match="no record of aro/coco_order; evaluate the whole suite"):
        accept([path], scale, tmp_path / "recorded", knows_commit=known)
