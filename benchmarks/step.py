"""Steps of training without a loader: our own loop with both kinds of blocks against open_clip_train's, in turn.

    python benchmarks/step.py --model S/16 --pixels 64 --tokens 16 --batch 64

Every side trains the same model from the same batches (random pixels and tokens, in memory), in a process of its own,
side after side for several rounds; a rate is the median of the rounds, on a CPU by its core's time: other programs
have theirs. Ours is `clipa.train`'s loop, theirs
`open_clip_train.train.train_one_epoch` of the installed version with its own optimizer, schedule and loss.
Operations are those that run on a device, neither views nor allocations, of one whole step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clipa.cards import CARDS
from clipa.config import Project, Scale, load_scale
from clipa.cost import stage_macs
from clipa.optimizers import optimizers_of
from clipa.resolved import ResolvedStage
from clipa.stages import Stage, resolve, stages_of
from clipa.study import parse_run

SIDES = ("open_clip_train", "ours, open_clip's blocks", "ours, packed blocks")
WARM_UP = 3


class Operations(TorchDispatchMode):
    """Counts what runs on a device, by name: neither views nor allocations."""

    WITHOUT = frozenset(
        {"view", "t", "detach", "transpose", "permute", "unbind", "select", "unsqueeze", "squeeze"}
    )
    WITHOUT |= {
        "expand",
        "slice",
        "_unsafe_view",
        "split",
        "split_with_sizes",
        "alias",
        "as_strided",
        "lift_fresh",
    }
    WITHOUT |= {"empty", "empty_like", "_local_scalar_dense"}

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).split(".")[1]
        if name not in self.WITHOUT:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class Clock:
    """Yields one batch again and again; what a step takes is the time from one request to the next."""

    def __init__(self, batch: tuple[Any, ...], steps: int, operations: Operations | None, cuda: bool) -> None:
        self.batch, self.steps, self.operations, self.cuda = batch, steps, operations, cuda
        self.began, self.seconds, self.counts = 0.0, 0.0, []
        self.time = time.perf_counter if cuda else time.process_time

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for step in range(self.steps):
            if step in (WARM_UP, self.steps - 1):  # the last step, which may save, is not timed
                if self.cuda:
                    torch.cuda.synchronize()
                self.began, self.seconds = self.time(), self.time() - self.began
            if self.operations:
                self.counts.append(self.operations.counts.total())
            yield self.batch

    @property
    def seconds_a_step(self) -> float:
        return self.seconds / (self.steps - 1 - WARM_UP)


def stage_of(chosen: argparse.Namespace, blocks: str) -> Stage:
    """A pre-training of the scale, as this machine trains it."""
    steps = chosen.steps + WARM_UP + 1
    values = load_scale(chosen.scale).model_dump(exclude={"config_directory"})
    values |= {"device": chosen.device, "precision": chosen.precision, "processes": 1, "blocks": blocks}
    values |= {"threads": None, "log_every": 10**6, "checkpoint_every": 10**6}
    values["image_sizes"] |= {64: chosen.pixels}
    values["resources"] |= {"card": None}
    values["data"] |= {"lanes": 1, "workers": 0}
    values["pretrain"] |= {"batch_size": chosen.batch, "samples": steps * chosen.batch, "warmup_steps": 1}
    run = f"{chosen.model.replace('/', '')}-resize64-truncation{chosen.tokens}"
    return stages_of(parse_run(run), Scale.model_validate(values), 0)[0]


def batch_of(stage: Stage) -> tuple[Tensor, Tensor]:
    drawn, size = torch.Generator().manual_seed(0), stage.schedule.batch_size
    images = torch.randint(0, 256, (size, 3, *[stage.image_size] * 2), dtype=torch.uint8, generator=drawn)
    entries = stage.model_config["text_cfg"]["vocab_size"]
    return images, torch.randint(1, entries, (size, stage.text_tokens), generator=drawn)


def ours(stage: Stage, operations: Operations | None) -> Clock:
    """Our loop: whole steps of `clipa.train`, with the batches of a clock instead of the loader's."""
    from clipa import models, train

    content = resolve(stage, Project()).content
    images, tokens = (part.to(content.device) for part in batch_of(stage))
    clock = Clock(
        (images, tokens, torch.zeros(len(train.REASONS), dtype=torch.int64)),
        content.schedule.steps,
        operations,
        content.device == "cuda",
    )
    train._batches = lambda *_: iter(clock)
    model = models.build(content.model, 0, content.blocks)
    with tempfile.TemporaryDirectory() as folder:
        resolved = ResolvedStage.model_construct(
            **{**dict(resolve(stage, Project())), "directory": Path(folder), "content": content}
        )
        towers = train._wrapped(models.Towers(model, content.augmentation).to(content.device), resolved)
        state = train.State(model, towers, optimizers_of(model, content.schedule))
        train._save = lambda *_: None
        train._update_until_done(resolved, SimpleNamespace(directory=Path(folder), lanes=1), state, None)
    return clock


