"""Whether a stage fits a card's memory, and the fastest way in which it does: samples a pass, activation checkpointing.

Bytes of activations are counted from the real modules (:mod:`clipa.memory`) and kept in ``config/activations.json``, so
that a plan needs no torch. State and loss are arithmetic. Planning floor: neither torch nor pandas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipa.config import CONFIG_DIRECTORY
from clipa.cost import LOGITS_AT_ONCE
from clipa.files import read_json, write_text_atomically
from clipa.resolved import fingerprint
from clipa.stages import Stage

Checkpointing = Literal[False, "selective", True]
MODES: tuple[Checkpointing, ...] = (False, "selective", True)
NAMES = {False: "none", "selective": "selective", True: "blocks"}

TABLE = CONFIG_DIRECTORY / "activations.json"

CARDS = {"A100-40": 40, "A100-80": 80, "H100-80": 80, "H200-141": 141}
"""Gigabytes, as the names say; :data:`USABLE` of them serve tensors."""

USABLE = 0.90
"""What the CUDA context, communication buffers and fragmentation leave: taken, not measured."""

STATE_BYTES = 16
"""A parameter, its gradient and AdamW's two moments, in float32."""

BUCKET_BYTES = 4
"""DistributedDataParallel's copy of a gradient, with which it sums over the processes."""

# Forward passes of a step: one and two for backward; one more where blocks run again, or where the batch has several
# passes (gradient caching). Selective activation checkpointing runs again what costs next to nothing.
_FORWARD, _BLOCKS_AGAIN, _SELECTIVE_AGAIN, _PASS_AGAIN = 3.0, 1.0, 0.1, 1.0


@dataclass(frozen=True)
class Fit:
    """One way to train a stage. ``bytes`` of a process; ``passes`` forward passes a step, backward counted as two."""

    samples: int
    checkpointing: Checkpointing
    bytes: float
    passes: float


def key(stage: Stage) -> str:
    """Of a stage in the table of activations."""
    return fingerprint(
        {"model": stage.model_config, "kept": stage.kept_patches, "precision": stage.scale.precision}
    )


@dataclass(frozen=True)
class Counted:
    """Of one pair of towers at one length: parameters, and by mode the bytes of activations of a sample."""

    parameters: int
    activations: dict[Checkpointing, int]


def read_table(path: Path = TABLE) -> dict[str, Counted]:
    """What has been counted, by :func:`key`; empty where nothing has."""
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return {
        name: Counted(one["parameters"], {mode: one[NAMES[mode]] for mode in MODES})
        for name, one in found.items()
    }


def write_table(table: dict[str, Counted], path: Path = TABLE) -> None:
    """Write what :func:`read_table` reads, one entry to a line."""
    lines = []
    for name, one in sorted(table.items()):
        entry = {"parameters": one.parameters} | {NAMES[mode]: one.activations[mode] for mode in MODES}
        lines.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    write_text_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def needed(stage: Stage, samples: int, checkpointing: Checkpointing, known: Counted) -> float:
    """Peak bytes of a process that trains ``stage`` with so many samples a pass."""
    pairs = 2 if stage.kind == "negclip" else 1  # a position of its batch has two images, and four texts
    passing = pairs * samples * known.activations[checkpointing]
    return _state(stage, known.parameters) + _loss(stage) + passing


def ways(stage: Stage, card: str, table: dict[str, Counted]) -> Iterator[Fit]:
    """Every way that fits, of each number of samples a pass that divides the process's share of the batch by a power
    of two. KeyError for a stage that the table does not have.
    """
    share, known = stage.schedule.batch_size // stage.scale.processes, table[key(stage)]
    for mode in MODES:
        passes = 1
        while share % passes == 0:
            size = needed(stage, share // passes, mode, known)
            if size <= USABLE * CARDS[card] * 1e9:
                again = {False: 0.0, "selective": _SELECTIVE_AGAIN, True: _BLOCKS_AGAIN}[mode]
                yield Fit(share // passes, mode, size, _FORWARD + again + (passes > 1) * _PASS_AGAIN)
            passes *= 2


def best(stage: Stage, card: str, table: dict[str, Counted]) -> Fit | None:
    """The way with the fewest forward passes, and then the largest pass; None where nothing fits."""
    return min(ways(stage, card, table), key=lambda fit: (fit.passes, -fit.samples), default=None)


def _state(stage: Stage, count: int) -> float:
    """Parameters, gradients and optimizer, and autocast's copies; a sharded stage has two gathered blocks of them."""
    casts = 2 * count if stage.scale.precision == "bf16" else 0
    if stage.sharded:
        layers = stage.model_config["vision_cfg"]["layers"]
        return STATE_BYTES * count / stage.scale.processes + 2 * 2 * casts / layers
    return (STATE_BYTES + BUCKET_BYTES * (stage.scale.processes > 1)) * count + casts


def _loss(stage: Stage) -> float:
    """All texts' features and their gradients, the own ones, and the logits at hand (:mod:`clipa.losses`)."""
    texts = stage.schedule.batch_size * (4 if stage.kind == "negclip" else 1)
    return 4 * (2.5 * texts * stage.model_config["embed_dim"] + 3 * LOGITS_AT_ONCE)
