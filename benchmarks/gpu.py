"""Whether a GPU trains the same bits again, and after kill -9.

    PYTHONPATH=src:tests python benchmarks/gpu.py --scale mini --device cuda

A small masked stage is trained twice and, a third time, killed twice and resumed: weights, optimizer and losses must
be the same bits. `benchmarks/step.py` times steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from clipa.config import load_scale

TESTS = Path(__file__).resolve().parents[1] / "tests"
RUN = "S16-random49-truncation32"


def same_bits(root: Path, device: str, precision: str) -> bool:
    """Whether two uninterrupted trainings of a small stage, and one that was killed twice, end with the same bits."""
    sys.path.insert(0, str(TESTS))
    from small_training import tiny_scale, tiny_stages
    from small_world import draw_small_world
    from test_train import outcome, run

    draw_small_world(tiny_scale(), root, ())
    asked = {"run": RUN, "device": device, "precision": precision}
    deaths = [{"die": "update", "step": 4, "signal": 9}, {"die": "write", "step": 2, "signal": 9}, {}]
    scenarios = [{"runs": name, "stage": asked} for name in ("one", "two")]
    scenarios += [{"runs": "killed", "stage": asked, **death} for death in deaths]
    codes, said = run(root, *scenarios)
    if codes != [0, 0, -9, -9, 0]:
        raise SystemExit(f"exit codes {codes}, expected [0, 0, -9, -9, 0]\n{said}")
    stage = tiny_stages(**asked)[0]
    one, two, killed = (outcome(root, name, stage) for name in ("one", "two", "killed"))
    return one == two == killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="mini", help="whose precision is taken")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    chosen = parser.parse_args()
    precision = load_scale(chosen.scale).precision
    with tempfile.TemporaryDirectory() as root:
        same = same_bits(Path(root), chosen.device, precision)
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    told = "the same bits" if same else "OTHER BITS"
    print(f"{name}, torch {torch.__version__}, {precision}: killed twice, resumed, trained again: {told}")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
