"""Thirty steps' losses; run as a program, it writes the golden curve of this processor beside those of others.

A library picks its kernels by the vendor, the generation and the instruction sets of the processor, so bits are
compared only where all of these and torch are those that recorded (:func:`capability`). Elsewhere kernels round
otherwise, and losses stay within :data:`TOLERANCE` of every recorded curve.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from clipa.resolved import SEMANTICS
from small_training import BATCH, losses, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world

CURVES = Path(__file__).with_suffix(".json")
SCHEDULE = {"samples": 30 * BATCH, "warmup_steps": 5}
TOLERANCE = 1e-4
"""What a loss of about 2.8 nats may differ elsewhere. On one processor, the largest of the thirty differences to its
own curve was 4.8e-7 with the kernels of AVX2 and 7.2e-7 with those of SSE 4; no other processor was tried."""


def capability() -> str:
    """What numerical libraries choose kernels by: ``x86_64 AuthenticAMD family 26 model 2, AVX512, torch 2.13.0``.

    The name of a processor is no use: virtual machines give several generations one name.
    """
    import platform

    import torch

    try:
        listing = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        listing = ""
    found = [re.search(rf"(?m)^{name}\s*: (.+)$", listing) for name in ("vendor_id", "cpu family", "model")]
    vendor, family, model = (match[1].strip() if match else "?" for match in found)
    sets = torch.backends.cpu.get_cpu_capability()
    release = torch.__version__.split("+")[0]
    return f"{platform.machine()} {vendor} family {family} model {model}, {sets}, torch {release}"


def golden_losses(world: Path) -> list[float]:
    from clipa.train import train_stage

    stage = tiny_stages("S16-none-truncation32", schedule=SCHEDULE)[0]
    train_stage(resolved(stage, world, "golden"))
    return losses(world, "golden", stage)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        draw_small_world(tiny_scale(), Path(directory), ())
        made = golden_losses(Path(directory))
    golden = json.loads(CURVES.read_text(encoding="utf-8"))
    others = golden["curves"] if golden["semantics"] == SEMANTICS else {}
    for name, curve in others.items():
        print(
            f"{name}: differs by at most {max(abs(a - b) for a, b in zip(made, curve, strict=True)):.2e}",
            file=sys.stderr,
        )
    golden = {"semantics": SEMANTICS, "curves": others | {capability(): made}}
    CURVES.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(capability(), made[0], "…", made[-1], file=sys.stderr)
