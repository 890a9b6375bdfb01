"""AdamW, and Muon where a schedule asks for it: what each updates, and that a stage survives as with AdamW alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipa import models, train
from clipa.optimizers import optimizers_of
from small_training import STEPS, TORCHRUN, losses, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world
from test_train import outcome, run

MUON = {"schedule": {"muon": {"lr": 0.02}}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("optimizers")
    draw_small_world(tiny_scale(), root, ())
    return root


@pytest.fixture(scope="module")
def codes(world: Path) -> list[int]:
    """Exit codes: undisturbed, killed before an update and in a save and then finished."""
    kills = [{"die": "update", "step": 7, "signal": 9}, {"die": "write", "step": 1, "signal": 9}]
    each = [{"runs": "whole"}, *({"runs": "killed", **kill} for kill in kills), {"runs": "killed"}]
    codes, said = run(world, *(one | {"stage": MUON} for one in each))
    print(said)
    return codes


@pytest.mark.parametrize("run_name", ["S16-none-truncation32", "ConvNeXt-T-none-truncation32"])
def test_muon_gets_the_matrices_of_blocks_and_adamw_all_else(run_name: str) -> None:
    stage = tiny_stages(run_name, **MUON)[0]
    content = stage.content
    model = models.build(content["model"], 0)
    optimizers = optimizers_of(model, resolved(stage, Path()).content.schedule)
    assert optimizers.muon is not None
    mine = {id(p) for group in optimizers.muon.param_groups for p in group["params"]}
    its = {id(p) for group in optimizers.adamw.param_groups for p in group["params"]}
    names = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert mine | its == set(names.values()) and not mine & its
    layers = [
        len(tower.resblocks)
        for module in (model, model.visual)
        if (tower := getattr(module, "transformer", None)) is not None
    ]
    wanted = {"attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
    found = [name for name, one in names.items() if one in mine]
    assert {name.split(".", name.startswith("visual") + 3)[-1] for name in found} == wanted
    assert len(found) == 4 * sum(layers)


def test_without_muon_nothing_of_it_is_in_a_stage() -> None:
    plain, muon = tiny_stages()[0], tiny_stages(**MUON)[0]
    assert "muon" not in plain.content["schedule"] and plain.fingerprint != muon.fingerprint
    assert muon.content["schedule"]["muon"] == {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}
    stages = [tiny_stages(schedule={"muon": {"lr": 0.02} | other})[0] for other in ({}, {"momentum": 0.9})]
    assert stages[0].fingerprint == muon.fingerprint != stages[1].fingerprint


def test_a_recipe_scales_both_rates() -> None:
    schedules = {"schedules": {"finetune": {"muon": {"lr": 0.02}}}}
    name = "L16-resize112-truncation16-clipa-batch7k"
    plain, other = (tiny_stages(f"{name}{recipe}", **schedules)[-1] for recipe in ("", "-a2"))
    rates = [(s.content["schedule"]["base_lr"], s.content["schedule"]["muon"]["lr"]) for s in (plain, other)]
    assert rates[1] == pytest.approx([2 * rate for rate in rates[0]])


def test_killed_and_started_again_it_ends_with_the_same_bits(world: Path, codes: list[int]) -> None:
    assert codes == [0, -9, -9, 0]
    stage = tiny_stages(**MUON)[0]
    whole = outcome(world, "whole", stage)
    assert whole == outcome(world, "killed", stage)
    assert sum(name.endswith("momentum_buffer") for name in whole["state"][0]) > 0


def test_two_processes_train_what_one_does(world: Path, codes: list[int]) -> None:
    stage = MUON | {"processes": 2}
    found, said = run(world, {"runs": "two", "stage": stage}, launcher=TORCHRUN)
    assert found == [0], said
    one, two = (losses(world, runs, tiny_stages(**of)[0]) for runs, of in (("whole", MUON), ("two", stage)))
    assert len(one) == STEPS and one == pytest.approx(two, abs=2e-3)


@pytest.mark.parametrize("schedule", [{}, MUON["schedule"]], ids=["adamw", "muon"])
def test_a_gradient_that_is_not_finite_updates_nothing(world: Path, monkeypatch, schedule: dict) -> None:
    """Neither parameters nor moments, of both optimizers: all are those of before the step."""
    backward, started, before = train.backward, train._start, {}

    def remembered(*asked: Any) -> train.State:
        before["state"] = started(*asked)
        return before["state"]

    def poisoned(towers: torch.nn.Module, *others: Any) -> Tensor:
        loss = backward(towers, *others)
        if before["state"].step == 2:
            next(p for n, p in towers.named_parameters() if n.endswith("c_fc.weight")).grad[0, 0] = torch.nan
            before["tensors"] = copied(before["state"])
        return loss

    monkeypatch.setattr(train, "_start", remembered)
    monkeypatch.setattr(train, "backward", poisoned)
    stage = tiny_stages(schedule=schedule | {"samples": 160})[0]
    with pytest.raises(train.NonFinite, match="gradient of step 2 is not finite"):
        train.train_stage(resolved(stage, world, "poisoned"))
    after = copied(before["state"])
    assert after.keys() == before["tensors"].keys() and len(after) > 20
    assert all(torch.equal(after[name], tensor) for name, tensor in before["tensors"].items())


def copied(state: train.State) -> dict[str, Tensor]:
    tensors = train.distributed.state_dict(state.model, state.optimizer)
    return {name: tensor.clone() for name, tensor in tensors.items()}
