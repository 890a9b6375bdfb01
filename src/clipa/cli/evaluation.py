"""The verbs about finished models: evaluation of runs and of checkpoints of others, their list, export."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipa.cli.verbs import RUNS, add_verb, project_of, stages_asked

if TYPE_CHECKING:
    from clipa.config import Project, Scale
    from clipa.stages import Stage


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    _evaluate_verb(verbs)
    _released_verb(verbs)
    _export_verb(verbs)


# ------------------------------------------------------------------------------------------------------ verbs


def _evaluate(chosen: argparse.Namespace) -> int:
    only = {"--model": ("protocol", "benchmarks", "output"), "--run": ("fingerprint", "train")}
    asked = "--model" if chosen.model else "--run"
    for option in {name for other, names in only.items() if other != asked for name in names}:
        if getattr(chosen, option):
            raise ValueError(f"--{option}: not with {asked}")
    if chosen.processes < 1:
        raise ValueError(f"--processes {chosen.processes}: at least 1")
    beside = [_beside() for _ in range(chosen.processes - 1)]
    try:
        return _evaluate_model(chosen) if chosen.model else _evaluate_runs(chosen)
    finally:
        for process in beside:
            process.wait()


def _beside() -> subprocess.Popen:
    """The same command in one more process: it takes the sets that nobody is at (:mod:`clipa.evaluate.suites`)."""
    words = list(sys.argv[1:])
    at = next(i for i, word in enumerate(words) if word.startswith("--processes"))
    del words[at : at + (1 if "=" in words[at] else 2)]
    return subprocess.Popen([sys.executable, "-m", "clipa", *words], stdout=subprocess.DEVNULL)


def _evaluate_runs(chosen: argparse.Namespace) -> int:
    names = list(dict.fromkeys(chosen.run))
    if chosen.fingerprint and len(chosen.run) > 1:
        raise ValueError(f"--fingerprint: of one --run, not of {len(chosen.run)}")
    project, runs = project_of(chosen), [stages_asked(chosen, name)[1] for name in names]
    if chosen.fingerprint not in (None, runs[0][-1].fingerprint):
        raise ValueError(
            f"--fingerprint {chosen.fingerprint}: the configuration now gives {runs[0][-1].fingerprint} for "
            f"{names[0]}: it was changed after this job was planned; start Snakemake again"
        )
    for stages in runs if chosen.train else ():
        if code := _train_missing(stages, project):
            return code
    from clipa.evaluate import evaluate_runs

    print(*evaluate_runs(runs, project, suite=chosen.suite), sep="\n")
    return 0


def _train_missing(stages: Sequence[Stage], project: Project) -> int:
    """Train these stages in turn, in this process; those that are finished stay as they are, whichever code trained
    them. 75: interrupted."""
    from clipa.fits import resolve_fitting
    from clipa.resolved import UnfinishedStage, finished, write
    from clipa.train import main as train

    for stage in stages:
        resolved = resolve_fitting(stage, project)
        try:
            finished(resolved.directory, resolved.fingerprint)
        except UnfinishedStage:
            if code := train(write(resolved)):
                return code
    return 0


def _evaluate_model(chosen: argparse.Namespace) -> int:
    from clipa.protocols import CHECKPOINT_PROTOCOL

    protocols = chosen.protocol or [CHECKPOINT_PROTOCOL]
    for option, given in (("--protocol", protocols), ("--model", chosen.model)):
        if chosen.output and len(given) > 1:
            raise ValueError(
                f"--output {chosen.output}: for the records of one {option}, not of {len(given)}"
            )
    from clipa.config import load_scale
    from clipa.evaluate.checkpoints import evaluate_checkpoints
    from clipa.records import read_records, write_records
    from clipa.render.checkpoints import protocols_table

    project = project_of(chosen)
    scale = load_scale(project.scale)
    models = {name: _stage_named(name, chosen, project) for name in chosen.model}
    found = evaluate_checkpoints(models, scale, project, protocols, _benchmarks(chosen, scale))
    for paths in found:
        print(*paths, sep="\n")
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        write_records(chosen.output, read_records(found[0][0]))
    for name, paths in zip(models, found, strict=True):
        if len(paths) > 1:
            print(*([name] if len(models) > 1 else []), protocols_table(paths), sep="\n")
    return 0


def _benchmarks(chosen: argparse.Namespace, scale: Scale) -> dict[str, str]:
    """Those asked for by name, the scale's suite, or its usual ones."""
    known = {**scale.evaluation.suite, **scale.evaluation.benchmarks}
    if not chosen.benchmarks:
        return scale.evaluation.suite if chosen.suite else scale.evaluation.benchmarks
    if unknown := [name for name in chosen.benchmarks if name not in known]:
        raise ValueError(f"--benchmarks {unknown[0]}: scale {scale.name} has {', '.join(known)}")
    return {name: known[name] for name in chosen.benchmarks}


