"""Training survives what machines do to it, and ends with the same bits."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipa.train import learning_rate, train_stage
from small_training import BATCH, STEPS, TORCHRUN, losses, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden_loss.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training")
    draw_small_world(tiny_scale(), root, ())
    return root


def run(world: Path, *scenarios: dict, launcher: tuple[str, ...] = ()) -> tuple[list[int], str]:
    """Exit codes of the scenarios' processes, and what they said."""
    done = subprocess.run(**process_of(world, *scenarios, launcher=launcher), timeout=300)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def process_of(world: Path, *scenarios: dict, launcher: tuple[str, ...] = ()) -> dict:
    """The arguments of the subprocess that trains the scenarios."""
    command = [sys.executable, *launcher, str(TESTS / "small_training.py"), str(world), json.dumps(scenarios)]
    paths = [str(TESTS.parent / "src"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return {"args": command, "env": environment, "text": True, **pipes}


def outcome(world: Path, runs: str, stage=None, steps: int = STEPS) -> dict:
    """Everything that must be the same bits: final weights and optimizer, exported weights, loss log."""
    directory = world / runs / (stage or tiny_stages()[0]).directory
    [final] = sorted(directory.glob(f"checkpoint-{steps:09d}-*"))
    files = sorted(final.glob("*.safetensors")) or [final]
    return {
        "state": [{name: t.numpy().tobytes() for name, t in load_file(file).items()} for file in files],
        "export": (directory / "open_clip" / "open_clip_model.safetensors").read_bytes(),
        "losses": (directory / "loss.jsonl").read_text(),
    }


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> dict:
    codes, said = run(world, {"runs": "undisturbed", "both": True})
    assert codes == [0], said
    return outcome(world, "undisturbed")


@pytest.mark.parametrize(
    ("name", "deaths"),
    [
        ("first", [{"die": "update", "step": 0, "signal": 9}]),
        ("middle-twice", [{"die": "update", "step": step, "signal": 9} for step in (5, 8)]),
        ("last", [{"die": "update", "step": STEPS - 1, "signal": 9}]),
        ("first-checkpoint", [{"die": "write", "step": 1, "signal": 9}]),
        ("last-checkpoint", [{"die": "write", "step": 4, "signal": 9}]),
    ],
)
def test_killed_at_any_step_it_ends_with_the_same_bits(
    world, undisturbed, name: str, deaths: list[dict]
) -> None:
    codes, said = run(world, *({"runs": name, **death} for death in deaths), {"runs": name})
    assert codes == [-9] * len(deaths) + [0], said
    assert outcome(world, name) == undisturbed


def test_sigterm_saves_and_says_so(world: Path, undisturbed: dict) -> None:
    codes, said = run(world, {"runs": "term", "die": "update", "step": 4, "signal": 15})
    assert codes == [75] and "stopped after step 5 of 12" in said
    codes, _ = run(world, {"runs": "term"})
    assert codes == [0] and outcome(world, "term") == undisturbed


def test_a_signal_is_heard_within_a_step(world: Path) -> None:
    """Eight passes a step. What was computed of it is dropped; in the last pass the step is finished first."""
    stage = {"schedule": {"microbatch": 4}}
    dying = [(1, signal.SIGTERM), (26, signal.SIGTERM), (31, signal.SIGUSR1), (32, signal.SIGTERM)]
    scenarios = [{"runs": "in-passes", "stage": stage}]
    for passes, number in dying:
        resumed = {"runs": f"in-passes-{passes}", "stage": stage}
        scenarios += [resumed | {"die": "pass", "step": passes, "signal": number}, resumed]
    codes, said = run(world, *scenarios)
    assert codes == [0, *[75, 0] * len(dying)], said
    assert re.findall(r"stopped after step (\d+) of 12", said) == ["0", "3", "3", "4"]
    undisturbed, *others = (outcome(world, each["runs"], tiny_stages(**stage)[0]) for each in scenarios)
    assert all(other == undisturbed for other in others)


def test_a_finished_stage_is_not_trained_again(world: Path, undisturbed: dict) -> None:
    """Also when Snakemake has deleted its stage.json: all of it is in the final checkpoint."""
    path = world / "undisturbed" / tiny_stages()[0].directory / "stage.json"
    before = json.loads(path.read_text())
    path.unlink()
    codes, _ = run(world, {"runs": "undisturbed"})
    assert codes == [0] and json.loads(path.read_text()) == before


def test_a_waiting_process_finds_the_work_done(world: Path, undisturbed: dict) -> None:
    """Two processes on one stage: the second waits for the lock, then finds the final checkpoint."""
    both = [subprocess.Popen(**process_of(world, {"runs": "shared"})) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert all("[0]" in out for out, _ in said), said
    # Steps are shown as they are made; a stage that is trained once shows its first step once.
    assert sum(out.count(f"step {STEPS}/{STEPS}") for out, _ in said) == 1
    assert outcome(world, "shared") == undisturbed


def test_fine_tuning_starts_from_the_parent(world: Path, undisturbed: dict) -> None:
    pretrain, finetune = tiny_stages()
    root = world / "undisturbed"
    parent = load_file(root / pretrain.directory / "open_clip" / "open_clip_model.safetensors")
    child = load_file(root / finetune.directory / "open_clip" / "open_clip_model.safetensors")
    positions = "visual.positional_embedding"
    assert parent[positions].shape[0] == 5 and child[positions].shape[0] == 65
    made = json.loads((root / finetune.directory / "stage.json").read_text())
    assert made["content"]["parent"] == pretrain.fingerprint
    # Twelve small updates: still near the parent, far from another initialisation.
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert (parent[name] - child[name]).norm() < 0.5 * parent[name].norm()


def test_workers_do_not_change_the_weights(world: Path, undisturbed: dict) -> None:
    codes, said = run(world, {"runs": "workers", "stage": {"workers": 4}})
    assert codes == [0], said
    assert tiny_stages(workers=4)[0].fingerprint == tiny_stages()[0].fingerprint
    assert outcome(world, "workers") == undisturbed


def test_two_processes_train_the_same_global_batch(world: Path, undisturbed: dict) -> None:
    """torchrun with two gloo processes, gradients cached in two passes each: one process's losses."""
    stage = {"processes": 2, "schedule": {"microbatch": 4}}
    codes, said = run(world, {"runs": "ranks", "stage": stage}, launcher=TORCHRUN)
    assert codes == [0], said
    one = losses(world, "undisturbed", tiny_stages()[0])
    assert one == pytest.approx(losses(world, "ranks", tiny_stages(**stage)[0]), abs=2e-4)


def test_divergence_stops_before_the_update(world: Path) -> None:
    wild = {"schedule": {"base_lr": dict.fromkeys(tiny_scale().models, 1e30), "warmup_steps": 0}}
    codes, said = run(world, {"runs": "wild", "stage": wild})
    assert codes == [1] and "NonFinite" in said and "stopped before the update" in said
    directory = world / "wild" / tiny_stages(**wild)[0].directory
    assert not (directory / "stage.json").exists()
    for path in directory.glob("checkpoint-*"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def test_golden_losses(world: Path, undisturbed: dict) -> None:
    """Thirty steps: bit for bit on processors with a recorded curve, within a stated tolerance elsewhere.

    A change here means that the same configuration trains other weights: raise resolved.SEMANTICS and write the new
    curve with ``python tests/golden_loss.py``, which also adds the curve of another processor.
    """
    from golden_loss import TOLERANCE, capability, golden_losses

    curves = json.loads(GOLDEN.read_text())["curves"]
    made = golden_losses(world)
    assert len(made) == 30 and made[-1] < math.log(BATCH)
    if own := curves.get(capability()):
        assert made == own
    for curve in curves.values():
        assert made == pytest.approx(curve, abs=TOLERANCE)


def test_learning_rate() -> None:
    rates = [learning_rate(step, 100, 10, 2.0) for step in range(100)]
    assert rates[0] == 0.2 and rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0) and 0 < rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_wrong_number_of_processes_is_refused(world: Path) -> None:
    codes, said = run(world, {"runs": "one", "stage": {"processes": 2}})
    assert codes == [1] and "torchrun" in said


def test_missing_data_is_named(tmp_path: Path) -> None:
    from clipa.data.shards import ShardError

    with pytest.raises(ShardError, match=r"manifest\.json is missing: draw or download"):
        train_stage(resolved(tiny_stages()[0], tmp_path))
