"""Model cards: what a trained model is, from its records and its configuration. The one home of their text.

`clipa export` writes one beside the weights of a stage, and `make release` one for each run with accepted records. The
header is the hub's, with the measured numbers as its ``model-index``, so that its tools read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from clipa.config import CONFIG_DIRECTORY, load_scale
from clipa.published.citation import bibtex
from clipa.published.measured import Mean, means, recorded
from clipa.records import ROOT, run_name
from clipa.schema import MeasuredRecord
from clipa.stages import Stage, measured_stages, stages_of
from clipa.stats import SEEDS, fixed
from clipa.study import parse_run

CLASSIFICATION, RETRIEVAL = "zero-shot-image-classification", "zero-shot-retrieval"
DATA = {
    "pictograms": "Drawn by this artifact's own program (MIT): pictograms with generated captions. No photographs, no "
    "persons, no text of others.",
    "webdataset": "Links to images of the web with their captions, which nobody has curated. Images and captions "
    "belong to their authors; none of them is passed on with the weights.",
    "local": "Data of whoever trained this model. This card knows neither what they show nor their licence: state both "
    "before the weights are passed on.",
}
LIMITS = {
    "pictograms": "It knows nothing but the world it was drawn for. Do not use it on photographs.",
    "webdataset": "It has the biases of its data.",
    "local": "It has the biases of its data, which nobody but its owner has looked at.",
}
"""By the kind of the training data."""


@dataclass(frozen=True)
class Weights:
    """The weights that a card lies beside: their sha256, and the commit that trained them."""

    sha256: str
    parameters: int
    commit: str | None
    dirty: bool | None


def card(stages: Sequence[Stage], records: Sequence[MeasuredRecord], weights: Weights | None = None) -> str:
    """The card of the last of ``stages`` (of one run), in Markdown with the hub's header.

    ``records``: accepted ones of any of the stages and of any seed, or measured here. ``weights``: None for a recorded
    run, whose weights are not kept; it has records.
    """
    stage, measured = stages[-1], means(records)
    header = {
        **({"license": "mit"} if stage.scale.data.kind != "local" else {}),
        "library_name": "open_clip",
        "pipeline_tag": CLASSIFICATION,
        "tags": ["clip", "open_clip", "clipa"],
        **({"model-index": [_index(stage, measured)]} if measured else {}),
    }
    seeds = sorted({record["seed"] for record in records} | ({stage.seed} if weights else set()))
    whose = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    title = f"seed {stage.seed}" if weights else whose
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {stage.run.slug}, {stage.kind}, scale {stage.scale.name}, {title}",
        _what(stage, records, weights),
        f"## Data\n\n{DATA[stage.scale.data.kind]}",
        f"## Training\n\n{_training(stages)}",
        f"## Numbers\n\n{_numbers(measured)}",
        f"## Limits\n\n{_limits(stage, measured)}",
        f"## Licence\n\n{_licence(stage)}",
        f"## Citation\n\nThe recipe is the paper's:\n\n```bibtex\n{bibtex().strip()}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def recorded_cards(scale_name: str, root: Path = ROOT) -> dict[str, str]:
    """The card of each run with accepted records of a scale, by the run's name.

    Raises RecordError without records; ValueError for a record that the present configuration would not make.
    """
    scale = load_scale(scale_name, root / CONFIG_DIRECTORY)
    runs: dict[str, list[MeasuredRecord]] = {}
    for record in recorded(scale_name, root):
        runs.setdefault(run_name(record), []).append(record)
    cards = {}
    for name, records in sorted(runs.items()):
        stages = stages_of(parse_run(name), scale, records[0]["seed"])
        if len(of_stages(records, stages)) != len(records):
            raise ValueError(f"{name}: scale {scale_name}: accepted records are of another configuration")
        cards[name] = card(stages, records)
    return cards


def of_stages(records: Iterable[MeasuredRecord], stages: Sequence[Stage]) -> list[MeasuredRecord]:
    """Those of a run's ``records``, of any seed, that were measured of ``stages`` as they are configured now."""
    known: dict[int, set[str]] = {}
    kinds = {stage.kind for stage in stages}
    last = stages[-1]
    found = []
    for record in records:
        seed = record["seed"]
        if seed not in known:
            made = measured_stages(stages_of(last.run, last.scale, seed))
            known[seed] = {stage.fingerprint for stage in made if stage.kind in kinds}
        if record["stage_fingerprint"] in known[seed]:
            found.append(record)
    return found


def _index(stage: Stage, measured: Sequence[Mean]) -> dict[str, Any]:
    """The hub's ``model-index``: a mean over seeds each. Its names are of what was evaluated, not of the paper's."""
    return {
        "name": f"{stage.run.slug}-{stage.scale.name}",
        "results": [
            {
                "task": {"type": RETRIEVAL if "retrieval" in mean.records[0]["metric"] else CLASSIFICATION},
                "dataset": {"name": _dataset(mean), "type": _dataset(mean)},
                "metrics": [
                    {
                        "type": mean.records[0]["metric"],
                        "value": float(fixed(mean.estimate.mean, 2)),
                        "name": mean.id,
                    }
                ],
            }
            for mean in measured
        ],
    }


def _dataset(mean: Mean) -> str:
    return mean.records[0]["dataset"]["name"]


