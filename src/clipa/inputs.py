"""What a stage is made from, by digest: training data, vocabulary, parts of speech, parent, code.

The digests are taken when a stage starts, and sealed in its checkpoints and its stage.json. Whatever starts from there
(a resume, a second export, a fine-tuning, an evaluation) starts from the same bytes, or ends in one line that names
both digests. Other code is the one thing that may be adopted on purpose; then each code stands with the step from which
it ran. docs/design.md ("Identity of data") says why a fingerprint alone is not enough.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from clipa.data.annotation import ENTRIES
from clipa.data.annotation import MANIFEST as ANNOTATED
from clipa.data.shards import Expected, ShardError, file_sha256, read_manifest
from clipa.provenance import code, commit
from clipa.resolved import FILE_NAME, WEIGHTS, ResolvedStage, digest, same_digest, sealed

MODES = ("manifest", "once", "always")
"""Of integrity, weakest first."""

SAMPLED = 64
"""With ``integrity: manifest`` the bytes of one shard in so many are compared, another choice for each seed."""

_WHAT = {
    "data": "training data",
    "vocabulary": "vocabulary",
    "parts_of_speech": "parts of speech",
    "entries": "parts of speech of the vocabulary's entries",
    "parent": "parent",
}


class OtherInputs(RuntimeError):
    """What is there is not what a stage was made from, or its code is not the one that trained it; one line."""


# ------------------------------------------------------------------------------------------------------- digests


def inputs_of(stage: ResolvedStage, manifest: Mapping[str, Any], tags: bool, entries: bool) -> dict[str, str]:
    """The digest of everything that ``stage`` reads, by name; ``tags``, ``entries``: whether it reads these.

    ``data`` is that of the ``manifest``, which names every shard's bytes; ``train``, of NegCLIP's set and of a prepared
    copy, the digest (its first digits) of the training set that it was made from. Raises ShardError or UnfinishedStage
    for what is missing.
    """
    others = ["vocabulary", *["parts_of_speech"] * tags, *["entries"] * entries]
    others += ["parent"] * (stage.parent is not None)
    found = {"data": digest(manifest), **{name: _digest(stage, name) for name in others}}
    if "made_from" in manifest:
        found["train"] = manifest["made_from"]["train"]
    return found


def _place(stage: ResolvedStage, name: str) -> Path:
    """The file that has an input, or that names its bytes."""
    return {
        "data": stage.training_data / "manifest.json",
        "vocabulary": stage.vocabulary / "tokenizer.json",
        "parts_of_speech": stage.sidecars / ANNOTATED,
        "entries": stage.vocabulary / ENTRIES,
        "parent": (stage.parent or stage.directory) / "stage.json",
    }[name]


def _digest(stage: ResolvedStage, name: str) -> str:
    path = _place(stage, name)
    if name == "data":
        return digest(read_manifest(path.parent))
    if name == "parts_of_speech":
        return digest(read_manifest(path.parent, ANNOTATED))
    if name == "parent":
        return sealed(path.parent, stage.content.parent)["export"][WEIGHTS]
    if (found := file_sha256(path)) is None:
        verb = "vocabulary" if name == "vocabulary" else "annotate"
        raise ShardError(f"{path}: missing; make it first (python -m clipa {verb})")
    return found


def expected_of(stage: ResolvedStage, manifest: Mapping[str, Any], tags: bool) -> tuple[Expected, ...]:
    """What each shard of the training data must be by its ``manifest``; ``tags``: and its sidecar."""
    sidecars = {}
    if tags or (stage.content.loader == "resident" and (stage.sidecars / ANNOTATED).is_file()):
        entries = read_manifest(stage.sidecars, ANNOTATED)["sidecars"]
        sidecars = {entry["name"]: entry["sha256"] for entry in entries}
    expected = []
    for shard in manifest["shards"]:
        sha256 = shard["sha256"]
        drawn = hashlib.sha256(f"{stage.content.seed} {sha256}".encode()).digest()[0] % SAMPLED == 0
        by_size = stage.integrity == "manifest" and not drawn
        expected.append(
            Expected(
                sha256,
                sidecars.get(Path(shard["name"]).stem + ".pos.jsonl"),
                shard.get("bytes") if by_size else None,
                stage.integrity == "always",
            )
        )
    return tuple(expected)


# ---------------------------------------------------------------------------------------------------- comparisons


def check_start(stage: ResolvedStage, inputs: Mapping[str, str]) -> str:
    """Refuse data that the configuration does not name, and a parent that was made from other inputs.

    Returns the integrity that the stage starts with: its own, or a weaker one of its parent.
    """
    pinned = stage.content.data.get("manifest")
    if pinned is not None and not same_digest(pinned, train_digest(inputs)):
        raise OtherInputs(
            f"{_place(stage, 'data')}: digest is {train_digest(inputs)[:12]}, this stage's configuration names "
            f"{pinned[:12]}; restore that data, or correct `manifest` in the scale's file"
        )
    if stage.parent is None:
        return stage.integrity
    made = sealed(stage.parent, stage.content.parent)
    for doubt in lineage({"inputs": inputs, "content": stage.content.plain}, made):
        raise OtherInputs(f"{stage.directory}: {doubt}; restore it, or train the parent again")
    return weaker(stage.integrity, made["integrity"])


def weaker(one: str, other: str) -> str:
    """Of two modes of integrity."""
    return min(one, other, key=MODES.index)


def check_finished(stages: Sequence[ResolvedStage]) -> None:
    """Refuse stages (in training order) that did not start from one another, or from other data than is there.

    What is gone is not missed. Raises OtherInputs, or UnfinishedStage.
    """
    there = [stage for stage in stages if (stage.directory / "stage.json").is_file()]
    for stage in there:
        made = sealed(stage.directory, stage.fingerprint)
        for doubt in chain(differences(stage, made["inputs"]), _doubts_of_parent(stage, made)):
            raise OtherInputs(
                f"{stage.directory}: {doubt}; restore it, or move the stage away and train it again"
            )


def _doubts_of_parent(stage: ResolvedStage, made: Mapping[str, Any]) -> Iterator[str]:
    if stage.parent is not None and (stage.parent / "stage.json").is_file():
        yield from lineage(made, sealed(stage.parent, stage.content.parent))


def lineage(child: Mapping[str, Any], parent: Mapping[str, Any]) -> Iterator[str]:
    """Why a stage does not start where ``parent`` ended; both as in stage.json."""
    of_child, of_parent = child["inputs"], parent["inputs"]
    weights = parent["export"][WEIGHTS]
    if of_child["parent"] != weights:
        yield f"started from parent {of_child['parent'][:12]}, which is now {weights[:12]}"
    if of_child["vocabulary"] != of_parent["vocabulary"]:
        yield f"vocabulary is {of_child['vocabulary'][:12]}, its parent's was {of_parent['vocabulary'][:12]}"
    data, before = train_digest(of_child), train_digest(of_parent)
    if child["content"]["data"] == parent["content"]["data"] and not same_digest(data, before):
        yield f"training data is {data[:12]}, its parent's was {before[:12]}"


def differences(stage: ResolvedStage, inputs: Mapping[str, str]) -> Iterator[str]:
    """Which of a stage's sealed ``inputs`` are there, but not as sealed."""
    for name, before in inputs.items():
        if name in _WHAT and _place(stage, name).is_file():
            found = _digest(stage, name)
            if found != before:
                yield (
                    f"was trained on {_WHAT[name]} {before[:12]}, {_place(stage, name)} is {found[:12]}"
                    f"{' by its weights' if name == 'parent' else ''}"
                )


