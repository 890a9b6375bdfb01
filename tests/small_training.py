"""A stage of a few steps on a few images, trained in processes that die where a scenario says.

Run as a program it imports torch once and forks one process per scenario: ``small_training.py ROOT '[{…}, …]'``.
A scenario may name ``processes`` etc. of the scale, and where to die: ``{"die": "update", "step": 3, "signal": 9}``,
of several processes all, or the one with that ``rank``.
"""

import json
import os
import signal
import sys
from pathlib import Path

from clipa.config import Project, Scale
from clipa.resolved import ResolvedStage, write
from clipa.stages import Stage, resolve, stages_of
from clipa.study import parse_run
from small_world import small_scale

STEPS = 12
BATCH = 16
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def tiny_scale(**changes: object) -> Scale:
    """The micro-v1 scale's S/16, twelve steps of sixteen samples, a checkpoint every three."""
    values = small_scale(training_images=256, images_per_shard=32).model_dump()
    values["data"] |= {"lanes": 4, "shuffle_window": 16, "workers": changes.pop("workers", 0)}
    schedules = {"pretrain": changes.pop("schedule", {}), **changes.pop("schedules", {})}
    for stage in ("pretrain", "finetune", "negclip"):
        values[stage] |= {"samples": STEPS * BATCH, "batch_size": BATCH, "warmup_steps": 3}
        changed = schedules.get(stage, {})
        rates = values[stage]["base_lr"] | changed.get("base_lr", {})
        values[stage] |= changed | {"base_lr": rates}
    return Scale.model_validate(values | {"checkpoint_every": 3, "log_every": 1} | changes)


def tiny_stages(run: str = "S16-resize64-truncation32", seed: int = 0, **changes: object) -> list[Stage]:
    return stages_of(parse_run(run), tiny_scale(**changes), seed)


def resolved(stage: Stage, root: Path, runs: str = "runs") -> ResolvedStage:
    """``stage`` with the data of the small world below ``root``; it is trained below ``root / runs``."""
    return resolve(stage, Project(data_directory=str(root / "data"), runs_directory=str(root / runs)))


def losses(root: Path, runs: str, stage: Stage) -> list[float]:
    """The loss log of a stage that was trained below ``root / runs``."""
    lines = (root / runs / stage.directory / "loss.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def die(scenario: dict) -> None:
    """Arrange for this process to send itself a signal at the scenario's moment."""
    from clipa import checkpoint, train

    def now() -> None:
        os.kill(os.getpid(), scenario["signal"])

    if scenario["die"] == "update":  # after the gradients of the step, before its update
        rate = train.learning_rate

        def deadly_rate(step: int, *others: object) -> float:
            if step == scenario["step"]:
                now()
            return rate(step, *others)

        train.learning_rate = deadly_rate
    elif scenario["die"] == "pass":  # in the step-th pass through the towers
        from clipa.models import Towers

        forward, begun = Towers.forward, []

        def deadly_forward(*parts: object) -> object:
            begun.append(1)
            if len(begun) == scenario["step"]:
                now()
            return forward(*parts)

        Towers.forward = deadly_forward
    elif scenario["die"] == "rename":  # before the step-th rename of any file
        rename, renamed = os.replace, []

        def deadly_rename(*places: object) -> None:
            renamed.append(places)
            if len(renamed) == scenario["step"]:
                now()
            rename(*places)

        os.replace = deadly_rename
    else:  # the checkpoint's bytes (of several processes: its part, then the index) are written, its name is not there
        digest, written = checkpoint.sha256_of, []

        def deadly_digest(path: Path) -> str:
            if path.name.startswith(".") or path.parent.name.startswith("."):
                written.append(path)
                if len(written) == scenario["step"]:
                    now()
            return digest(path)

        checkpoint.sha256_of = deadly_digest


def ranks(scenario: dict) -> list[int]:
    return [scenario["rank"]] if "rank" in scenario else list(range(int(os.environ.get("WORLD_SIZE", "1"))))


def meet(name: str) -> None:
    """Let the processes that torchrun started meet under ``name``, not where those of another scenario met."""
    from torch import distributed

    def meet_there(backend: str) -> None:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.PrefixStore(name, distributed.TCPStore(*place, is_master=False))
        world = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
        distributed.distributed_c10d.init_process_group(backend, store=store, **world)

    distributed.init_process_group = meet_there


def train_forked(root: Path, scenario: dict, number: int) -> int:
    """Exit code (or minus the signal) of a forked process that trains the scenario's stage."""
    child = os.fork()
    if child == 0:
        try:
            from clipa.train import main

            if "die" in scenario and int(os.environ.get("RANK", "0")) in ranks(scenario):
                die(scenario)
            stages = tiny_stages(**scenario.get("stage", {}))
            code = 0
            for stage in stages if scenario.get("both") else stages[: scenario.get("stages", 1)]:
                meet(f"{number}.{stage.kind}")
                code = code or main(write(resolved(stage, root, scenario["runs"])))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = 1
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    import clipa.train  # noqa: F401  (imported once, before the forks)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    codes = [
        train_forked(Path(sys.argv[1]), scenario, i) for i, scenario in enumerate(json.loads(sys.argv[2]))
    ]
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(codes))
