"""A finished stage as others take it: a folder in the hub's layout, with a model card (`clipa export`).

Weights, configuration and tokenizer are those that training wrote, byte for byte; open_clip loads the folder by
``create_model_from_pretrained("local-dir:<folder>")`` with nothing of ours. The card's text is in
:mod:`clipa.model_card`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipa.config import Project
from clipa.files import seal, write_text_atomically
from clipa.model_card import card, of_stages, weights_of
from clipa.records import RECORDED_DIRECTORY, read_records
from clipa.resolved import EXPORT, WEIGHTS, finished
from clipa.schema import MeasuredRecord
from clipa.stages import Stage, evaluation_directory, recorded_path

CARD = "README.md"


def export(stages: Sequence[Stage], project: Project, out: Path, kind: str | None = None) -> Path:
    """Write a stage of ``stages`` (of one run), the last (of a ``kind``), to the new folder ``out``; returns that.

    The folder is complete or not there. Raises UnfinishedStage for a stage that is not finished or whose model was
    changed, ValueError where ``out`` is there, or the run has no stage of that kind.
    """
    kinds = [stage.kind for stage in stages]
    if kind not in (None, *kinds):
        raise ValueError(f"{kind}: the run has the stages {', '.join(kinds)}")
    chosen = stages[: 1 + max(i for i, one in enumerate(kinds) if kind in (None, one))]
    stage = chosen[-1]
    directory = Path(project.runs_directory) / stage.directory
    made = finished(directory, stage.fingerprint)
    if out.exists():
        raise ValueError(f"{out}: is there already; choose another folder, or move it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shutil.copytree(directory / EXPORT, partial)
        write_text_atomically(
            partial / CARD, card(chosen, _records(stages, project, stage), weights_of(made, WEIGHTS))
        )
        seal(partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _records(stages: Sequence[Stage], project: Project, stage: Stage) -> list[MeasuredRecord]:
    """What was measured of ``stage`` of a run: accepted records of every seed, else those of its evaluations here."""
    accepted = (RECORDED_DIRECTORY / recorded_path(stages)).parent
    measured = Path(project.runs_directory) / evaluation_directory(stages)
    found: dict[str, Any] = {}
    for path in (*sorted(accepted.rglob("*.json")), measured / "records.json", measured / "suite.json"):
        for record in read_records(path) if path.is_file() else ():
            found.setdefault(record["id"], record)
    chosen = [one for one in stages if one.kind == stage.kind]
    return of_stages(found.values(), chosen)
