"""Evaluation of runs: all their stages on all test sets, offline.

Every stage is evaluated as it was trained: a pre-trained model at its reduced resolution and text length (as the
released code does, and as Table 11's pre-train column must be read), a fine-tuned one at full length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clipa.config import Project, Scale
from clipa.cost import image_tower_size
from clipa.evaluate import suites
from clipa.evaluate.candidates import Candidate, Normal, load_candidate
from clipa.evaluate.suites import Asked, RecordsFile, SetJob
from clipa.evaluate.tasks import Measurement, measure
from clipa.evaluate.testsets import TestSet
from clipa.inputs import check_finished
from clipa.protocols import STUDY_PROTOCOL
from clipa.provenance import now
from clipa.records import record_id
from clipa.resolved import EXPORT, data_slug, finished
from clipa.schema import SCHEMA_VERSION
from clipa.stages import Stage, evaluation_directory, measured_stages, resolve
from clipa.study import STUDY

SETS = "sets"
"""Folder of an evaluation with one file for each measured set."""


def evaluate_run(stages: list[Stage], project: Project, suite: bool = False) -> Path:
    """One run of :func:`evaluate_runs`: the path of its records."""
    return evaluate_runs([stages], project, suite)[0]


def evaluate_runs(runs: Sequence[list[Stage]], project: Project, suite: bool = False) -> list[Path]:
    """Evaluate runs of one scale, each with its stages in training order; return the paths of their records.

    ``records.json`` holds every stage on the scale's benchmarks; with ``suite``, ``suite.json`` holds the last stage
    on the whole suite. A set that both have is measured once (:mod:`clipa.evaluate.suites`). All runs are looked at
    before the first is measured; one stage is in memory at a time. Raises UnfinishedStage for a stage that is not
    finished or whose exported model was changed, OtherInputs for one that was trained on other data than is there, or
    from another parent, EvaluationError for a missing test set or one of other bytes.
    """
    scale = runs[0][-1].scale
    wanted = scale.evaluation.suite if suite else scale.evaluation.benchmarks
    # Where a GPU computes, the CPU only decodes and resizes single images: more threads would wait for one another,
    # for very long with several evaluations and trainings at once.
    torch.set_num_threads(scale.threads or 1)
    for stages in runs:
        check_finished([resolve(stage, project) for stage in stages])
    asked = suites.asked_for(wanted, test_sets(scale, project))
    files = [_file(stages, project, asked, suite) for stages in runs]
    suites.run(files)
    return [file.path for file in files]


def _file(stages: list[Stage], project: Project, asked: list[Asked], suite: bool) -> RecordsFile:
    """What is measured of one run, and where its records go."""
    directory = Path(project.runs_directory) / evaluation_directory(stages)
    chosen = stages[-1:] if suite else measured_stages(stages)
    jobs = [job for stage in chosen for job in _jobs(stage, project, asked, directory / SETS)]
    name = "suite.json" if suite else "records.json"
    return RecordsFile(directory / name, f"{stages[-1].run.slug}, seed {stages[-1].seed}", jobs)


def test_sets(scale: Scale, project: Project) -> Path:
    """The folder of a scale's test sets."""
    return Path(project.data_directory) / data_slug(scale.data) / "test"


def decoded_images(scale: Scale, project: Project) -> Path:
    """Where a scale's resized test images are kept for all checkpoints."""
    return test_sets(scale, project).with_name("decoded")


def _jobs(stage: Stage, project: Project, asked: list[Asked], sets: Path) -> list[SetJob]:
    directory = Path(project.runs_directory) / stage.directory
    made = finished(directory, stage.fingerprint)
    scale = stage.scale
    normal = Normal(scale.augmentation.mean, scale.augmentation.std)

    def load() -> Candidate:
        return load_candidate(
            directory / EXPORT,
            stage.pixels,
            stage.text_tokens,
            scale.augmentation,
            scale.device,
            scale.evaluation.batch_size,
            decoded_images(scale, project),
        )

    def measured(one: Asked, protocol: str, candidate: Candidate) -> list[dict[str, Any]]:
        began = time.monotonic()
        records = []
        for measurement in measure(candidate, one.test_set, stage.protocol, one.items):
            record = _record(stage, made, one.benchmark, one.test_set, measurement, protocol, one.evaluator)
            actual = record["actual"]
            head = f"{record['run']} {record['stage']} ({actual['image_size']} px, {actual['text_tokens']} tokens)"
            suites.log(head, record, time.monotonic() - began)
            records.append(record)
        return records

    jobs = []
    for one in asked:
        protocol = one.protocol_digest(stage.protocol_name, stage.protocol, stage.pixels, normal)
        place = suites.place_of(sets, stage.kind, one, made["digest"], protocol)
        jobs.append(SetJob(one, place, load, partial(measured, one, protocol)))
    return jobs


def _record(
    stage: Stage,
    made: dict[str, Any],
    benchmark: str,
    test_set: TestSet,
    measurement: Measurement,
    protocol: str,
    evaluator: str,
) -> dict[str, Any]:
    """One measured record, in the paper's coordinates (the schema: schemas/record.schema.json)."""
    run, scale = stage.run, stage.scale
    width, layers = image_tower_size(stage.model_config)
    record = {
        "id": "",
        "schema_version": SCHEMA_VERSION,
        "source": "measured",
        "scale": scale.name,
        "table": None,
        "figure": None,
        "column": None,
        "model": run.model,
        "run": run.coordinates,
        **({} if run.recipe == STUDY else {"recipe": run.recipe}),
        "stage": stage.kind,
        "image_reduction": run.image_reduction,
        "image_size": run.image_size,
        "patches": run.patches,
        "image_tokens": None if run.patches is None else run.patches + 1,
        "text_reduction": run.text_reduction,
        "text_tokens": run.text_tokens,
        "benchmark": benchmark,
        "dataset": {
            "name": dataset_name(scale, test_set.name),
            "split": "test",
            "n": len(measurement.outcomes),
            "fingerprint": test_set.fingerprint,
        },
        "seed": stage.seed,
        "stage_fingerprint": stage.fingerprint,
        "actual": {
            "image_size": stage.image_size,
            "patches": stage.kept_patches or stage.patches,
            "text_tokens": stage.text_tokens,
            "width": width,
            "layers": layers,
            "parameters": made["parameters"],
            "samples": stage.schedule.samples,
        },
        "protocol": protocol,
        **({} if stage.protocol_name == STUDY_PROTOCOL else {"protocol_name": stage.protocol_name}),
        **measurement.content,
        "provenance": _provenance(made, evaluator),
    }
    record["id"] = record_id(record)
    return record


def _provenance(made: dict[str, Any], evaluator: str) -> dict[str, Any]:
    """Provenance of the weights; dirty if training or evaluation ran changed code."""
    here = suites.here()
    flags = (made["dirty"], here["dirty"])
    return {
        "commit": made["commit"],
        "dirty": True if True in flags else None if None in flags else False,
        "packages": here["packages"],
        "data_fingerprint": made["data_fingerprint"],
        "inputs": made["inputs"],
        "commits": made["commits"],
        "integrity": made["integrity"],
        "hardware": made["hardware"],
        **({"container": made["container"]} if "container" in made else {}),
        "seconds": made["seconds"],
        "samples_seen": made["samples_seen"],
        "evaluator": evaluator,
        "created": now(),
    }


def dataset_name(scale: Scale, test_set: str) -> str:
    """What was really evaluated: the embedded world's sets carry the world's name."""
    return f"{scale.data.name}/{test_set}" if scale.data.kind == "pictograms" else test_set
