"""What a plan costs before anything is launched: device-hours, wall-clock, disk, and whether a budget holds.

A device is what a stage trains on: a GPU, or at a CPU scale a core. Its speed comes from stages measured at the scale
(accepted records, stages finished on disk); failing these, for CPUs from another scale measured on CPUs, for GPUs from
the hours that the paper's Table 1 gives for three runs on A100s. Every estimate has the spread of what it comes from.
Ground floor: neither torch nor pandas.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipa.cards import CARDS
from clipa.config import CONFIG_DIRECTORY, ConfigError, Scale, load_scale
from clipa.cost import (
    CHECKPOINT_BYTES,
    CONVNETS,
    TRAINING_PASSES,
    Transformer,
    full_patches,
    stage_macs,
    towers_of,
    training_total,
)
from clipa.files import read_json
from clipa.plan import Plan
from clipa.records import PUBLISHED_DIRECTORY, RECORDED_DIRECTORY, run_name
from clipa.resolved import data_slug
from clipa.schema import Record
from clipa.sources import Data
from clipa.stages import Stage, measured_stages, stages_of
from clipa.study import parse_run

# ------------------------------------------------------------------------------------------------------- throughput

UNIT = 1e21
"""Multiply-adds in the paper's "1e12 GFLOPs"."""

TABLE_1_CARD = "A100-80"  # the paper says A100; its peak is that of both sizes

# One core of the two-core machine that the demo was timed on: for a CPU scale when nothing at all is recorded.
CORE_MACS_PER_SECOND, CORE_SECONDS_PER_SAMPLE = 25e9, 5e-4
# Nominal seconds of one core for what no record tells: they only weigh the demo's jobs against each other.
START_UP_SECONDS, EVALUATION_SECONDS, RESULT_SECONDS, DATA_SECONDS_PER_IMAGE = 8.0, 14.0, 4.0, 2e-3
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

    def rate(self, stage: Stage) -> float:
        """Samples a second of one device."""
        return stage.schedule.samples / (3600 * self.hours(stage).mean)

    def jobs(self, stage: Stage) -> Spread:
        """Jobs of the scheduler, each of the scale's `runtime_minutes`, that train a stage one after the other."""
        resources = stage.scale.resources
        needed = self.hours(stage) * (60 / (devices_of(stage.scale) * resources.runtime_minutes))
        return Spread(*(max(1, math.ceil(end)) for end in (needed.mean, needed.low, needed.high)))

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
        rate, card = calibrated(_table1(plan.root)), plan.project.card or plan.scale.resources.card
        per_mac = rate.mean * 3600 / UNIT / TRAINING_PASSES
        about = (
            f"{short(rate.mean)} A100-hours per 1e21 multiply-adds of the forward pass ({short(rate.low)} to "
            f"{short(rate.high)}): what Table 1 gives for its three CLIPA runs; nothing is measured here yet"
        )
        if card is not None and CARDS[card].flops != CARDS[TABLE_1_CARD].flops:
            per_mac *= CARDS[TABLE_1_CARD].flops / CARDS[card].flops
            about += f". {card} is taken to reach the same share of its own peak"
        spread = Spread(1.0, rate.low / rate.mean, rate.high / rate.mean)
        return Throughput("table1", about, (per_mac, 0.0), spread, {})
    for other in _scales_like(plan.scale, plan.root):
        if found := _measured(other, plan.root):
            return _fitted(found, f"{len(found)} stages measured at scale {other.name}", exact=False)
    about = "one core of the machine that the demo was timed on; nothing is measured yet, so within a factor of two"
    line = 1 / CORE_MACS_PER_SECOND, CORE_SECONDS_PER_SAMPLE
    return Throughput("nominal", about, line, Spread(1.0, 1 / FACTOR_OF_FEW, FACTOR_OF_FEW), {})


def _scales_like(scale: Scale, root: Path) -> list[Scale]:
    """The other scales of CPUs that have accepted records, first those with the same models."""
    names = [path.name for path in sorted((root / RECORDED_DIRECTORY).glob("*"))]
    directory = root / CONFIG_DIRECTORY
    found = [
        load_scale(name, directory) for name in names if (directory / "scales" / f"{name}.yaml").is_file()
    ]
    configs = {model.config for model in scale.models.values()}
    return sorted(
        (other for other in found if other.device == "cpu"),
        key=lambda other: -len(configs & {model.config for model in other.models.values()}),
    )


def nominal_seconds(plan: Plan, results: Sequence[str]) -> dict[Path, tuple[str, float]]:
    """Every file that the whole plan makes, with a name and seconds on one core; stages' by what is measured.

    ``results``: figures and tables, below the directory of what is measured.
    """
    hours, data = throughput_of(plan).hours, DATA_SECONDS_PER_IMAGE * plan.scale.data.world.training_images
    files = ["train/manifest.json", "vocabulary/vocabulary.json", "train/annotation.json"]
    made = {plan.data / name: (name, START_UP_SECONDS + data) for name in files}
    for stage in plan.stages.values():
        seconds = START_UP_SECONDS + 3600 * hours(stage).mean
        made[plan.stage_file(stage)] = f"{stage.run.slug} {stage.kind}", seconds
    made |= {job.output: (job.name, EVALUATION_SECONDS) for job in plan.jobs()}
    return made | {plan.measured_directory / name: (Path(name).name, RESULT_SECONDS) for name in results}


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
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _table1(root: Path) -> dict[str, Record]:
    path = root / PUBLISHED_DIRECTORY / "table1.json"
    records = _json(path).get("records")
    if not records:
        raise ConfigError(f"{path}: cannot be read as records; throughput is calibrated on Table 1")
    return {record["id"]: record for record in records}


