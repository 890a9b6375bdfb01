"""What a pass keeps in memory: as predicted for a plan, and as torch's own tracker counts it.

    python benchmarks/memory.py                      # S/16, B/16, L/16 and H/14 at three lengths; ten minutes
    python benchmarks/memory.py --device cuda        # beside them, what a GPU allocates

A prediction (`clipa fits`, `clipa.memory`) follows the tensors of a pass of the towers, forward and backward. The count
is torch.distributed's MemTracker's of such a pass: its activations and temporary tensors, of a sample. Both use fake
tensors. On a GPU it is `torch.cuda.max_memory_allocated` of a pass with its loss, less parameters and their gradients.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tabulate import tabulate
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from clipa import models
from clipa.config import Augmentation
from clipa.distributed import apply_activation_checkpointing
from clipa.fits import MODES, NAMES, Checkpointing
from clipa.losses import backward
from clipa.memory import bytes_of_a_sample
from clipa.models import CLIP
from clipa.plan import load_plan
from clipa.stages import Stage
from clipa.study import parse_run

RUNS = ("none-truncation32", "resize112-truncation16", "resize64-truncation8")
MODELS = ("S16", "B16", "L16", "H14")
MODELS_PIXELS = {"H14": ("none-truncation32", "resize112-truncation16", "resize84-truncation8")}


def stages() -> list[Stage]:
    """Of each model a pre-training at three lengths."""
    plan = load_plan({"scale": "paper", "seeds": [0]})
    runs = [f"{model}-{run}" for model in MODELS for run in MODELS_PIXELS.get(model, RUNS)]
    return [plan.job(parse_run(run), 0).stages[0] for run in runs]


def counted(stage: Stage, mode: Checkpointing, samples: int = 1 << 15) -> float:
    """Bytes a sample of a pass, by torch's tracker; of so many samples that casts of weights weigh little."""
    size, length, kept = stage.image_size, stage.text_tokens, stage.kept_patches
    with FakeTensorMode():
        towers = models.Towers(models.build(stage.model_config, 0, stage.scale.blocks), Augmentation())
        if mode:
            apply_activation_checkpointing(towers.model, mode)
        for parameter in towers.parameters():
            parameter.requires_grad_()  # the tracker expects it of all; the fixed positions are small
        batch: list[Any] = [
            torch.zeros(samples, 3, size, size, dtype=torch.uint8),
            torch.zeros(samples, length, dtype=torch.int64),
        ]
        if kept is not None:
            batch.append(torch.zeros(samples, kept, dtype=torch.int64))
        tracker = MemTracker()
        tracker.track_external(towers, *batch)
        with tracker:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = towers(*batch)
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        [peak_] = tracker.get_tracker_snapshot("peak").values()
    return sum(peak_[kind] for kind in peak_ if str(kind).rpartition(".")[2] in ("ACT", "TEMP")) / samples


def allocated(stage: Stage, mode: Checkpointing, samples: int) -> float:
    """Bytes a sample of a real pass on the GPU, beside parameters and gradients; between a small pass and a large one,
    so that what does not grow with the samples goes."""
    model = models.build(stage.model_config, 0, stage.scale.blocks)
    towers = models.Towers(model, Augmentation()).cuda()
    if mode:
        apply_activation_checkpointing(model, mode)
    peaks = [peak(towers, stage, model, count) for count in (samples // 2, samples)]
    return (peaks[1] - peaks[0]) / (samples - samples // 2)


def peak(towers: torch.nn.Module, stage: Stage, model: CLIP, samples: int) -> int:
    size, length = stage.image_size, stage.text_tokens
    batch: list[Any] = [
        torch.zeros(samples, 3, size, size, dtype=torch.uint8, device="cuda"),
        torch.ones(samples, length, dtype=torch.int64, device="cuda"),
    ]
    for _ in range(2):  # the first makes the gradients
        torch.cuda.reset_peak_memory_stats()
        backward(towers, batch, None, lambda: torch.autocast("cuda", torch.bfloat16))
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--samples", type=int, default=64, help="of the larger pass on a GPU")
    chosen = parser.parse_args()
    rows = []
    for stage in stages():
        for mode in MODES:
            asked = stage.kept_patches, mode, stage.scale.precision, stage.scale.blocks
            predicted = bytes_of_a_sample(stage.model_config, *asked)
            whole = counted(stage, mode)
            row = [stage.run.coordinates, NAMES[mode], predicted / 1e6, whole / 1e6, predicted / whole]
            if chosen.device == "cuda":
                found = allocated(stage, mode, chosen.samples)
                row += [found / 1e6, predicted / found]
            rows.append(row)
            print(*row, flush=True)
    head = ["run", "checkpointing", "predicted MB", "counted MB", "ratio", "GPU MB", "ratio"]
    print(tabulate(rows, head[: len(rows[0])], floatfmt=".3f"))
    ratios = [row[4] for row in rows]
    print(f"predicted / counted: {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
