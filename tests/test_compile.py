"""`compile: true`: torch compiles the blocks. Losses and names of weights stay, and a kill changes no bit."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipa import models
from clipa.blocks import compile_blocks
from clipa.config import CONFIG_DIRECTORY, ConfigError, load_scale
from clipa.distributed import apply_activation_checkpointing
from clipa.fits import modes
from clipa.stages import stages_of
from clipa.study import parse_run
from small_training import TORCHRUN, losses, tiny_scale, tiny_stages
from small_world import draw_small_world
from test_blocks import config_of, gradients
from test_train import outcome, run

EAGER = {"blocks": "packed"}
COMPILED = {**EAGER, "compile": True}
compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles for a CPU with a C++ compiler"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compiled")
    draw_small_world(tiny_scale(), root, ())
    return root


@compiler
def test_losses_and_names_are_those_of_eager_blocks_and_a_kill_changes_no_bit(world: Path) -> None:
    killed = {"runs": "killed", "stage": COMPILED}
    death = {"die": "update", "step": 7, "signal": 9}
    scenarios = [{"runs": "eager", "stage": EAGER}, {"runs": "compiled", "stage": COMPILED}, killed | death]
    codes, said = run(world, *scenarios, killed)
    assert codes == [0, 0, -9, 0], said
    eager, compiled = (tiny_stages(**asked)[0] for asked in (EAGER, COMPILED))
    assert losses(world, "compiled", compiled) == pytest.approx(losses(world, "eager", eager), abs=1e-5)
    assert outcome(world, "killed", compiled) == outcome(world, "compiled", compiled)
    weights = [
        load_file(world / runs / stage.directory / "open_clip" / "open_clip_model.safetensors")
        for runs, stage in (("eager", eager), ("compiled", compiled))
    ]
    assert weights[0].keys() == weights[1].keys()


@compiler
def test_two_processes_train_with_compiled_blocks(world: Path) -> None:
    """In DistributedDataParallel, two passes each."""
    asked = {"processes": 2, "schedule": {"microbatch": 4}}
    scenarios = [{"runs": "two", "stage": {**each, **asked}} for each in (EAGER, COMPILED)]
    codes, said = run(world, *scenarios, launcher=TORCHRUN)
    assert codes == [0, 0], said
    found = [losses(world, "two", tiny_stages(**one["stage"])[0]) for one in scenarios]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@compiler
@pytest.mark.parametrize(("blocks", "precision"), [("open_clip", "fp32"), ("packed", "bf16")])
def test_gradients_are_those_of_eager_blocks(blocks: str, precision: str) -> None:
    """Under bfloat16 a fused kernel rounds less often, so it differs from eager as both do from float32."""
    config = config_of("micro-S16")
    exact = gradients(models.build(config, 3, blocks), config)[1]
    eager = gradients(models.build(config, 3, blocks), config, precision)[1]
    model = models.build(config, 3, blocks)
    compile_blocks(model)
    compiled = gradients(model, config, precision)[1]
    error = (compiled - exact).norm() / exact.norm()
    assert error < (1e-5 if precision == "fp32" else 1.2 * (eager - exact).norm() / exact.norm())


def test_without_a_compiler_torch_says_so_in_one_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    codes, said = run(world, {"runs": "none", "stage": COMPILED})
    assert codes == [1] and "ValueError: compile: true: " in said and "No working C++ compiler" in said
    assert "Traceback" not in said


def test_it_is_in_the_fingerprint_only_where_it_is_on() -> None:
    assert tiny_stages(compile=False)[0].fingerprint == tiny_stages()[0].fingerprint
    assert tiny_stages(compile=True)[0].fingerprint != tiny_stages()[0].fingerprint
    assert "compile" not in tiny_stages()[0].content


def test_it_is_refused_where_it_does_not_work(tmp_path: Path) -> None:
    scale = tiny_scale(compile=True, sharded=True, processes=2)
    with pytest.raises(ConfigError, match=r"compile: not for a sharded model, which S/16 is") as refusal:
        stages_of(parse_run("S16-none-truncation32"), scale, 0)
    assert "\n" not in str(refusal.value)
    shutil.copytree(CONFIG_DIRECTORY, tmp_path / "config")
    file = tmp_path / "config" / "scales" / "own.yaml"
    file.write_text("extends: micro\ncompile: true\npretrain: {activation_checkpointing: selective}\n")
    with pytest.raises(
        ConfigError, match=r"pretrain.activation_checkpointing: selective changes bits with `compile"
    ):
        load_scale("own", tmp_path / "config")


def test_selective_checkpointing_is_not_chosen() -> None:
    assert "selective" in modes(tiny_stages()[0])
    assert modes(tiny_stages(compile=True)[0]) == (False, True)


@compiler
def test_blocks_that_are_checkpointed_are_compiled_too() -> None:
    config = config_of("micro-S16")
    plain, checkpointed = (models.build(config, 3, "packed") for _ in range(2))
    apply_activation_checkpointing(checkpointed, True)
    for model in (plain, checkpointed):
        compile_blocks(model)
    one, other = (gradients(model, config) for model in (plain, checkpointed))
    assert torch.equal(one[1], other[1])
