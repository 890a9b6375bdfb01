"""A finished stage as others take it: a folder in the hub's layout, with a model card (`clipa export`).

Weights, configuration and tokenizer are those that training wrote, byte for byte; open_clip loads the folder by
``create_model_from_pretrained("local-dir:<folder>")`` with nothing of ours. The card says what the model is, what it
was trained on, its numbers by the ids of their records, its limits, and what to cite.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from clipa.config import Project
from clipa.files import seal, write_text_atomically
from clipa.published.citation import bibtex
from clipa.records import RECORDED_DIRECTORY, read_records
from clipa.resolved import EXPORT, WEIGHTS, finished
from clipa.schema import MeasuredRecord
from clipa.stages import Stage, evaluation_directory, recorded_path, recorded_suite_path

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
        write_text_atomically(partial / CARD, card(chosen, made, _records(stages, project, stage)))
        seal(partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _records(stages: Sequence[Stage], project: Project, stage: Stage) -> list[MeasuredRecord]:
    """What was measured of ``stage`` of a run: accepted records, else those of its evaluations here."""
    measured = Path(project.runs_directory) / evaluation_directory(stages)
    recorded = [RECORDED_DIRECTORY / place(stages) for place in (recorded_path, recorded_suite_path)]
    found: dict[str, Any] = {}
    for path in (*recorded, measured / "records.json", measured / "suite.json"):
        for record in read_records(path) if path.is_file() else ():
            if record["stage_fingerprint"] == stage.fingerprint:
                found.setdefault(record["id"], record)
    return list(found.values())


def card(stages: Sequence[Stage], made: dict[str, Any], records: Sequence[MeasuredRecord]) -> str:
    """The model card, in Markdown with the hub's header. ``made``: stage.json of the last stage."""
    stage = stages[-1]
    header = {
        "license": "mit",
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "open_clip", "clipa"],
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {stage.run.slug}, {stage.kind}, scale {stage.scale.name}, seed {stage.seed}",
        _what(stage, made),
        f"## Data\n\n{_data(stages)}",
        f"## Numbers\n\n{_numbers(records)}",
        f"## Limits\n\n{_limits(stage)}",
        f"## Citation\n\nThe recipe is the paper's:\n\n```bibtex\n{bibtex().strip()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _what(stage: Stage, made: dict[str, Any]) -> str:
    config = stage.model_config
    vision, text = config["vision_cfg"], config["text_cfg"]
    at_scale = "" if stage.scale.name == "paper" else f" at the small scale {stage.scale.name}"
    dirty = ", with uncommitted changes" if made["dirty"] else ""
    return f"""\
A CLIP model trained by the executable artifact of "An Inverse Scaling Law for CLIP Training" (arXiv:2305.07017). It
stands for {stage.run.model} of the paper{at_scale}.

* {made["parameters"]:,} parameters; images of {vision["image_size"]} pixels, texts of {text["context_length"]} tokens.
* Stage fingerprint `{stage.fingerprint}`, commit `{made["commit"]}`{dirty};
  sha256 of the weights `{made["export"][WEIGHTS]}`.

```python
import open_clip
model, preprocess = open_clip.create_model_from_pretrained("local-dir:PATH/TO/THIS/FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:PATH/TO/THIS/FOLDER")
```"""


def _data(stages: Sequence[Stage]) -> str:
    lines = [
        f"* {stage.kind}: {stage.schedule.samples:,} samples of {stage.data.name}, images {stage.image_size} pixels "
        f"({stage.image_reduction}), texts {stage.text_tokens} tokens ({stage.text_reduction})"
        for stage in stages
    ]
    drawn = "drawn pictograms with generated captions: no photographs, no persons, no text of others"
    found = "links to images of the web with their captions, which nobody has curated"
    lines.append(f"\nThe data are {drawn if stages[-1].scale.data.kind == 'pictograms' else found}.")
    return "\n".join(lines)


def _numbers(records: Sequence[MeasuredRecord]) -> str:
    if not records:
        return "None was measured yet: `clipa evaluate` measures them."
    rows = [
        (
            f"`{record['id']}`",
            record["dataset"]["name"],
            f"{record['value']:.2f} ± {record['standard_error']:.2f}",
            record["dataset"]["n"],
            record.get("protocol_name", "study"),
        )
        for record in records
    ]
    head = ("record", "data set", "percent ± s.e. over items", "n", "protocol")
    return tabulate(rows, head, "github", disable_numparse=True)


def _limits(stage: Stage) -> str:
    lines = ["* One seed; the errors above are over test items alone.", "* Its texts are English."]
    if stage.scale.data.kind == "pictograms":
        lines.append("* It knows nothing but the world it was drawn for. Do not use it on photographs.")
    else:
        lines.append(
            "* It has the biases of its data. It was tested on the benchmarks above and on nothing else."
        )
    return "\n".join(lines)