def theirs(stage: Stage, operations: Operations | None) -> Clock:
    """open_clip_train's loop, as its main() sets it up."""
    from open_clip import create_loss
    from open_clip.model import CLIP
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    bf16, schedule = stage.scale.precision == "bf16", stage.schedule
    words = ["--batch-size", str(schedule.batch_size), "--precision", "amp_bf16" if bf16 else "fp32"]
    args = parse_args([*words, "--log-every-n-steps", str(10**6)])
    args.device, args.rank, args.world_size = stage.scale.device, 0, 1
    args.distributed = args.distill = args.wandb = False
    config = stage.model_config
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], output_dict=True).to(
        args.device
    )
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [
        p
        for name, p in named
        if p.ndim < 2 or any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
    ]
    rest = [p for name, p in named if all(p is not other for other in plain)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": args.wd}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(args.beta1, args.beta2), eps=args.eps)
    images, tokens = batch_of(stage)
    pixels = (images.float() / 255 - 0.5) / 0.25  # their loader normalises, and sends float32
    clock = Clock((pixels, tokens), schedule.steps, operations, args.device == "cuda")
    clock.num_batches, clock.num_samples = schedule.steps, schedule.samples
    loader = SimpleNamespace(dataloader=clock, set_epoch=lambda epoch: None)
    scheduler = cosine_lr(optimizer, args.lr, 1, schedule.steps)
    train_one_epoch(
        model, {"train": loader}, create_loss(args), 0, optimizer, None, scheduler, None, args, None
    )
    return clock


def measure(chosen: argparse.Namespace, side: str, counting: bool) -> dict[str, float]:
    """One side in this process: seconds a step and peak bytes, or (which slows it down) operations a step."""
    torch.manual_seed(0)
    stage = stage_of(chosen, "packed" if side == SIDES[2] else "open_clip")
    operations = Operations() if counting else None
    run = theirs if side == SIDES[0] else ours
    if operations:
        with operations:
            clock = run(stage, operations)
        return {"operations": clock.counts[-1] - clock.counts[-2]}
    clock = run(stage, None)
    on_gpu = chosen.device == "cuda"
    peak = (
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )
    return {"seconds": clock.seconds_a_step, "bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="paper", help="whose models are trained")
    parser.add_argument("--model", default="S/16", help="of the scale")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16, choices=(4, 6, 8, 16, 32))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--card", choices=tuple(CARDS), help="whose peak MFU refers to")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        side, counting = json.loads(chosen.measure)
        print(json.dumps(measure(chosen, side, counting)))
        return

    def in_process(side: str, counting: bool = False) -> dict[str, float]:
        words = [sys.executable, __file__, *sys.argv[1:], "--measure", json.dumps([side, counting])]
        return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])

    counts = {side: in_process(side, counting=True)["operations"] for side in SIDES}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(chosen.rounds):
        for side in SIDES:
            found[side].append(in_process(side))
    macs = stage_macs(stage_of(chosen, "packed")) / stage_of(chosen, "packed").schedule.samples
    rows, rates = [], {}
    for side in SIDES:
        rates[side] = chosen.batch / statistics.median(one["seconds"] for one in found[side])
        flops, peak = 2 * macs * rates[side], max(one["bytes"] for one in found[side])
        mfu = f"{100 * flops / CARDS[chosen.card].flops:.1f} %" if chosen.card else ""
        ratio = rates[side] / rates[SIDES[0]]
        rows.append(
            (side, f"{rates[side]:.1f}", f"{ratio:.2f}", f"{flops / 1e12:.3f}", mfu, counts[side], peak / 1e9)
        )
    print(
        f"{chosen.model}, {chosen.pixels} px, {chosen.tokens} tokens, batch {chosen.batch}, {chosen.precision}"
    )
    head = [
        "",
        "samples/s" + (" of a core" if chosen.device == "cpu" else ""),
        "ratio",
        "TFLOP/s",
        "MFU",
        "operations a step",
        "peak GB",
    ]
    print(tabulate(rows, head, floatfmt=".2f"))


if __name__ == "__main__":
    main()
