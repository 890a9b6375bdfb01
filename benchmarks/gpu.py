"""Benchmark of a scale's stages on a GPU: the same bits after kill -9, then samples a second for each model.

    PYTHONPATH=src:tests python benchmarks/gpu.py --scale mini --device cuda

First a small masked stage is trained twice and, a third time, killed twice and resumed: weights, optimizer and
losses must be the same bits. Then every model is timed, forward, backward and update, on random pixels and tokens (no
loader), at full length and at the shortest: median of five windows. Rates are of this machine now; nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from clipa import models
from clipa.config import Project, load_scale
from clipa.cost import stage_macs
from clipa.losses import backward
from clipa.optimizers import optimizers_of
from clipa.resolved import ResolvedStage
from clipa.stages import resolve, stages_of
from clipa.study import parse_run
from clipa.train import autocast, kept_patches

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


def rate(stage: ResolvedStage, device: str, windows: int = 5, steps: int = 8) -> float:
    """Samples a second of whole updates, median over ``windows`` of ``steps`` after a warm-up of as many."""
    content, schedule = stage.content, stage.content.schedule
    model = models.build(content.model, 0, content.blocks, content.positions)
    towers = models.Towers(model, content.augmentation).to(device)
    optimizer = optimizers_of(towers.model, schedule)
    drawn = torch.Generator(device).manual_seed(0)
    shape = (schedule.batch_size, 3, stage.image_size, stage.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=drawn)
    shape = (schedule.batch_size, content.text.tokens)
    tokens = torch.randint(1, content.model["text_cfg"]["vocab_size"], shape, device=device, generator=drawn)
    batch = [images, tokens]
    if content.image.kept_patches is not None:
        batch.append(kept_patches(stage, torch.arange(schedule.batch_size, device=device)))
    seconds = []
    for _ in range(windows + 1):
        began = time.perf_counter()
        for _ in range(steps):
            backward(towers, batch, stage.microbatch, autocast(content))
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return steps * schedule.batch_size / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--runs", nargs="+", default=["none", "random49", "resize64"], metavar="REDUCTION")
    chosen = parser.parse_args()
    # As in training: the same bits at any cost in speed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    scale = load_scale(chosen.scale)
    with tempfile.TemporaryDirectory() as root:
        same = same_bits(Path(root), chosen.device, scale.precision)
    print(f"killed twice, resumed, trained again: {'the same bits' if same else 'OTHER BITS'}", flush=True)
    name = (
        torch.cuda.get_device_name() if chosen.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{name}, torch {torch.__version__}, {scale.precision}, scale {scale.name}")
    print(f"{'run':<28}{'samples/s':>12}{'TFLOP/s':>10}")
    for model in scale.models:
        for reduction in chosen.runs:
            if "/" not in model and not reduction.startswith(("none", "resize")):
                continue
            slug = f"{model.replace('/', '')}-{reduction}-truncation32"
            stage = stages_of(parse_run(slug), scale, 0)[0]
            found = rate(resolve(stage, Project()), chosen.device)
            work = 2 * stage_macs(stage) / stage.schedule.samples * found / 1e12
            print(f"{slug:<28}{found:>12,.0f}{work:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
