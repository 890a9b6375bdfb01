"""What measuring a claim costs: the trainings behind the numbers that it rests on, each counted once.

Costs at the paper's scale are in the paper's unit, forward multiply-adds of all samples in units of 1e12 GFLOPs
(`clipa.cost`), and in GPU hours by what Table 1 says of its three runs on A100s. At a small scale: seconds as recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipa.cost import FINETUNE_SAMPLES, PRETRAIN_SAMPLES, training_total
from clipa.estimate.throughput import UNIT, calibrated
from clipa.estimate.throughput import Spread as Rate
from clipa.records import Record

__all__ = ["Effort", "Rate", "Stage", "calibrated", "effort", "seconds_of"]

MEASURED_UNITS = ("percent", "points", "GPU hours")
PRETRAINING = ("recipe", "data_source", "pooling", "color_jitter", "implementation", "pretrain_samples")
FINETUNING = (
    "finetune_samples",
    "finetune_image_size",
    "finetune_mask_ratio",
    "finetune_mask",
    "finetune_batch_size",
)


@dataclass(frozen=True)
class Stage:
    """One training at the paper's scale. `multiply_adds` in `UNIT`; None where Table 4 has no such model."""

    run: str
    kind: str
    factors: tuple[tuple[str, Any], ...]
    multiply_adds: float | None


@dataclass(frozen=True)
class Effort:
    """The stages that a set of records rests on."""

    stages: tuple[Stage, ...]

    @property
    def runs(self) -> int:
        """Distinct pre-trainings."""
        return sum(stage.kind == "pretrain" for stage in self.stages)

    @property
    def finetunings(self) -> int:
        """Distinct trainings after a pre-training."""
        return len(self.stages) - self.runs

    @property
    def multiply_adds(self) -> float:
        """Of all stages that can be counted, in `UNIT`."""
        return sum(stage.multiply_adds or 0.0 for stage in self.stages)

    @property
    def uncounted(self) -> int:
        """Stages of models that Table 4 does not have, and hard-negative fine-tunings, of unknown length."""
        return sum(stage.multiply_adds is None for stage in self.stages)


def effort(records: Iterable[Record]) -> Effort:
    """The trainings behind these published records, each counted once."""
    stages: dict[tuple[Any, ...], Stage] = {}
    for record in records:
        if record["run"] is None or record["unit"] not in MEASURED_UNITS:
            continue
        for stage in _stages(record):
            stages.setdefault((stage.run, stage.kind, stage.factors), stage)
    return Effort(tuple(stages[key] for key in sorted(stages, key=repr)))


def _stages(record: Record) -> list[Stage]:
    """Pre-training, then (unless the record is of the pre-trained model) the stages after it."""
    factors = _factors(record)
    own = tuple((name, factors[name]) for name in PRETRAINING)
    found = [Stage(record["run"], "pretrain", own, _pretraining(record, factors))]
    if record["stage"] == "pretrain":
        return found
    own += tuple((name, factors[name]) for name in FINETUNING)
    found.append(Stage(record["run"], "finetune", own, _finetuning(record, factors)))
    if record["stage"] == "negclip":
        found.append(Stage(record["run"], "negclip", own, None))
    return found


def _factors(record: Record) -> dict[str, Any]:
    """The record's factors with the paper's defaults where it names none (§3.1, §5, A.2); lists as tuples."""
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in record["factors"].items()
    }
    is_clipa = given.get("recipe") == "CLIPA"
    factors = {
        "recipe": None,
        "data_source": "LAION-400M",
        "pooling": "gap" if is_clipa else "cls",
        "color_jitter": is_clipa,
        "implementation": "jax",
        "pretrain_samples": PRETRAIN_SAMPLES,
        "finetune_samples": (FINETUNE_SAMPLES,),
        "finetune_image_size": (224,),
        "finetune_mask_ratio": None,
        "finetune_mask": None,
        "finetune_batch_size": None,
        "finetune_patches": None,
        **given,
    }
    if not any(factors["finetune_mask_ratio"] or ()):  # nothing is masked: the strategies are one training
        factors["finetune_mask_ratio"] = factors["finetune_mask"] = None
    factors["recipe"] = None  # said by pooling and jitter
    return factors


def _pretraining(record: Record, factors: Mapping[str, Any]) -> float | None:
    return _cost(record["model"], record["patches"], record["text_tokens"], factors["pretrain_samples"])


def _finetuning(record: Record, factors: Mapping[str, Any]) -> float | None:
    patch_size = int(record["model"].split("/")[1]) if "/" in record["model"] else 16
    ratios = factors["finetune_mask_ratio"] or [0.0] * len(factors["finetune_samples"])
    sizes = factors["finetune_image_size"]
    costs = [
        _cost(record["model"], round((size // patch_size) ** 2 * (1 - ratio)), 32, samples)
        for samples, size, ratio in zip(factors["finetune_samples"], sizes, ratios, strict=True)
    ]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _cost(model: str, patches: int | None, text_tokens: int, samples: float) -> float | None:
    if patches is None:  # ConvNeXt
        return None
    try:
        return training_total(model, patches, text_tokens, samples, []) / UNIT
    except ValueError:
        return None


def seconds_of(needed: Effort, recorded: Mapping[tuple[str, str], Mapping[int, float]]) -> float | None:
    """Seconds of one seed, mean over the seeds, summed over the stages; None if one was not recorded.

    Recorded are the standard runs of Tables 11 and 12, not other recipes of the same run.
    """
    standard = _factors({"factors": {}})
    total = 0.0
    for stage in needed.stages:
        seconds = recorded.get((stage.run, stage.kind))
        if not seconds or any(standard[name] != value for name, value in stage.factors):
            return None
        total += sum(seconds.values()) / len(seconds)
    return total if needed.stages else None
