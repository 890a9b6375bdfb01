"""Thirty steps' losses, written as the golden curve when run as a program."""

import json
import sys
import tempfile
from pathlib import Path

from clipa.resolved import SEMANTICS
from small_training import BATCH, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world

SCHEDULE = {"samples": 30 * BATCH, "warmup_steps": 5}


def golden_losses(world: Path) -> list[float]:
    from clipa.train import train_stage

    stage = tiny_stages("S16-none-truncation32", schedule=SCHEDULE)[0]
    made = train_stage(resolved(stage, world, "golden"))
    return [json.loads(line)["loss"] for line in made.with_name("loss.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    import torch

    from clipa.provenance import hardware

    with tempfile.TemporaryDirectory() as directory:
        draw_small_world(tiny_scale(), Path(directory), ())
        losses = golden_losses(Path(directory))
    golden = {"semantics": SEMANTICS, "hardware": hardware(), "torch": torch.__version__, "losses": losses}
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(losses[0], "…", losses[-1], file=sys.stderr)
