"""The verbs behind the workflow's jobs: the plan, training, acceptance, the demo."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clipa.cli.assumptions import ASSUMPTIONS
from clipa.cli.verbs import RUNS, add_verb, overrides, stages_asked


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    _plan_verb(verbs)
    _stage_verbs(verbs)
    _record_verbs(verbs)
    _fits_verb(verbs)
    _standalone_verbs(verbs)


def _plan(chosen: argparse.Namespace) -> int:
    from clipa.cli.planning import cost_of, report
    from clipa.plan import load_plan

    plan = load_plan(overrides(chosen) | _settings(chosen.config))
    costs = cost_of(
        plan, chosen.target, chosen.gpus, {one.option: vars(chosen)[one.option] for one in ASSUMPTIONS}
    )
    print(json.dumps(costs, indent=2, ensure_ascii=False) if chosen.json else report(costs))
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


def _resolve(chosen: argparse.Namespace) -> int:
    from clipa.fits import resolve_fitting
    from clipa.resolved import write

    project, stages = stages_asked(chosen)
    print(*(write(resolve_fitting(stage, project)) for stage in stages), sep="\n")
    return 0


def _train(chosen: argparse.Namespace) -> int:
    from clipa.launch import launch
    from clipa.resolved import read

    code = launch(read(chosen.file), sys.argv[1:])
    if code is not None:
        return code
    from clipa.train import main as train

    return train(chosen.file, chosen.adopt_commit, chosen.requeue)


def _accept(chosen: argparse.Namespace) -> int:
    from clipa.accept import accept, accept_plan
    from clipa.cli.verify import refuse
    from clipa.plan import load_plan
    from clipa.records import RECORDED_DIRECTORY

    plan = load_plan(overrides(chosen) | ({} if chosen.seeds is None else {"seeds": chosen.seeds}))
    measured = [path for job in plan.jobs() if (path := plan.root / job.output).is_file()]
    refuse(chosen.records or measured)
    if chosen.records:
        accepted = accept(chosen.records, plan.scale, RECORDED_DIRECTORY, replace=chosen.replace)
    else:
        accepted = accept_plan(plan, replace=chosen.replace)
    print(*accepted, sep="\n")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    from clipa.cli.verify import report

    usual = (Path("results/recorded"), Path(chosen.runs_directory or "results/runs"))
    data = Path(chosen.data_directory or "results/data")
    text, code = report(chosen.paths or [path for path in (*usual, data) if path.is_dir()])
    print(text)
    return code


def _demo(chosen: argparse.Namespace) -> int:
    from clipa.demo import demo

    return demo(chosen.size)


def _run(chosen: argparse.Namespace) -> int:
    from clipa.plan import load_plan
    from clipa.standalone import run_here

    plan = load_plan(overrides(chosen) | ({} if chosen.seeds is None else {"seeds": chosen.seeds}))
    return run_here(chosen.runs, plan, chosen.out, chosen.minutes, chosen.processes)


def _stamp(chosen: argparse.Namespace) -> int:
    from clipa.provenance import write_stamp

    print(write_stamp())
    return 0


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


def _fits(chosen: argparse.Namespace) -> int:
    from clipa.cards import CPU
    from clipa.cli.fits import report
    from clipa.plan import load_plan

    other = {"card": chosen.card} if chosen.card not in (None, CPU) else {}
    plan = load_plan({**overrides(chosen), "seeds": [0], **other})
    on_cpu = chosen.card == CPU or plan.scale.device == "cpu"
    card = CPU if on_cpu else plan.project.card or plan.scale.resources.card
    if card is None:
        raise ValueError(f"scale {plan.scale.name} names no card (resources.card): give --card")
    text, code = report(plan, chosen.target, card, chosen.write)
    print(text)
    return code


def _fits_verb(verbs) -> None:
    from clipa.cards import CARDS, CPU

    fits = add_verb(
        verbs,
        "fits",
        _fits,
        "whether the stages of a target fit a GPU's memory, and with how many samples a pass",
        "all --scale paper --card A100-80",
    )
    fits.add_argument("target", nargs="?", default="all", help="as of `clipa plan`")
    fits.add_argument("--card", choices=(*CARDS, CPU), help="default: the scale's (resources.card)")
    fits.add_argument(
        "--write", action="store_true", help="keep what had to be counted in config/activations.json"
    )


def _stage_verbs(verbs) -> None:
    resolve = add_verb(
        verbs,
        "resolve",
        _resolve,
        "write what the stages of a run are trained from, and print the files in training order",
        "L16-resize64-truncation32 --scale micro-v1 --seed 0",
    )
    resolve.add_argument("run", metavar="RUN", help=RUNS)
    train = add_verb(
        verbs,
        "train",
        _train,
        "train or resume one stage; exit code 75: interrupted, start again to resume",
        "results/runs/micro-v1/S16-none-truncation32/pretrain/seed0-2c412bde12f0/stage.resolved.json",
        asked=False,
    )
    train.add_argument(
        "file", type=Path, metavar="FILE", help="stage.resolved.json (`clipa resolve` writes it)"
    )
    train.add_argument(
        "--adopt-commit",
        action="store_true",
        help="resume with this code where other code trained so far; recorded",
    )
    train.add_argument(
        "--requeue",
        action="store_true",
        help="in a job of SLURM: save before its time is up, and have SLURM start the job again",
    )
    resolve.add_argument("--seed", type=int, default=0)


def _record_verbs(verbs) -> None:
    accept = add_verb(
        verbs,
        "accept",
        _accept,
        "check measured records and copy them to results/recorded, to be committed",
        "--scale micro-v1",
    )
    accept.add_argument("records", nargs="*", type=Path, metavar="FILE", help="default: the whole grid")
    accept.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="default: those of config/config.yaml"
    )
    accept.add_argument("--replace", action="store_true", help="overwrite accepted records of the same place")
    verify = add_verb(
        verbs,
        "verify",
        _verify,
        "check records, models and data on disk against the digests that name them; exit code 1: some do not fit",
        "results/recorded/micro-v1",
    )
    verify.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="default: all of results/")
    demo = add_verb(
        verbs,
        "demo",
        _demo,
        "measure the law at a small scale, with a progress bar",
        "--size ci",
        asked=False,
    )
    demo.add_argument("--size", choices=("full", "ci"), default="full")


def _standalone_verbs(verbs) -> None:
    """For a machine without the workflow: `run` there, and `stamp` here before the sources are copied there."""
    run = add_verb(
        verbs,
        "run",
        _run,
        "draw, train, evaluate and pack records, without Snakemake; exit code 75: call again to resume",
        "resize --scale mini --seeds 0 1 2 --out mini.tar.gz --minutes 9",
    )
    run.add_argument(
        "runs", nargs="+", metavar="RUN", help="L16-resize64-truncation32, …; table11, table12, …; or resize"
    )
    run.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="default: those of config/config.yaml"
    )
    run.add_argument("--out", required=True, type=Path, metavar="FILE", help="the archive (.tar.gz)")
    run.add_argument(
        "--minutes", type=float, help="stop training then, and save the state (default: no limit)"
    )
    run.add_argument(
        "--processes", type=int, metavar="N", help="for drawing and the like (default: all cores)"
    )
    add_verb(
        verbs,
        "stamp",
        _stamp,
        "write which commit these sources are, for a machine that gets them without git's folder",
        "",
        asked=False,
    )
