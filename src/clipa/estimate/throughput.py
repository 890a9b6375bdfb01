"""How fast stages are: device-hours from what was measured, else from Table 1, each with its spread."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipa.config import CONFIG_DIRECTORY, ConfigError, Scale, load_scale
from clipa.cost import TRAINING_PASSES, full_patches, stage_macs, training_total
from clipa.plan import Plan
from clipa.records import PUBLISHED_DIRECTORY, RECORDED_DIRECTORY, Record, run_name
from clipa.runs import Stage, measured_stages, parse_run, stages_of

UNIT = 1e21
"""Multiply-adds in the paper's "1e12 GFLOPs"."""

# One core of the two-core machine that the demo was timed on: for a CPU scale when nothing at all is recorded.
CORE_MACS_PER_SECOND, CORE_SECONDS_PER_SAMPLE = 25e9, 5e-4
FEW, FACTOR_OF_FEW = (
    4,
    2.0,
)  # fewer measured stages than that say nothing about the spread: taken to be a factor of two


@dataclass(frozen=True)
class Spread:
    """A mean with the least and the greatest of what it comes from; adds up end by end."""

    mean: float
    low: float
    high: float

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.mean + other.mean, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Spread:
        return Spread(self.mean * factor, self.low * factor, self.high * factor)


NOTHING = Spread(0.0, 0.0, 0.0)


def short(number: float) -> str:
    """To three significant digits, without exponent: no estimate is known better."""
    if not number:
        return "0"
    digits = 2 - math.floor(math.log10(abs(number)))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def calibrated(records: Mapping[str, Record]) -> Spread:
    """A100-hours per `UNIT` of forward multiply-adds, over Table 1's three CLIPA runs. `records` by id."""
    rates = []
    for record in records.values():
        if record["table"] == 1 and record["metric"] == "gpu_hours" and record["run"]:
            model, factors = record["model"], record["factors"]
            sizes, samples = factors["finetune_image_size"], factors["finetune_samples"]
            tunings = [(full_patches(model, size), n) for size, n in zip(sizes, samples, strict=True)]
            length = record["patches"], record["text_tokens"]
            rates.append(
                record["value"] / training_total(model, *length, factors["pretrain_samples"], tunings)
            )
    return Spread(sum(rates) / len(rates), min(rates), max(rates)) * UNIT


def devices_of(scale: Scale) -> int:
    """GPUs (cores at a CPU scale) that one stage takes."""
    if scale.device == "cuda":
        return scale.processes
    return scale.processes * (scale.threads or scale.resources.cpus)


def device_name(scale: Scale) -> str:
    """What is counted at this scale: "GPU" or "core"."""
    return "GPU" if scale.device == "cuda" else "core"


@dataclass(frozen=True)
class Throughput:
    """Device-hours of a stage, and in words where they come from.

    `seconds`: per sample, of stages measured themselves, by what they cost (:func:`_like`). `line`: of every other
    stage, device-seconds per multiply-add and per sample, with the spread of what was measured around it.
    """

    source: str
    about: str
    line: tuple[float, float]
    spread: Spread
    seconds: Mapping[tuple[Any, ...], Sequence[float]]

    def hours(self, stage: Stage) -> Spread:
        """Device-hours of a whole stage."""
        samples = stage.schedule.samples
        measured = self.seconds.get(_like(stage))
        if measured:
            each = Spread(sum(measured) / len(measured), min(measured), max(measured))
            return each * (samples * devices_of(stage.scale) / 3600)
        return self.spread * ((self.line[0] * stage_macs(stage) + self.line[1] * samples) / 3600)

    def total(self, stages: Iterable[Stage]) -> Spread:
        """Device-hours of several stages."""
        return sum(map(self.hours, stages), NOTHING)


def _like(stage: Stage) -> tuple[Any, ...]:
    """What stages of the same speed have in common: the run's coordinates, the kind, pixels and patches."""
    return stage.run.coordinates, stage.kind, stage.image_size, stage.kept_patches


