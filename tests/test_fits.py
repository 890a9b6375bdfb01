"""What a card's memory holds: counted activations, and the way that is chosen with them."""

from dataclasses import replace

import pytest

import clipa.cli.fits
import clipa.memory
from benchmarks.memory import counted
from clipa.cards import CARDS, CPU
from clipa.cli.fits import completed
from clipa.cli.planning import cost_of, report
from clipa.config import ConfigError, Project
from clipa.fits import (
    MODES,
    USABLE,
    Counted,
    best,
    execution,
    key,
    needed,
    read_table,
    resolve_fitting,
    share,
    ways,
    write_table,
)
from clipa.memory import bytes_of_a_sample
from clipa.plan import load_plan
from clipa.stages import Stage
from clipa.study import parse_run


@pytest.fixture(scope="module")
def plan():
    return load_plan({"scale": "paper", "seeds": [0]})


def stage_of(plan, run: str, number: int = 0) -> Stage:
    return plan.job(parse_run(run), 0).stages[number]


@pytest.mark.parametrize("run", ["S16-resize64-truncation32", "S16-random49-truncation32"])
@pytest.mark.parametrize("mode", MODES)
def test_a_pass_needs_what_torchs_own_tracker_counts(plan, run, mode):
    stage = stage_of(plan, run)
    found = bytes_of_a_sample(stage.model_config, stage.kept_patches, mode, "bf16", "packed")
    assert found == pytest.approx(counted(stage, mode), rel=0.1)
    assert read_table()[key(stage)].activations[mode] == round(found)  # what is tracked is still so


def test_checkpointing_and_masks_need_less(plan):
    full, masked = (stage_of(plan, f"S16-{image}-truncation32") for image in ("none", "random49"))
    sizes = [
        bytes_of_a_sample(full.model_config, full.kept_patches, mode, "bf16", "packed") for mode in MODES
    ]
    assert sizes[0] > 1.3 * sizes[1] > 3 * sizes[2]
    assert bytes_of_a_sample(masked.model_config, 49, False, "bf16", "packed") < 0.5 * sizes[0]


def test_the_fewest_forward_passes_are_chosen(plan):
    stage = stage_of(plan, "L16-none-truncation32")
    table = {
        key(stage): Counted(414_000_000, {False: 168_000_000, "selective": 102_000_000, True: 18_000_000})
    }
    share = stage.schedule.batch_size // stage.scale.processes
    for card in CARDS:
        fit = best(stage, card, table)
        assert fit.bytes == needed(stage, fit.samples, fit.checkpointing, table[key(stage)])
        assert fit.bytes <= USABLE * CARDS[card].memory
        assert all(fit.passes <= other.passes for other in ways(stage, card, table))
    # 4096 samples of 18 MB do not fit 80 GB in one pass; in several, nothing is gained by running blocks again.
    assert (best(stage, "H100-80", table).samples, best(stage, "H100-80", table).checkpointing) == (
        256,
        False,
    )
    small = {key(stage): Counted(10, dict.fromkeys(MODES, 1_000_000))}
    assert (best(stage, "H100-80", small).samples, best(stage, "H100-80", small).passes) == (share, 3.0)
    huge = {key(stage): Counted(414_000_000, dict.fromkeys(MODES, 10**12))}
    assert best(stage, "H200-141", huge) is None


def test_the_table_is_written_and_read(tmp_path):
    table = {"a": Counted(3, {False: 3, "selective": 2, True: 1})}
    write_table(table, tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == table and read_table(tmp_path / "none.json") == {}


def test_the_table_that_is_tracked_changes_only_when_asked(plan, monkeypatch, capsys):
    stage, kept = stage_of(plan, "S16-none-truncation32"), []
    found = Counted(3, {False: 3, "selective": 2, True: 1})
    monkeypatch.setattr(clipa.cli.fits, "read_table", dict)
    monkeypatch.setattr(clipa.cli.fits, "write_table", kept.append)
    monkeypatch.setattr(clipa.memory, "count", lambda _: found)
    assert completed([stage], write=False) == {key(stage): found} and not kept
    assert "--write keeps the counts" in capsys.readouterr().err
    assert completed([stage], write=True) == {key(stage): found} and kept == [{key(stage): found}]


def test_every_stage_of_the_paper_fits_80_gb(plan):
    """With what is tracked; a stage that the plan has got since then is counted by `clipa fits --write`."""
    table = read_table()
    missing = [stage.run.slug for stage in plan.stages.values() if key(stage) not in table]
    assert not missing
    assert all(best(stage, "A100-80", table) for stage in plan.stages.values())


def test_a_stage_starts_as_it_fits_its_card(plan):
    """The file that a training starts from says how; the stage's identity does not."""
    stage, found = stage_of(plan, "L16-none-truncation32"), {}
    for card in ("A100-40", "A100-80", "H200-141"):
        resolved = resolve_fitting(stage, Project(card=card))
        fit = best(stage, card, read_table())
        assert (resolved.microbatch or share(stage)) == fit.samples
        assert resolved.activation_checkpointing == fit.checkpointing
        assert resolved.fingerprint == stage.fingerprint
        found[card] = fit.samples, fit.checkpointing
    assert len(set(found.values())) > 1, "the cards are alike"
    assert (resolve_fitting(stage, Project()).microbatch or share(stage)) == found["A100-80"][0]


def test_what_cannot_fit_is_refused_in_one_line(plan):
    stage = stage_of(plan, "L16-none-truncation32")
    huge = {key(stage): Counted(414_000_000, dict.fromkeys(MODES, 10**12))}
    with pytest.raises(
        ConfigError, match=r"^L16-none-truncation32 pretrain at scale paper: does not fit A100-80"
    ):
        execution(stage, "A100-80", huge)
    with pytest.raises(ConfigError, match=r"`clipa fits --scale paper --write` counts them$"):
        execution(stage, "A100-80", {})
    schedule = plan.scale.pretrain.model_copy(update={"microbatch": 4096})
    asked = replace(stage, scale=plan.scale.model_copy(update={"pretrain": schedule}))
    with pytest.raises(ConfigError, match=r"4096 samples a pass need \d+\.\d GB a process, 72\.0 of A100-80"):
        execution(asked, "A100-80", read_table())
    assert asked.fingerprint == stage.fingerprint


def test_a_cpus_memory_is_what_its_job_asks_for():
    plan = load_plan({"scale": "ci", "seeds": [0]})
    stage = next(iter(plan.stages.values()))
    table = {key(stage): Counted(10**6, dict.fromkeys(MODES, 10**6))}
    fit = execution(stage, CPU, table)
    assert 0 < fit.bytes < USABLE * plan.scale.resources.memory_mb * 1e6
    assert resolve_fitting(stage, plan.project).microbatch is None, "as configured"


def test_the_plan_says_what_fits(plan):
    costs = cost_of(plan, "table14", 8, {})
    assert costs["memory"]["card"] == "A100-80" and not costs["memory"]["misfits"]
    assert f"all stages fit A100-80, at most {costs['memory']['bytes'] / 1e9:.3g} GB" in " ".join(
        report(costs).split()
    )
    schedule = plan.scale.pretrain.model_copy(update={"microbatch": 32768})
    asked = replace(plan, scale=plan.scale.model_copy(update={"pretrain": schedule}), _known={})
    wrong = cost_of(asked, "table14", 8, {})
    assert "1 stage cannot be trained so: B16-" in " ".join(report(wrong).split())
    assert (
        cost_of(load_plan({"scale": "micro-v1", "reuse_recorded": False}), "table11", 2, {})["memory"] is None
    )
