"""Evaluation of a checkpoint, whoever trained it: any protocol, any sets of a scale (`clipa evaluate --model`)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from clipa.config import Project, Scale
from clipa.evaluate import SETS, dataset_name, decoded_images, suites, test_sets
from clipa.evaluate.candidates import Candidate
from clipa.evaluate.references import Reference, resolve
from clipa.evaluate.suites import Asked, RecordsFile, SetJob
from clipa.evaluate.tasks import Measurement, measure
from clipa.protocols import Protocol, protocol_named
from clipa.provenance import now
from clipa.records import record_id
from clipa.released import RELEASED_SCALE
from clipa.resolved import EXPORT, finished
from clipa.schema import SCHEMA_VERSION
from clipa.stages import Stage

FOLDER = "checkpoints"
"""Below the runs' folder: what is measured of checkpoints, each in a folder of its name and digest."""


def evaluate_checkpoint(
    reference: str,
    scale: Scale,
    project: Project,
    protocols: Sequence[str],
    benchmarks: dict[str, str],
    stage: Stage | None = None,
) -> list[Path]:
    """One checkpoint of :func:`evaluate_checkpoints`: the records file of each protocol."""
    (paths,) = evaluate_checkpoints({reference: stage}, scale, project, protocols, benchmarks)
    return paths


def evaluate_checkpoints(
    references: Mapping[str, Stage | None],
    scale: Scale,
    project: Project,
    protocols: Sequence[str],
    benchmarks: dict[str, str],
) -> list[list[Path]]:
    """Measure checkpoints on ``benchmarks`` by each of ``protocols``; returns the records files, a list for each.

    ``references``: as :func:`clipa.evaluate.references.resolve` takes them, each with the stage of a run that it names
    instead. All are found before the first is measured; one is in memory at a time. Raises EvaluationError for a
    checkpoint or test set that is missing or does not fit, ConfigError for an unknown protocol, UnfinishedStage.
    """
    chosen = {name: protocol_named(name, scale.config_directory) for name in protocols}
    torch.set_num_threads(scale.threads or len(os.sched_getaffinity(0)))
    asked = suites.asked_for(benchmarks, test_sets(scale, project))
    found = [
        (_of_stage(stage, project) if stage else resolve(reference), stage)
        for reference, stage in references.items()
    ]
    files = []
    for one, stage in found:
        evaluated = _Evaluated(one, scale, project, stage.paper_pixels if stage else one.size)
        files.append([evaluated.file(name, protocol, asked) for name, protocol in chosen.items()])
    suites.run([file for of_checkpoint in files for file in of_checkpoint])
    return [[file.path for file in of_checkpoint] for of_checkpoint in files]


def _of_stage(stage: Stage, project: Project) -> Reference:
    """The exported model of a finished stage; every byte of it is checked."""
    directory = Path(project.runs_directory) / stage.directory
    finished(directory, stage.fingerprint)
    found = resolve(f"local-dir:{directory / EXPORT}")
    name = f"{stage.run.slug}-{stage.kind}-seed{stage.seed}"
    return Reference(name, name, found.config, found.preprocess, found.weights, found.tokenizer)


class _Evaluated:
    """One checkpoint and what it is evaluated with. ``paper_size``: the paper's pixels that it stands for."""

    def __init__(self, found: Reference, scale: Scale, project: Project, paper_size: int) -> None:
        self.found, self.scale, self.project, self.paper_size = found, scale, project, paper_size
        self.digests = found.digests()
        self.directory = Path(project.runs_directory) / FOLDER / f"{found.name}-{self.digests['digest'][:12]}"

    def file(self, name: str, protocol: Protocol, asked: Sequence[Asked]) -> RecordsFile:
        """The records of all sets by one protocol, in ``<protocol>.json``."""
        pixels = protocol.pixels(self.found.size, self.paper_size, self.found.own)
        jobs = []
        for one in asked:
            digest = one.protocol_digest(name, protocol, pixels, self.found.normal)
            place = suites.place_of(self.directory / SETS, name, one, self.digests["digest"], digest)
            measured = partial(self._records, one, name, protocol, digest)
            jobs.append(SetJob(one, place, self._load, measured))
        return RecordsFile(self.directory / f"{name}.json", self.found.name, jobs)

    def _load(self) -> Candidate:
        batch_size, decoded = self.scale.evaluation.batch_size, decoded_images(self.scale, self.project)
        return self.found.load(self._device, batch_size, decoded, self.directory / "features")

    @cached_property
    def _device(self) -> str:
        """The scale's, or the CPU where that is not there: numbers agree up to the arithmetic, the time does not."""
        if self.scale.device == "cuda" and not torch.cuda.is_available():
            print("no GPU here: evaluating on the CPU", file=sys.stderr, flush=True)
            return "cpu"
        return self.scale.device

    def _records(
        self, asked: Asked, name: str, protocol: Protocol, protocol_digest: str, candidate: Candidate
    ) -> list[dict[str, Any]]:
        began = time.monotonic()
        seen = candidate.seen(protocol.pixels(self.found.size, self.paper_size, self.found.own))
        size, records = _size(candidate.model), []
        for measurement in measure(seen, asked.test_set, protocol, asked.items):
            seconds = time.monotonic() - began
            record = self._record(asked, measurement, size, name, protocol_digest, seconds)
            suites.log(f"{self.found.name} ({name})", record, seconds)
            records.append(record)
        return records

    def _record(
        self,
        asked: Asked,
        measurement: Measurement,
        size: tuple[int | None, int],
        name: str,
        protocol: str,
        seconds: float,
    ) -> dict[str, Any]:
        grid, parameters = size
        record = {
            "id": "",
            "schema_version": SCHEMA_VERSION,
            "source": "measured",
            "scale": RELEASED_SCALE,
            "table": None,
            "figure": None,
            "column": None,
            "case": self.found.name,
            "model": None,
            "run": None,
            "stage": None,
            "seed": None,
            "patches": grid,
            "image_tokens": None if grid is None else grid + 1,
            "benchmark": asked.benchmark,
            "dataset": {
                "name": dataset_name(self.scale, asked.test_set.name),
                "split": "test",
                "n": len(measurement.outcomes),
                "fingerprint": asked.test_set.fingerprint,
            },
            "checkpoint": {
                "reference": self.found.reference,
                **self.digests,
                "revision": self.found.revision,
            },
            "actual": {
                "image_size": self.found.size,
                "patches": grid,
                "text_tokens": self.found.config["text_cfg"].get("context_length", 77),
                "parameters": parameters,
            },
            "protocol": protocol,
            "protocol_name": name,
            **measurement.content,
            "provenance": suites.here(torch.cuda.get_device_name() if self._device == "cuda" else None)
            | {"seconds": round(seconds, 3), "evaluator": asked.evaluator, "created": now()},
        }
        record["id"] = record_id(record)
        return record


def _size(model: torch.nn.Module) -> tuple[int | None, int]:
    """Patches of an image, None for a tower without any, and trained parameters."""
    grid = getattr(model.visual, "grid_size", None)
    patches = grid[0] * grid[1] if isinstance(grid, tuple) else None
    return patches, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
