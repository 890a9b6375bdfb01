"""The verbs behind the workflow's jobs: the plan, training, evaluation, acceptance, the demo."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipa.cli.asked import overrides, project_of
from clipa.cli.assumptions import ASSUMPTIONS
from clipa.cli.verbs import add_verb

_RUNS = (
    "runs are named in the paper's coordinates, and by their recipe where it is not the study's: "
    "L16-resize64-truncation32, B16-resize112-truncation16-clipa-batch8k (config/recipes.yaml)"
)


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    _plan_verb(verbs)
    _stage_verbs(verbs)
    _record_verbs(verbs)


def _stages(chosen: argparse.Namespace):
    """The project and the stages that lead to what is asked for; checks the fingerprint that a rule passes.

    Folders of stages are named without a recipe, since recipes share stages, and rules pass a folder's name: which
    stage is meant the fingerprint then says.
    """
    from clipa.config import load_scale
    from clipa.runs import parse_run, stages_of

    project = project_of(chosen)
    run, scale = parse_run(chosen.run), load_scale(project.scale)
    stages = stages_of(run, scale, chosen.seed)
    kind = getattr(chosen, "kind", None)
    if kind is None:
        found = stages
    elif chosen.fingerprint is not None:
        found = _leading_to(chosen.fingerprint, run, scale, chosen.seed) or stages
    else:  # of two fine-tunings in a row (§6) the last
        last = [number for number, stage in enumerate(stages, 1) if stage.kind == kind]
        if not last:
            has = ", ".join(dict.fromkeys(stage.kind for stage in stages))
            raise ValueError(f"--kind {kind}: {chosen.run} has no such stage (it has: {has})")
        found = stages[: last[-1]]
    if chosen.fingerprint not in (None, found[-1].fingerprint):
        raise ValueError(
            f"--fingerprint {chosen.fingerprint}: the configuration now gives {found[-1].fingerprint} for "
            f"{chosen.run} {found[-1].kind}: it was changed after this job was planned; start Snakemake again"
        )
    return project, found


def _leading_to(fingerprint: str, run: Any, scale: Any, seed: int) -> list[Any]:
    """The stages, of any recipe of these coordinates, that end with the one of this fingerprint; else none."""
    from clipa.recipes import load_recipes
    from clipa.runs import stages_of

    for recipe in (run.recipe, *load_recipes(scale.config_directory)):
        try:
            stages = stages_of(replace(run, recipe=recipe), scale, seed)
        except ValueError:  # a recipe that is not for such runs
            continue
        for number, stage in enumerate(stages, 1):
            if stage.fingerprint == fingerprint:
                return stages[:number]
    return []


def _plan(chosen: argparse.Namespace) -> int:
    from clipa.cli.planning import cost_of, telling
    from clipa.plan import load_plan

    plan = load_plan(overrides(chosen) | _settings(chosen.config))
    costs = cost_of(
        plan, chosen.target, chosen.gpus, {one.option: vars(chosen)[one.option] for one in ASSUMPTIONS}
    )
    print(json.dumps(costs, indent=2, ensure_ascii=False) if chosen.json else telling(costs))
    return 0


def _settings(words: list[str]) -> dict[str, Any]:
    """Keys and values as Snakemake's --config takes them."""
    import yaml

    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--config {word}: expected KEY=VALUE, as in 'seeds=[0]'")
        settings[key] = yaml.safe_load(value)
    return settings


def _train(chosen: argparse.Namespace) -> int:
    project, stages = _stages(chosen)
    scale = stages[-1].scale
    if scale.processes > 1 and "WORLD_SIZE" not in os.environ:
        # Snakemake sets this to the cores of the whole job; the processes share them.
        os.environ["OMP_NUM_THREADS"] = str(max(1, scale.resources.cpus // scale.processes))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(scale.processes)]
        os.execv(sys.executable, [sys.executable, *launcher, "-m", "clipa", *sys.argv[1:]])
    from clipa.train import main as train

    return train(stages[-1], project)


def _evaluate(chosen: argparse.Namespace) -> int:
    project, stages = _stages(chosen)
    from clipa.evaluate import evaluate_run

    print(evaluate_run(stages, project, suite=chosen.suite))
    return 0


def _accept(chosen: argparse.Namespace) -> int:
    from clipa.accept import accept, accept_plan
    from clipa.plan import load_plan
    from clipa.records import RECORDED_DIRECTORY

    asked = {"scale": chosen.scale, "runs_directory": chosen.runs_directory, "seeds": chosen.seeds}
    plan = load_plan({key: value for key, value in asked.items() if value is not None})
    if chosen.records:
        accepted = accept(chosen.records, plan.scale, RECORDED_DIRECTORY, replace=chosen.replace)
    else:
        accepted = accept_plan(plan, replace=chosen.replace)
    print(*accepted, sep="\n")
    return 0


def _demo(chosen: argparse.Namespace) -> int:
    from clipa.demo import demo

    return demo(chosen.size)


def _plan_verb(verbs) -> None:
    plan = add_verb(
        verbs,
        "plan",
        _plan,
        "what the pending stages of a target cost: hours, disk, dollars, energy",
        "measure_table11 --scale paper --gpus 64 --config 'seeds=[0]'",
    )
    plan.add_argument(
        "target", nargs="?", default="all", help="of Snakemake: all (default), measure_table11, …"
    )
    plan.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs at once (default 8); at CPU scales cores (default: all here)",
    )
    plan.add_argument("--json", action="store_true", help="the same as JSON, unrounded")
    plan.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="as for Snakemake, after the target: 'seeds=[0]'",
    )
    for one in ASSUMPTIONS:
        plan.add_argument(f"--{one.option}", type=float, metavar="X", help=one.help)


def _stage_verbs(verbs) -> None:
    train = add_verb(
        verbs,
        "train",
        _train,
        "train one stage, or go on with it; exit code 75: interrupted, start again to go on",
        "--scale micro --run L16-resize64-truncation32 --kind pretrain --seed 0",
    )
    evaluate = add_verb(
        verbs,
        "evaluate",
        _evaluate,
        "evaluate every stage of a run with CLIP_benchmark and write its records",
        "--scale micro --run L16-resize64-truncation32 --seed 0",
    )
    for parser in (train, evaluate):
        parser.add_argument("--run", required=True, metavar="RUN", help=_RUNS)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--fingerprint", help="refuse unless the configuration gives this one")
    train.add_argument("--kind", required=True, choices=("pretrain", "finetune", "negclip"))
    evaluate.add_argument(
        "--suite", action="store_true", help="the last stage on the scale's whole test suite"
    )


def _record_verbs(verbs) -> None:
    accept = add_verb(
        verbs,
        "accept",
        _accept,
        "check measured records and copy them to results/recorded, to be committed",
        "--scale micro",
    )
    accept.add_argument("records", nargs="*", type=Path, metavar="FILE", help="default: the whole grid")
    accept.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="default: those of config/config.yaml"
    )
    accept.add_argument("--replace", action="store_true", help="overwrite accepted records of the same place")
    demo = add_verb(
        verbs,
        "demo",
        _demo,
        "measure the law at a small scale, with a progress bar",
        "--size ci",
        asked=False,
    )
    demo.add_argument("--size", choices=("full", "ci"), default="full")
