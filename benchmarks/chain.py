"""A training on two nodes that outlasts its SLURM jobs, against undisturbed ones: the log of its jobs, and the weights.

    PYTHONPATH=src:tests python benchmarks/chain.py

Under the tests' private SLURM (root, slurm-wlm and munge; two nodes on this machine), two processes on each of two
nodes train a small stage whose steps are slowed down. Their job is out of time twice and puts itself back into the
queue. The second time SLURM has one node only, so that two processes finish the stage. The weights are compared with
those of a training without SLURM that changes its processes at the same step (same bits are expected), and of one that
four processes train from beginning to end (which sums gradients in another order after that step).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

import test_nodes as nodes  # noqa: E402
from clipa.slurm import LOG  # noqa: E402
from private_slurm import private_slurm  # noqa: E402
from small_training import STEPS, tiny_scale  # noqa: E402
from small_world import draw_small_world  # noqa: E402


def without_slurm(root: Path, runs: str, *parts: tuple[int, int, int]) -> torch.Tensor:
    """Weights of a training in ``parts``: processes, nodes, and the step after which they are stopped."""
    for processes, count, last in parts:
        variables = {} if last == STEPS else {"MOMENT": nodes.STOP, "STEPS": str(last - 1)}
        stage = nodes.stage_of(processes, count)
        ended = nodes.train(root, stage, runs, **variables)
        ended_well = all(code == 0 for code, _ in ended)
        stopped = any(f"stopped after step {last} of" in said for _, said in ended)
        if not (ended_well if last == STEPS else stopped):
            raise SystemExit(f"{runs}: {ended}")
    return nodes.made(root, runs, stage)[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=2, help="of a job; more where processes start slowly")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_small_world(tiny_scale(), root, ())
        # Two jobs have time for fewer than twelve such steps, however soon processes start; the last is not slowed.
        moment = f'os.environ["WORLD_SIZE"] == "4" and time.sleep({9 * chosen.minutes})'
        slowed = {"MOMENT": moment, "STEPS": " ".join(map(str, range(STEPS)))}
        (root / "slurm").mkdir()
        with private_slurm(root / "slurm", kill_wait=30) as cluster:
            if cluster is None:
                raise SystemExit(1)
            told, _ = nodes.chained(cluster, root, "chain", chosen.minutes, **slowed)
        stage = nodes.stage_of(4, 2)
        print((root / "chain" / stage.directory / LOG).read_text(encoding="utf-8"))
        processes, chain = nodes.made(root, "chain", stage)
        print(f"processes that trained a part: {processes}")
        cut = [int(step[1]) for _, what in told if (step := re.match(r"stopped after step (\d+)", what))]
        changed = without_slurm(root, "changed", (4, 2, cut[1]), (2, 1, STEPS))
        same = torch.equal(chain, changed)
        print(
            f"4 processes to step {cut[1]}, then 2, without SLURM: {'the same bits' if same else 'OTHER BITS'}"
        )
        whole = without_slurm(root, "whole", (4, 2, STEPS))
        print(
            f"4 processes to the end: relative difference of all weights {nodes.difference(whole, chain):.1e}"
        )
        largest = ((whole - chain).abs().max() / whole.abs().max()).item()
        print(f"largest difference of a weight, relative to the largest weight: {largest:.1e}")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
