"""Evaluation of a run: all its stages on all its test sets, in one process, offline.

Every stage is evaluated as it was trained: a pre-trained model at its reduced resolution and text length (as the
released code does, and as Table 11's pre-train column must be read), a fine-tuned one at full length.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clipa.config import Project, Scale
from clipa.cost import image_tower_size
from clipa.evaluate import tasks
from clipa.evaluate.tasks import Measurement, TestSet
from clipa.inputs import check_finished
from clipa.locks import directory_lock
from clipa.provenance import describe, now, packages
from clipa.records import encode_outcomes, percent_and_error, record_id, write_records
from clipa.resolved import EXPORT, data_slug, fingerprint, finished
from clipa.schema import SCHEMA_VERSION
from clipa.stages import Stage, evaluation_directory, measured_stages, resolve
from clipa.study import STUDY


def evaluate_run(stages: list[Stage], project: Project, suite: bool = False) -> Path:
    """Evaluate ``stages`` (of one run, in training order) and return the path of their records.

    ``records.json`` holds every stage on the scale's benchmarks; with ``suite``, ``suite.json`` holds the last stage
    on the whole suite. Raises UnfinishedStage for a stage that is not finished or whose exported model was changed,
    OtherInputs for one that was trained on other data than is there, or from another parent, EvaluationError for a
    missing test set or one of other bytes.
    """
    scale = stages[-1].scale
    wanted = scale.evaluation.suite if suite else scale.evaluation.benchmarks
    chosen = stages[-1:] if suite else measured_stages(stages)
    directory = Path(project.runs_directory) / evaluation_directory(stages)
    path = directory / ("suite.json" if suite else "records.json")
    with directory_lock(directory, f"evaluation of {stages[-1].run.slug}, seed {stages[-1].seed}") as waited:
        if waited and path.is_file():
            return path
        records = []
        check_finished([resolve(stage, project) for stage in stages])
        for stage in chosen:
            records += _evaluate_stage(stage, project, wanted)
        write_records(path, records)
    return path


def _evaluate_stage(stage: Stage, project: Project, benchmarks: dict[str, str]) -> list[dict[str, Any]]:
    scale = stage.scale
    # Where a GPU computes, the CPU only decodes and resizes single images: more threads would wait for one another,
    # for very long with several evaluations and trainings at once.
    torch.set_num_threads(scale.threads or 1)
    directory = Path(project.runs_directory) / stage.directory
    made = finished(directory, stage.fingerprint)
    candidate = tasks.load_candidate(
        directory / EXPORT,
        stage.image_size,
        stage.text_tokens,
        scale.augmentation,
        scale.device,
        scale.evaluation.batch_size,
    )
    tests = Path(project.data_directory) / data_slug(scale.data) / "test"
    records = []
    for name, chosen in benchmarks.items():
        began = time.monotonic()
        dataset, _, kind = chosen.partition("/")
        test_set = tasks.open_test_set(tests / dataset)
        task, evaluator = _task(test_set.kind, kind)
        measurements, conditions = task(candidate, test_set)
        protocol = {
            "evaluator": evaluator,
            "preprocess": tasks.describe_preprocessing(scale.augmentation),
            **conditions,
        }
        for measurement in measurements:
            record = _record(stage, made, name, test_set, measurement, fingerprint(protocol), evaluator)
            records.append(record)
            _log(record, measurement.beside, time.monotonic() - began)
    return records


def _task(kind: str, items: str) -> tuple[Any, str]:
    """How a test set is measured, and by what; of caption selection (ARO) the ``items`` that a benchmark is about."""
    if kind == "order":
        return partial(tasks.caption_selection, kind=items), f"clipa selection {tasks.SELECTION_VERSION}"
    task = tasks.retrieval if kind == "retrieval" else tasks.classification
    return task, f"clip-benchmark {packages(('clip-benchmark',))['clip-benchmark']}"


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
        "metric": measurement.metric,
        "value": measurement.value,
        "dataset": {
            "name": _dataset_name(scale, test_set.name),
            "split": "test",
            "n": len(measurement.outcomes),
            "fingerprint": test_set.fingerprint,
        },
        "standard_error": percent_and_error(measurement.correct)[1],
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
        "outcomes": encode_outcomes(measurement.outcomes),
        "provenance": _provenance(made, evaluator),
    }
    record["id"] = record_id(record)
    return record


def _provenance(made: dict[str, Any], evaluator: str) -> dict[str, Any]:
    """Provenance of the weights; dirty if training or evaluation ran changed code."""
    here = describe()
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
        "seconds": made["seconds"],
        "samples_seen": made["samples_seen"],
        "evaluator": evaluator,
        "created": now(),
    }


def _dataset_name(scale: Scale, test_set: str) -> str:
    """What was really evaluated: the embedded world's sets carry the world's name."""
    return f"{scale.data.name}/{test_set}" if scale.data.kind == "pictograms" else test_set


def _log(record: dict[str, Any], beside: dict[str, float], seconds: float) -> None:
    actual = record["actual"]
    others = "".join(f", {metric} {value:.1f}" for metric, value in beside.items())
    print(
        f"{record['run']} {record['stage']} ({actual['image_size']} px, {actual['text_tokens']} tokens) "
        f"{record['benchmark']} on {record['dataset']['name']}: {record['metric']} {record['value']:.1f} "
        f"± {record['standard_error']:.1f}{others} (n = {record['dataset']['n']}, {seconds:.1f} s)",
        file=sys.stderr,
        flush=True,
    )