def throughput_of(plan: Plan) -> Throughput:
    """The best that is known of the speed at this scale (see the module's docstring for the order)."""
    own = _measured(plan.scale, plan.root, plan)
    if own:
        hardware = ", ".join(sorted({one.hardware for one in own}))
        return _fitted(own, f"{len(own)} stages measured at this scale ({hardware})", exact=True)
    if plan.scale.device == "cuda":
        rate = calibrated(_table1(plan.root))
        per_mac = rate.mean * 3600 / UNIT / TRAINING_PASSES
        about = (
            f"{short(rate.mean)} A100-hours per 1e21 multiply-adds of the forward pass ({short(rate.low)} to "
            f"{short(rate.high)}): what Table 1 gives for its three CLIPA runs; nothing is measured here yet"
        )
        spread = Spread(1.0, rate.low / rate.mean, rate.high / rate.mean)
        return Throughput("table1", about, (per_mac, 0.0), spread, {})
    for directory in sorted((plan.root / RECORDED_DIRECTORY).glob("*")):
        if not (plan.root / CONFIG_DIRECTORY / "scales" / f"{directory.name}.yaml").is_file():
            continue
        other = load_scale(directory.name, plan.root / CONFIG_DIRECTORY)
        if other.device == "cpu" and (found := _measured(other, plan.root)):
            return _fitted(found, f"{len(found)} stages measured at scale {other.name}", exact=False)
    about = "one core of the machine that the demo was timed on; nothing is measured yet, so within a factor of two"
    line = 1 / CORE_MACS_PER_SECOND, CORE_SECONDS_PER_SAMPLE
    return Throughput("nominal", about, line, Spread(1.0, 1 / FACTOR_OF_FEW, FACTOR_OF_FEW), {})


@dataclass(frozen=True)
class _Measured:
    stage: Stage
    seconds: float  # wall-clock, per sample
    hardware: str

    @property
    def device_seconds(self) -> float:
        return self.seconds * devices_of(self.stage.scale)

    @property
    def macs(self) -> float:
        """Multiply-adds per sample."""
        return stage_macs(self.stage) / self.stage.schedule.samples


def _measured(scale: Scale, root: Path, plan: Plan | None = None) -> list[_Measured]:
    """Stages with accepted records; with `plan`, also its stages that are finished on disk."""
    found: dict[str, _Measured] = {}
    for path in sorted((root / RECORDED_DIRECTORY / scale.name).glob("*/*.json")):
        for record in _json(path).get("records", ()):
            stage = _stage_of(record, scale)
            if stage is not None:
                _note(found, record["stage_fingerprint"], stage, record["provenance"])
    for stage in plan.stages.values() if plan else ():
        path = root / plan.stage_file(stage)
        if stage.fingerprint not in found and path.is_file():
            _note(found, stage.fingerprint, stage, _json(path))
    return list(found.values())


def _note(found: dict[str, _Measured], key: str, stage: Stage, made: Mapping[str, Any]) -> None:
    if made.get("seconds") and made.get("samples_seen"):
        hardware = made.get("hardware", "unknown hardware")
        found[key] = _Measured(stage, made["seconds"] / made["samples_seen"], hardware)


def _stage_of(record: Record, scale: Scale) -> Stage | None:
    """The stage that made a record, of whatever fingerprint: a changed learning rate does not change the speed."""
    try:
        stages = stages_of(parse_run(run_name(record)), scale, record["seed"])
    except (KeyError, ValueError):
        return None
    return next((stage for stage in measured_stages(stages) if stage.kind == record.get("stage")), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _table1(root: Path) -> dict[str, Record]:
    path = root / PUBLISHED_DIRECTORY / "table1.json"
    records = _json(path).get("records")
    if not records:
        raise ConfigError(f"{path}: cannot be read as records; throughput is calibrated on Table 1")
    return {record["id"]: record for record in records}


def _fitted(measured: list[_Measured], about: str, exact: bool) -> Throughput:
    """Device-seconds per sample = a · multiply-adds + b, by least squares of relative errors, neither below zero."""
    rows = [(one.macs / one.device_seconds, 1 / one.device_seconds) for one in measured]
    xx, xy, yy = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    x, y = (sum(row[i] for row in rows) for i in (0, 1))
    determinant = xx * yy - xy * xy
    line = (x / xx, 0.0)
    if determinant > 1e-9 * xx * yy:
        both = (x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant
        line = both if min(both) >= 0 else line if both[1] < 0 else (0.0, y / yy)
    ratios = [1 / (line[0] * row[0] + line[1] * row[1]) for row in rows]
    if len(measured) < FEW:
        ratios += [1 / FACTOR_OF_FEW, FACTOR_OF_FEW]
    spread = Spread(1.0, min(1.0, *ratios), max(1.0, *ratios))
    seconds: dict[tuple[Any, ...], list[float]] = {}
    for one in measured if exact else ():
        seconds.setdefault(_like(one.stage), []).append(one.seconds)
    about += (
        f"; a stage not among them: {line[0]:.2g} s per multiply-add and {line[1] * 1000:.2g} ms per sample, "
        f"{spread.low:.1f} to {spread.high:.1f} times that"
    )
    return Throughput("measured", about, line, spread, seconds)
