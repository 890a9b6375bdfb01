"""What the accepted records of the micro-v1 scale must say for the artifact to stand: they are there, they are what the
configuration would measure, and the world does what docs/world.md promises.
"""

import re
from pathlib import Path
from statistics import mean

import pytest

from clipa.plan import load_plan
from clipa.records import load_records, read_records

ROOT = Path(__file__).parents[1]
PLAN = load_plan({"scale": "micro-v1"}, ROOT)
SHIFTED = ("imagenet-r", "imagenet_sketch", "imagenet-a", "objectnet")


def accuracies(model: str, image: str, stage: str) -> list[float]:
    """Accuracy by seed of a cell of the demo's runs."""
    slug = f"{model}-{image}-truncation32"
    values = []
    for seed in PLAN.project.seeds:
        path = PLAN.asked(slug, seed).accepted
        assert path, f"{slug}, seed {seed}: not recorded, or recorded with another configuration"
        values += [record["value"] for record in read_records(ROOT / path) if record["stage"] == stage]
    return values


def suite(model: str) -> dict[str, dict]:
    [path] = [job.accepted for job in PLAN.jobs("suite") if job.run.model == model]
    assert path, f"{model}: the suite is not recorded for this configuration"
    return {f"{r['benchmark']} {r['metric']}": r for r in read_records(ROOT / path)}


def test_three_seeds_of_every_run_are_recorded_and_nothing_is_left_to_train() -> None:
    assert PLAN.project.seeds == [0, 1, 2]
    assert not PLAN.work().pending


def test_the_models_learn_and_the_larger_one_learns_more() -> None:
    small, large = (mean(accuracies(model, "none", "pretrain")) for model in ("S16", "L16"))
    assert small >= 15.0
    assert large >= small + 5.0


@pytest.mark.parametrize("model", ["S16", "B16", "L16"])
def test_the_shortest_sequence_costs_every_model(model: str) -> None:
    full = mean(accuracies(model, "none", "pretrain"))
    assert full - mean(accuracies(model, "resize64", "finetune")) >= 3.0


def difference(one: dict, other: dict) -> float:
    """Difference of two accuracies on different items, in its standard errors."""
    return (one["value"] - other["value"]) / (
        one["standard_error"] ** 2 + other["standard_error"] ** 2
    ) ** 0.5


@pytest.mark.parametrize("model", ["B/16", "L/16"])
def test_each_shifted_set_costs_and_the_fresh_draw_does_not(model: str) -> None:
    records = suite(model)
    plain = records["imagenet1k acc1"]
    for benchmark in SHIFTED:
        assert difference(plain, records[f"{benchmark} acc1"]) >= 2.0, benchmark
    assert abs(difference(plain, records["imagenetv2 acc1"])) < 3.0


def test_the_suite_is_measured_on_one_checkpoint_a_model() -> None:
    for model in ("S/16", "B/16", "L/16"):
        records = suite(model)
        # Recorded when the kinds of order items were metrics of one benchmark, `aro`; now each is a benchmark.
        wanted = {"aro" if name.startswith("aro/") else name for name in PLAN.scale.evaluation.suite}
        assert {record["benchmark"] for record in records.values()} == wanted
        assert len({record["stage_fingerprint"] for record in records.values()}) == 1


def test_the_pages_say_what_the_records_of_micro_say() -> None:
    from clipa.law import examine
    from clipa.law import report as report_of
    from clipa.law.verdicts import PRIMARIES

    paths = [ROOT / path for path in load_plan({"scale": "micro"}, ROOT).all_recorded()]
    found = examine(load_records(paths))
    report = report_of(found)
    assert f"```text\n{report.strip()}\n```" in (ROOT / "docs" / "found-micro.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for heading in ("Convergence gate", "Primary hypotheses"):
        block = "".join(report.partition(heading)[1:]).partition("\n\n")[0]
        assert f"```text\n{block}\n```" in readme, heading
    # A seed is accepted as a whole: every model of a primary length that was run at all.
    for primary in PRIMARIES:
        if (length := found.summary.length(primary.label)) is not None:
            assert not length.left_out


def test_the_pages_say_what_the_records_say() -> None:
    from clipa.law import comparison_report, main_report

    paths = [ROOT / path for path in PLAN.all_recorded()]
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    masks = [path for path in paths if re.match(r"S16-(block|grid)", path.parent.name)]
    assert f"```text\n{comparison_report(masks).strip()}\n```" in method
    found = (ROOT / "docs" / "found.md").read_text(encoding="utf-8")
    for report in (main_report(paths), comparison_report(paths)):
        assert f"```text\n{report.strip()}\n```" in found
