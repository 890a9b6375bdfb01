"""The RO-Crate of a release: from each claim of the paper to what was measured, by which stage, on which data.

Workflow Run Crate (https://w3id.org/ro/wfrun/workflow/0.5). Its chain is

    Claim --isBasedOn--> published record <--about-- measured record <--result-- stage's action --object--> data

A measured record is that of a stand-in at a small scale. It is *about* the published record of the same cell, and
never has its value. Each accepted file is the result of one run of the workflow.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rocrate.model import ContextEntity, SoftwareApplication
from rocrate.rocrate import ROCrate

from clipa.published.claims import Evaluation
from clipa.records import recorded_scales, run_name
from clipa.schema import Record

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
FOLDERS = {
    "src": "The package: training, evaluation, records, figures, claims",
    "workflow": "The rules of the workflow",
    "config": "Which run fills which cell, scales, recipes, downloads",
    "envs": "Locks of the environments, with digests",
    "docs": "The pages; docs/artifact-appendix.md says what to run for each claim",
    "figures": "Figures from published and from accepted numbers, with the numbers behind them",
    "tables": "Tables, likewise",
    "results": "Published and accepted records",
}
LICENCE = "https://spdx.org/licenses/MIT"

CARDS = "model-cards"
"""Folder of the model cards (:mod:`clipa.model_card`); only a release has it."""

Key = tuple[str, str, str, str]


def crate_of(root: Path, commit: str) -> ROCrate:
    """The crate of the checkout, or the copy of one, at ``root``. Its files are named, not copied."""
    crate = ROCrate(version="1.1")  # the version that the profile builds on
    about = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    workflow = _describe(crate, about, commit)
    for name, what in FOLDERS.items():
        crate.add_directory(root / name, f"{name}/", properties={"name": name, "description": what})
    evaluation = Evaluation()
    cells = _claims(crate, root, evaluation)
    for scale in recorded_scales():
        for path in sorted((root / "results" / "recorded" / scale).rglob("*.json")):
            _run(crate, workflow, root, path, cells)
    return crate


def card_of(scale: str, run: str) -> str:
    """Where the crate has the model card of a recorded run."""
    return f"{CARDS}/{scale}/{run}.md"


def _entity(crate: ROCrate, identity: str, kind: str, **properties: Any) -> ContextEntity:
    """The entity of this id, made when first asked for."""
    known = crate.dereference(identity)
    return known or crate.add(ContextEntity(crate, identity, properties={"@type": kind} | properties))


def _describe(crate: ROCrate, about: Mapping[str, Any], commit: str) -> Any:
    """What the crate is, from CITATION.cff, and its workflow; returns the workflow."""
    crate.name, crate.description = about["title"], " ".join(about["abstract"].split())
    crate.datePublished = about["date-released"].isoformat()
    crate.license = _entity(
        crate, LICENCE, "CreativeWork", name="MIT License", identifier=LICENCE, url=LICENCE
    )
    authors = [_entity(crate, "#authors", "Organization", name=author["name"]) for author in about["authors"]]
    crate.creator = authors
    crate.root_dataset["conformsTo"] = [
        _entity(crate, address, "CreativeWork", name=name, version=address.rsplit("/", 1)[1])
        for address, name in PROFILES.items()
    ]
    crate.root_dataset["version"] = str(about["version"])
    paper = about["preferred-citation"]
    crate.root_dataset["citation"] = _entity(
        crate, paper["url"], "ScholarlyArticle", name=paper["title"], datePublished=str(paper["year"])
    )
    workflow = crate.add_workflow(
        "Snakefile",
        main=True,
        lang="snakemake",
        properties={
            "name": about["title"],
            "version": commit,
            "description": "Makes figures and tables; trains when asked",
        },
    )
    workflow["license"], workflow["creator"] = {"@id": LICENCE}, authors
    crate.add(
        SoftwareApplication(
            crate,
            "#clipa",
            {"name": "clipa", "version": str(about["version"]), "softwareVersion": str(about["version"])}
            | {
                "url": "https://arxiv.org/abs/2305.07017",
                "description": "`clipa train` and `clipa evaluate` of src/clipa",
            },
        )
    )
    return workflow


def _claims(crate: ROCrate, root: Path, evaluation: Evaluation) -> dict[Key, list[str]]:
    """Adds every claim and the published records that it rests on; returns these records by the cell they stand for."""
    cells: dict[Key, set[str]] = defaultdict(set)
    for path in sorted((root / "results" / "published").iterdir()):
        crate.add_file(path, path.relative_to(root).as_posix(), properties=_about_file(path))
    for result in evaluation.results:
        records = evaluation.records(result.rests_on)
        for record in records:
            cells[_cell(record)].add(f"#{record['id']}")
            kind = "table" if record["table"] else "figure"
            where = f"results/published/{kind}{record[kind]}.json"
            _value(crate, record, f"Published in the paper; stored in {where}", {"@id": where})
        _entity(
            crate,
            f"#claim-{result.claim.id}",
            "Claim",
            name=result.claim.id,
            text=result.claim.quote,
            description=f"{result.claim.place}: {result.verdict}",
            isBasedOn=[{"@id": f"#{record['id']}"} for record in records],
        )
    return {cell: sorted(names) for cell, names in cells.items()}


def _cell(record: Record) -> Key:
    """What a published and a measured record share: run, stage, benchmark, metric."""
    return tuple(str(record[name]) for name in ("run", "stage", "benchmark", "metric"))


def _value(
    crate: ROCrate, record: Record, description: str, stored: Mapping[str, str], **more: Any
) -> ContextEntity:
    value = record["value"]
    return _entity(
        crate,
        f"#{record['id']}",
        "PropertyValue",
        name=record["id"],
        value=value if isinstance(value, str) else repr(value),
        description=description,
        subjectOf=stored,
        **more,
    )


def _run(crate: ROCrate, workflow: Any, root: Path, path: Path, cells: Mapping[Key, list[str]]) -> None:
    """One accepted file: the run of the workflow that wrote it, its stages, and the records that claims rest on."""
    name = path.relative_to(root).as_posix()
    records = json.loads(path.read_bytes())["records"]
    file = crate.add_file(path, name, properties=_about_file(path))
    stages: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        stages[record["stage_fingerprint"]].append(record)
    inputs = [_data(crate, record) for record in records[:1]]
    card = _card(crate, root, records[0])
    before: list[Any] = []
    for fingerprint, measured in stages.items():
        linked = [
            _value(
                crate,
                one,
                f"Measured at scale {one['scale']} with a stand-in; not the paper's model or data",
                {"@id": name},
            )
            for one in measured
            if _cell(one) in cells
        ]
        for one, entity in zip([one for one in measured if _cell(one) in cells], linked, strict=True):
            entity["about"] = [{"@id": identity} for identity in cells[_cell(one)]]
        weights = _entity(
            crate,
            f"#weights-{fingerprint}",
            "CreativeWork",
            name=f"Weights of stage {fingerprint} (not kept; the fingerprint names what makes them)",
            identifier=fingerprint,
            **({} if card is None else {"subjectOf": {"@id": card.id}}),
        )
        if known := crate.dereference(f"#stage-{fingerprint}"):  # evaluated under another run's name before
            known.append_to("result", linked)
        else:
            name_of_stage = f"{measured[0]['run']}, {measured[0]['stage']}, seed {measured[0]['seed']}"
            takes, gives = [*inputs, *before], [weights, *linked]
            source = measured[0]["provenance"]
            _action(
                crate,
                f"#stage-{fingerprint}",
                name_of_stage,
                crate.dereference("#clipa"),
                takes,
                gives,
                source,
            )
        before = [weights]
    _action(
        crate,
        f"#run-{path.stem}-{path.parent.name}",
        f"Run {path.parent.name}",
        workflow,
        inputs,
        [file],
        records[-1]["provenance"],
    )


def _card(crate: ROCrate, root: Path, record: Record) -> Any:
    """The model card of a record's run; None where ``root`` is a checkout, which has none."""
    name = card_of(record["scale"], str(run_name(record)))
    known = crate.dereference(name)
    if known or not (root / name).is_file():
        return known
    about = {"name": f"Model card of {run_name(record)}", "encodingFormat": "text/markdown"}
    return crate.add_file(root / name, name, properties=about)


