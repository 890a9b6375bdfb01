"""The contrastive loss of a large batch: error, time and peak memory, all logits at once against a part at a time.

    python benchmarks/loss.py --batch 8192 --width 768

Each way runs in a process of its own, since peak memory is the process's. Bytes are the most that the process holds
beside the interpreter and its own features (Linux: VmHWM, reset before the loss). ``--processes R``: as the first of R
processes. Nothing is sent: all others have this process's features, so values mean nothing; bytes and operations are
real, but for what a backend holds while it sends.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from clipa.cost import LOGITS_AT_ONCE
from clipa.losses import contrastive_loss, loss_and_gradients

SCALE = 1 / 0.07


def features(batch: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, noise = (torch.randn(batch, width, generator=generator) for _ in range(2))
    images, texts = (torch.nn.functional.normalize(part, dim=-1) for part in (base, base + 2 * noise))
    return images, texts, torch.tensor(SCALE)


def plainly(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
    asked = [part.requires_grad_() for part in (images, texts, scale)]
    value = contrastive_loss(*asked)
    return value.detach(), *torch.autograd.grad(value, asked)


def alone_of(processes: int) -> None:
    """Let this process be the first of so many, which all have its features."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401  registers the backend

    def gather(gathered: torch.Tensor, own: torch.Tensor) -> None:
        gathered.view(processes, *own.shape).copy_(own)  # what is never written takes no memory

    dist.init_process_group("fake", rank=0, world_size=processes)
    dist.all_gather_into_tensor = gather


def resident(what: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most."""
    return int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def measure(way: str, batch: int, width: int, processes: int) -> None:
    """Print seconds, peak bytes, loss and norms of the gradients, as JSON."""
    if processes > 1:
        alone_of(processes)
    asked = features(batch // processes, width)
    Path("/proc/self/clear_refs").write_text("5")  # what was held so far counts no longer for VmHWM
    before = resident("VmRSS")
    began = time.perf_counter()
    found = plainly(*asked) if way == "plain" else loss_and_gradients(*asked, LOGITS_AT_ONCE)
    seconds = time.perf_counter() - began
    peak = resident("VmHWM") - before
    norms = [one.double().norm().item() for one in found]
    print(json.dumps({"seconds": seconds, "bytes": peak, "norms": norms}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--largest-plain", type=int, default=16384, help="plain only up to this batch")
    parser.add_argument("--processes", type=int, default=1, metavar="R")
    parser.add_argument("--way", choices=("plain", "parts"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        measure(chosen.way, chosen.batch[0], chosen.width, chosen.processes)
        return
    print("batch   way    seconds   peak GB  logits GB  largest relative difference of a norm")
    for batch in chosen.batch:
        plain = None
        for way in ("plain", "parts"):
            if way == "plain" and (batch > chosen.largest_plain or chosen.processes > 1):
                continue
            command = [
                sys.executable,
                __file__,
                "--way",
                way,
                "--batch",
                str(batch),
                "--width",
                str(chosen.width),
                "--processes",
                str(chosen.processes),
            ]
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            plain = plain or done
            pairs = zip(done["norms"], plain["norms"], strict=True)
            apart = "" if plain is done else f"{max(abs(a / b - 1) for a, b in pairs):.1e}"
            sizes = f"{done['bytes'] / 1e9:8.2f}  {4 * batch**2 / chosen.processes / 1e9:9.2f}"
            print(f"{batch:6d}  {way:5s}  {done['seconds']:7.2f}  {sizes}  {apart}", flush=True)


if __name__ == "__main__":
    main()
