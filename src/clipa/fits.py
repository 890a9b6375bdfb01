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

from clipa.cards import CARDS, CPU
from clipa.config import CONFIG_DIRECTORY, ConfigError, Project
from clipa.cost import LOGITS_AT_ONCE, TRAINING_PASSES
from clipa.files import read_json, write_text_atomically
from clipa.resolved import ResolvedStage, fingerprint
from clipa.stages import Stage, resolve

Checkpointing = Literal[False, "selective", True]
MODES: tuple[Checkpointing, ...] = (False, "selective", True)
NAMES = {False: "none", "selective": "selective", True: "blocks"}

TABLE = CONFIG_DIRECTORY / "activations.json"

USABLE = 0.90
"""What the CUDA context, communication buffers and fragmentation leave: taken, not measured."""

STATE_BYTES = 16
"""A parameter, its gradient and AdamW's two moments, in float32."""

# Forward passes of a step: one and two for backward; one more where blocks run again, or where the batch has several
# passes (gradient caching). Selective activation checkpointing runs again what costs next to nothing.
_BLOCKS_AGAIN, _SELECTIVE_AGAIN, _PASS_AGAIN = 1.0, 0.1, 1.0


@dataclass(frozen=True)
class Fit:
    """One way to train a stage. ``bytes`` of a process; ``passes`` forward passes a step, backward counted as two."""

    samples: int
    checkpointing: Checkpointing
    bytes: float
    passes: float


def key(stage: Stage) -> str:
    """Of a stage in the table of activations."""
    content = {"model": stage.model_config, "kept": stage.kept_patches, "precision": stage.scale.precision}
    return fingerprint(content | {"blocks": stage.scale.blocks})


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


def modes(stage: Stage) -> tuple[Checkpointing, ...]:
    """The activation checkpointing that ``stage`` can have without other bits: of compiled blocks not the selective."""
    return tuple(mode for mode in MODES if not (stage.scale.compile and mode == "selective"))


def usable(card: str, stage: Stage) -> float:
    """Bytes that a process of ``stage`` has for tensors."""
    if card == CPU:
        return USABLE * stage.scale.resources.memory_mb * 1e6 / stage.scale.processes
    return USABLE * CARDS[card].memory


def share(stage: Stage) -> int:
    """Samples of a batch that each process has."""
    return stage.schedule.batch_size // stage.scale.processes


def needed(stage: Stage, samples: int, checkpointing: Checkpointing, known: Counted) -> float:
    """Peak bytes of a process that trains ``stage`` with so many samples a pass."""
    pairs = 2 if stage.kind == "negclip" else 1  # a position of its batch has two images, and four texts
    passing = pairs * samples * known.activations[checkpointing]
    return _state(stage, known.parameters) + _loss(stage) + passing


def way(stage: Stage, samples: int | None, checkpointing: Checkpointing, known: Counted) -> Fit:
    """What it takes to train ``stage`` with so many samples a pass (None: all of a process's)."""
    taken = min(samples or share(stage), share(stage))
    again = {False: 0.0, "selective": _SELECTIVE_AGAIN, True: _BLOCKS_AGAIN}[checkpointing]
    passes = TRAINING_PASSES + again + (taken < share(stage)) * _PASS_AGAIN
    return Fit(taken, checkpointing, needed(stage, taken, checkpointing, known), passes)


def ways(stage: Stage, card: str, table: dict[str, Counted]) -> Iterator[Fit]:
    """Every way that fits, of each number of samples a pass that divides the process's share of the batch by a power
    of two. KeyError for a stage that the table does not have.
    """
    for mode in modes(stage):
        passes = 1
        while share(stage) % passes == 0:
            found = way(stage, share(stage) // passes, mode, table[key(stage)])
            if found.bytes <= usable(card, stage):
                yield found
            passes *= 2


def best(stage: Stage, card: str, table: dict[str, Counted]) -> Fit | None:
    """The way with the fewest forward passes, and then the largest pass; None where nothing fits."""
    return min(ways(stage, card, table), key=lambda fit: (fit.passes, -fit.samples), default=None)


def configured(stage: Stage) -> bool:
    """Whether the scale's file says how a step is executed, so that nothing is chosen."""
    return stage.schedule.microbatch is not None or bool(stage.schedule.activation_checkpointing)


def card_of(stage: Stage, project: Project) -> str | None:
    """The card that ``stage`` is trained on: the project's, else the scale's; None where none is named."""
    return None if stage.scale.device == "cpu" else project.card or stage.scale.resources.card


def execution(stage: Stage, card: str, table: dict[str, Counted]) -> Fit:
    """How ``stage`` is trained on ``card``: as configured, else the :func:`best` way.

    ConfigError, one line, where that does not fit, or where nothing is counted of the stage.
    """
    where = f"{stage.run.slug} {stage.kind} at scale {stage.scale.name}"
    if key(stage) not in table:
        raise ConfigError(
            f"{TABLE}: no bytes of activations for {where}; `clipa fits --scale {stage.scale.name} --write` counts them"
        )
    if configured(stage):
        schedule = stage.schedule
        found = way(stage, schedule.microbatch, schedule.activation_checkpointing, table[key(stage)])
        if found.bytes > usable(card, stage):
            raise ConfigError(
                f"{where}: {found.samples} samples a pass need {found.bytes / 1e9:.1f} GB a process, "
                f"{usable(card, stage) / 1e9:.1f} of {card} serve tensors; without microbatch and "
                "activation_checkpointing in the scale's file, what fits is chosen"
            )
        return found
    found = best(stage, card, table)
    if found is None:
        least = needed(stage, 1, True, table[key(stage)])
        raise ConfigError(
            f"{where}: does not fit {card}, which has {usable(card, stage) / 1e9:.1f} GB for tensors: one sample a "
            f"pass needs {least / 1e9:.1f} GB with activation checkpointing (sharded, or more processes, needs less)"
        )
    return found


def resolve_fitting(stage: Stage, project: Project) -> ResolvedStage:
    """``stage`` as its training starts on its card (:func:`execution`); where none is named, as configured."""
    card = card_of(stage, project)
    if card is None:
        return resolve(stage, project)
    fit = execution(stage, card, read_table())
    whole = None if fit.samples == share(stage) else fit.samples
    return resolve(stage, project, microbatch=whole, activation_checkpointing=fit.checkpointing)


def _state(stage: Stage, count: int) -> float:
    """Parameters, gradients and optimizer, and autocast's copies; a sharded stage has two gathered blocks of them."""
    casts = 2 * count if stage.scale.precision == "bf16" else 0
    if stage.sharded:
        layers = stage.model_config["vision_cfg"]["layers"]
        shards = stage.scale.processes // stage.scale.resources.nodes  # a node has all of them
        return STATE_BYTES * count / shards + 2 * 2 * casts / layers
    return STATE_BYTES * count + casts  # DistributedDataParallel sums gradients in place


def _loss(stage: Stage) -> float:
    """All texts' features and their gradients, the own ones, and the logits at hand (:mod:`clipa.losses`)."""
    texts = stage.schedule.batch_size * (4 if stage.kind == "negclip" else 1)
    return 4 * (2.5 * texts * stage.model_config["embed_dim"] + 3 * LOGITS_AT_ONCE)