def _action(
    crate: ROCrate,
    identity: str,
    name: str,
    tool: Any,
    takes: list[Any],
    gives: list[Any],
    source: Mapping[str, Any],
) -> None:
    """A finished training or run, with the commit and the hardware of its record's provenance."""
    properties = {
        "name": name,
        "description": f"commit {source['commit']}, {source['hardware']}, {source['seconds']} s",
        "endTime": source["created"],
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "agent": {"@id": "#authors"},
    }
    crate.add_action(tool, identity, takes, gives, properties)


def _data(crate: ROCrate, record: Record) -> ContextEntity:
    """The training set, by the digest of its manifest."""
    digest = record["provenance"]["data_fingerprint"]
    return _entity(
        crate,
        f"#data-{digest}",
        "CreativeWork",
        name=f"Training set of scale {record['scale']}",
        identifier=digest,
        description=f"Drawn by `clipa draw --scale {record['scale']}`; the digest is that of its manifest",
    )


def _about_file(path: Path) -> dict[str, Any]:
    kind = "application/json" if path.suffix == ".json" else "application/yaml"
    return {"name": path.name, "encodingFormat": kind, "contentSize": str(path.stat().st_size)}


def metadata(root: Path, commit: str) -> str:
    """The text of ``ro-crate-metadata.json`` for the files at ``root``."""
    return json.dumps(crate_of(root, commit).metadata.generate(), indent=1, ensure_ascii=False) + "\n"


def chain(crate: Mapping[str, Any], claim: str) -> Iterable[tuple[str, str, str, str]]:
    """(published record, measured record, stage, data) of each measured record below a claim of a crate's JSON-LD."""
    graph = {entity["@id"]: entity for entity in crate["@graph"]}

    def ids(entity: Mapping[str, Any], name: str) -> list[str]:
        found = entity.get(name, [])
        return [one["@id"] for one in (found if isinstance(found, list) else [found])]

    based = set(ids(graph[f"#claim-{claim}"], "isBasedOn"))
    for action in graph.values():
        if action["@type"] != "CreateAction":
            continue
        for measured in ids(action, "result"):
            for published in based & set(ids(graph[measured], "about")):
                for data in (one for one in ids(action, "object") if one.startswith("#data-")):
                    yield published, measured, action["@id"], data