def _stage_named(model: str, chosen: argparse.Namespace, project: Project) -> Stage | None:
    """The stage of a run that ``model`` names (RUN: its last one, RUN/pretrain); None for checkpoints of others."""
    from clipa.released import load_released
    from clipa.study import parse_run

    run, _, kind = model.partition("/")
    if ":" in model or model in load_released():
        return None
    try:
        parse_run(run)
    except ValueError:
        return None
    _, stages = stages_asked(chosen, run)
    found = [stage for stage in stages if kind in ("", stage.kind)]
    if not found:
        raise ValueError(f"--model {model}: the run has {', '.join(stage.kind for stage in stages)}")
    return found[-1]


def _released(chosen: argparse.Namespace) -> int:
    from clipa.render.checkpoints import released_report

    print(released_report(chosen.records))
    return 0


def _export(chosen: argparse.Namespace) -> int:
    from clipa.export import export

    project, stages = stages_asked(chosen)
    print(export(stages, project, chosen.out, chosen.stage))
    return 0


# ----------------------------------------------------------------------------------------------------- parsing


def _evaluate_verb(verbs) -> None:
    evaluate = add_verb(
        verbs,
        "evaluate",
        _evaluate,
        "evaluate runs, or any checkpoints, with CLIP_benchmark and write its records; goes on where it was killed",
        "--scale micro-v1 --run L16-resize64-truncation32 --seed 0\n"
        "  clipa evaluate --scale paper --model hf-hub:UCSC-VLAA/ViT-H-14-CLIPA-336-laion2B --suite\n"
        "  clipa evaluate --scale micro-v1 --model local-dir:exported --protocol paper squash checkpoint",
    )
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--run",
        nargs="+",
        default=[],
        metavar="RUN",
        help=f"{RUNS}; several share a process, so that starting and decoding cost once",
    )
    which.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="REF",
        help="local-dir:FOLDER, hf-hub:OWNER/NAME, an OpenCLIP name/tag, a row of `clipa released`, or a run; several "
        "share a process, so that starting costs once",
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of a run")
    evaluate.add_argument(
        "--suite", action="store_true", help="the scale's whole test suite (of a run: on its last stage)"
    )
    evaluate.add_argument(
        "--benchmarks",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --model: these sets of the suite alone",
    )
    evaluate.add_argument(
        "--protocol",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --model: how (config/protocols.yaml; default: as the checkpoint says); of several a table, too",
    )
    evaluate.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="with --model: write the records there, too (of one protocol)",
    )
    evaluate.add_argument(
        "--processes", type=int, default=1, metavar="N", help="share the sets; so do calls on other nodes"
    )
    evaluate.add_argument(
        "--train", action="store_true", help="with --run: first train its stages that are not finished, here"
    )
    evaluate.add_argument(
        "--fingerprint", help="with one --run: refuse unless the configuration gives this one"
    )


def _released_verb(verbs) -> None:
    released = add_verb(
        verbs,
        "released",
        _released,
        "list the rows of Tables 1 to 3 with their released checkpoints, and the numbers side by side",
        "results/runs/checkpoints/*/checkpoint.json",
        asked=False,
    )
    released.add_argument(
        "records", nargs="*", type=Path, metavar="FILE", help="what `clipa evaluate --model` has measured"
    )


def _export_verb(verbs) -> None:
    export = add_verb(
        verbs,
        "export",
        _export,
        "write a finished model as a folder in the hub's layout, with a model card",
        "L16-resize64-truncation32 --scale micro-v1 --seed 0 --out L16-clipa",
    )
    export.add_argument("run", metavar="RUN", help=RUNS)
    export.add_argument("--seed", type=int, default=0)
    export.add_argument("--stage", metavar="KIND", help="pretrain, finetune or negclip (default: the last)")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
