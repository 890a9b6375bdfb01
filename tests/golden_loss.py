"""Thirty steps' losses, written as the golden curve when run as a program."""

import json
import sys
import tempfile
from pathlib import Path

from clipa.resolved import SEMANTICS
from small_training import BATCH, losses, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world

SCHEDULE = {"samples": 30 * BATCH, "warmup_steps": 5}


def golden_losses(world: Path) -> list[float]:
    from clipa.train import train_stage

    stage = tiny_stages("S16-none-truncation32", schedule=SCHEDULE)[0]
    train_stage(resolved(stage, world, "golden"))
    return losses(world, "golden", stage)


if __name__ == "__main__":
    import torch

    from clipa.provenance import hardware

    with tempfile.TemporaryDirectory() as directory:
        draw_small_world(tiny_scale(), Path(directory), ())
        made = golden_losses(Path(directory))
    golden = {"semantics": SEMANTICS, "hardware": hardware(), "torch": torch.__version__, "losses": made}
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(made[0], "…", made[-1], file=sys.stderr)