def _what(stage: Stage, records: Sequence[MeasuredRecord], weights: Weights | None) -> str:
    vision, text = stage.model_config["vision_cfg"], stage.model_config["text_cfg"]
    at_scale = "" if stage.scale.name == "paper" else f" at the small scale {stage.scale.name}"
    own = [record for record in records if record["stage"] == stage.kind] or list(records)
    parameters = weights.parameters if weights else own[0]["actual"]["parameters"]
    about = f"""\
A CLIP model trained by the executable artifact of "An Inverse Scaling Law for CLIP Training" (arXiv:2305.07017). It
stands for {stage.run.model} of the paper{at_scale}, and is not its authors' model.

* {parameters:,} parameters; images of {vision["image_size"]} pixels, texts of {text["context_length"]} tokens.
"""
    if weights is None:
        return about + _origin(stage, own)
    dirty = ", with uncommitted changes" if weights.dirty else ""
    return f"""{about}\
* Stage fingerprint `{stage.fingerprint}`, commit `{weights.commit}`{dirty};
  sha256 of the weights `{weights.sha256}`.

```python
import open_clip
model, preprocess = open_clip.create_model_from_pretrained("local-dir:PATH/TO/THIS/FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:PATH/TO/THIS/FOLDER")
```"""


def _origin(stage: Stage, records: Sequence[MeasuredRecord]) -> str:
    """Of a recorded run: its fingerprints and codes, and what makes its weights again."""
    lines = [
        f"* Seed {seed}: stage fingerprint `{fingerprint}`, commit `{commit}`, {seconds:,.0f} s on {hardware}."
        for seed, fingerprint, commit, seconds, hardware in sorted(
            {
                (
                    record["seed"],
                    record["stage_fingerprint"],
                    str(record["provenance"]["commit"])[:12],
                    record["provenance"]["seconds"],
                    record["provenance"]["hardware"],
                )
                for record in records
            }
        )
    ]
    asked = f"clipa evaluate --scale {stage.scale.name} --run {stage.run.slug}"
    lines.append(
        f"* Weights are not kept. `{asked} --seed {stage.seed} --train` trains and measures them again."
    )
    return "\n".join(lines)


def _training(stages: Sequence[Stage]) -> str:
    rows = [
        (
            stage.kind,
            stage.data.name,
            f"{stage.image_size} ({_kept(stage)})",
            f"{stage.text_tokens} ({stage.text_reduction})",
            f"{stage.schedule.samples:,}",
            f"{stage.schedule.batch_size:,}",
            f"{stage.schedule.steps:,} ({stage.schedule.warmup_steps:,})",
            f"{stage.peak_lr:.3g}",
        )
        for stage in stages
    ]
    head = ("stage", "data", "image px", "text tokens", "samples", "batch", "steps (warm-up)", "peak lr")
    last = stages[-1]
    blocks = "open_clip's" if last.scale.blocks == "open_clip" else last.scale.blocks
    by = "AdamW" if last.schedule.muon is None else "Muon for matrices, AdamW for all else"
    return (
        tabulate(rows, head, "github", disable_numparse=True)
        + f"\n\n{by}, cosine schedule; {last.scale.precision}, {blocks} blocks; vocabulary of "
        + f"{last.model_config['text_cfg']['vocab_size']:,} entries; seeds set order, initialisation and crops."
    )


def _kept(stage: Stage) -> str:
    """What of the image is seen: ``resize``, or how many patches a mask leaves."""
    return stage.image_reduction + ("" if stage.kept_patches is None else f", {stage.kept_patches} patches")


def _numbers(measured: Sequence[Mean]) -> str:
    if not measured:
        return "None was measured yet: `clipa evaluate` measures them."
    rows = []
    for mean in measured:
        first = mean.records[0]
        over = f"{mean.estimate.seeds} seeds" if mean.estimate.over == SEEDS else "items"
        each = ", ".join(f"{record['seed']}: {fixed(record['value'], 2)}" for record in mean.records)
        value = f"{fixed(mean.estimate.mean, 2)} ± {fixed(mean.estimate.standard_error, 2)} ({over})"
        row = (
            f"`{mean.id}`",
            _dataset(mean),
            first["dataset"]["n"],
            first.get("protocol_name", "study"),
            value,
            each,
        )
        rows.append(row)
    head = ("record", "data set", "n", "protocol", "percent ± s.e. (over)", "by seed")
    return tabulate(rows, head, "github", disable_numparse=True)


def _limits(stage: Stage, measured: Sequence[Mean]) -> str:
    lines = [LIMITS[stage.scale.data.kind]]
    if stage.scale.data.kind != "local":
        lines.append("Its texts are English.")
    if any(mean.estimate.over != SEEDS for mean in measured):
        lines.append("Errors over items say nothing about another seed.")
    if stage.scale.name != "paper":
        lines.append("Its accuracies are not comparable with the paper's, which has other models and data.")
    lines.append(
        "It was tested on the data sets above and on nothing else; it was not examined for bias or safety."
    )
    return "\n".join(f"* {line}" for line in lines)


def _licence(stage: Stage) -> str:
    if stage.scale.data.kind == "local":
        return "None is stated: whoever trained it has to, by the licence of the data. The code that trained it is MIT."
    return "MIT, like the code that trained it."


def weights_of(made: Mapping[str, Any], file: str) -> Weights:
    """What a card says of weights, from their ``stage.json``; ``file``: their name there."""
    return Weights(made["export"][file], made["parameters"], made["commit"], made["dirty"])