def train_digest(inputs: Mapping[str, str]) -> str:
    """The digest of the training set; of NegCLIP's, of the one that it was made from."""
    return inputs.get("train", inputs["data"])


def warn_unnamed(stage: ResolvedStage, inputs: Mapping[str, str]) -> None:
    """Say before the first step that results of downloaded data which the configuration does not name stay here."""
    data = stage.content.data
    if "shards" in data["parameters"] and "manifest" not in data:
        found = train_digest(inputs)
        print(
            f"{_place(stage, 'data')}: the scale's file does not name this data, so nothing trained on it can be "
            f"accepted; before a long training, add to {data['name']}'s entry: manifest: {found}",
            file=sys.stderr,
        )


# ----------------------------------------------------------------------------------------------------------- code


def code_here() -> dict[str, Any]:
    """The code that runs: its commit, whether files differ from it, and the digest of those that a training runs."""
    head, dirty = commit()
    return {"commit": head, "dirty": dirty, "code": code()}


def resumed(
    stage: ResolvedStage, step: int, metadata: Mapping[str, Any], adopt: bool
) -> list[Mapping[str, Any]]:
    """The codes that trained the stage, with this one. OtherInputs unless its checkpoint can be resumed."""
    away = "move its checkpoints away to train from the start"
    if missing := {"step", "inputs", "commits", "integrity"} - metadata.keys():
        raise OtherInputs(
            f"{stage.directory}: the checkpoint of step {step} names no {min(missing)}: an earlier version wrote it, "
            f"and what it was trained on is not known; {away}"
        )
    for difference in differences(stage, metadata["inputs"]):
        raise OtherInputs(f"{stage.directory}: {difference}; restore it, or {away}")
    return continued(stage, metadata["commits"], step, adopt)


def continued(
    stage: ResolvedStage, commits: Sequence[Mapping[str, Any]], step: int, adopt: bool
) -> list[Mapping[str, Any]]:
    """The codes that trained a stage, each with the step ``from_step`` from which it ran; the one that runs now last.

    Raises OtherInputs where this one is another than the last, unless it is to be adopted (``adopt``).
    """
    here = code_here()
    if not commits:
        return [{"from_step": 0, **here}]
    last = commits[-1]
    if {**last, "from_step": 0} == {"from_step": 0, **here}:
        return list(commits)
    if last["code"] != here["code"] and not adopt:
        raise OtherInputs(
            f"{stage.directory}: was trained to step {step} by code {last['code']} ({named(last)}), this is "
            f"{here['code']} ({named(here)}); check that commit out, or resume with this one by "
            f"`clipa train --adopt-commit {stage.directory / FILE_NAME}`"
        )
    return [*commits, {"from_step": step, **here}]


def named(one: Mapping[str, Any]) -> str:
    """A commit for a message."""
    if one["commit"] is None:
        return "of no known commit"
    return f"commit {one['commit'][:12]}{', with changes' if one['dirty'] else ''}"