def _fitted(measured: list[_Measured], about: str, exact: bool) -> Throughput:
    """Device-seconds per sample = a · multiply-adds + b, by least squares of relative errors, neither below zero."""
    import numpy
    from scipy.optimize import nnls

    rows = numpy.array([(one.macs / one.device_seconds, 1 / one.device_seconds) for one in measured])
    size = rows.max(axis=0)  # of columns that differ by many powers of ten
    line = tuple((nnls(rows / size, numpy.ones(len(rows)))[0] / size).tolist())
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


# ------------------------------------------------------------------------------------------- wall-clock and budget


def wall_clock(stages: Sequence[Stage], hours: Callable[[Stage], float], slots: int) -> tuple[float, float]:
    """Hours until all are trained, `slots` at a time, the longest way first, a parent before its child; and the
    longest way itself, which no number of devices shortens.

    `hours`: of one stage. A parent that is not among `stages` is there already.
    """
    here = {stage.directory: stage for stage in stages}
    children: dict[Path, list[Path]] = {}
    for directory, stage in here.items():
        if stage.parent is not None and stage.parent.directory in here:
            children.setdefault(stage.parent.directory, []).append(directory)

    way: dict[Path, float] = {}

    def measure(directory: Path) -> float:
        if directory not in way:
            way[directory] = hours(here[directory]) + max(
                map(measure, children.get(directory, ())), default=0.0
            )
        return way[directory]

    waiting = {child for several in children.values() for child in several}
    ready = [(-measure(directory), directory) for directory in here if directory not in waiting]
    heapq.heapify(ready)
    running: list[tuple[float, Path]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            directory = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + hours(here[directory]), directory))
        now, directory = heapq.heappop(running)
        for child in children.get(directory, ()):
            heapq.heappush(ready, (-measure(child), child))
    return now, max(way.values(), default=0.0)


def over_budget(plan: Plan, pending: Sequence[Stage]) -> str | None:
    """Why `pending` must not be started, in one line; None where the budget (or no budget) allows it."""
    budget = plan.project.budget_gpu_hours
    if budget is None or not pending:
        return None
    hours = throughput_of(plan).total(pending)
    if hours.mean <= budget:
        return None
    needed, over = math.ceil(hours.mean), hours.mean - budget
    return (
        f"budget_gpu_hours: {len(pending)} pending stages at scale {plan.scale.name} need about {short(hours.mean)} "
        f"{device_name(plan.scale)}-hours ({short(hours.low)} to {short(hours.high)}), {short(over)} more than the "
        f"{budget:,g} allowed; nothing was started. To allow it: --config budget_gpu_hours={needed}, or the key in "
        "config/config.yaml; `clipa plan` shows what costs how much"
    )


# ------------------------------------------------------------------------------------------------------------- disk

CHECKPOINTS_KEPT = 2  # by clipa.checkpoint, which this floor cannot import
EXPORT_BYTES = 4
LAION_BYTES, LAION_SHARDS = 10e12, 41408  # docs/data.md: "about ten terabytes" for the authors' shards
PICTOGRAM_BYTES = 1.4  # per stored pixel of a training image, captions and tar headers included; measured


def parameters(model_config: Mapping[str, Any]) -> int:
    """Trainable parameters of an open_clip configuration, to within one per cent, without building it."""
    vision, text, embedding = model_config["vision_cfg"], model_config["text_cfg"], model_config["embed_dim"]
    rows = text["vocab_size"] + text["context_length"] + embedding
    count = Transformer(text["layers"], text["width"]).parameters() + rows * text["width"]
    if "timm_model_name" in vision:
        net = CONVNETS[vision["timm_model_name"]]
        return count + net.parameters() + net.widths[-1] * embedding
    return count + towers_of(dict(model_config)).vision_parameters(positions=False, projection=True)


def disk(plan: Plan, stages: Sequence[Stage]) -> dict[str, float]:
    """Bytes that training `stages` leaves: checkpoints, exports, and the data set where it is not there yet."""
    counts = [parameters(stage.model_config) for stage in stages]
    return {
        "checkpoints": float(CHECKPOINTS_KEPT * CHECKPOINT_BYTES * sum(counts)),
        "exports": float(EXPORT_BYTES * sum(counts)),
        "data": sum(_data_bytes(plan, data) for data in _sources(stages)),
    }


def _sources(stages: Sequence[Stage]) -> list[Data]:
    """The training data of `stages`, each once."""
    return list({data_slug(stage.data): stage.data for stage in stages}.values())


def _data_bytes(plan: Plan, data: Data) -> float:
    if (plan.root / plan.data_of(data) / "train" / "manifest.json").is_file():
        return 0.0
    if data.kind == "local":  # links
        return 0.0
    if data.world is None:
        return LAION_BYTES * (data.shards or LAION_SHARDS) / LAION_SHARDS
    return data.world.training_images * data.world.image_size**2 * PICTOGRAM_BYTES
