"""`clipa plan`: what a target costs before anything is launched, for people (at most 100 columns) and as JSON."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from tabulate import tabulate

from clipa.cli.assumptions import ASSUMPTIONS
from clipa.config import ConfigError, read_yaml
from clipa.cost import stage_macs
from clipa.estimate import (
    NOTHING,
    Spread,
    Throughput,
    device_name,
    devices_of,
    disk,
    short,
    throughput_of,
    wall_clock,
)
from clipa.fits import card_of, execution, read_table
from clipa.plan import Plan, Work
from clipa.provenance import cores
from clipa.study import model_order, order_of

COLUMNS = 100
PROFILE = "slurm/config.yaml"
ENDS = ("mean", "low", "high")
STATES = ("recorded", "finished", "pending")
KINDS = {"pretrain": "pre-training", "finetune": "fine-tuning", "negclip": "NegCLIP stage"}


def cost_of(plan: Plan, target: str, gpus: int | None, given: dict[str, Any]) -> dict[str, Any]:
    """Everything that `clipa plan` says, as JSON can hold it; hours are device-hours but for `wall_clock_hours`.

    `given`: the assumptions that the user replaced, None for the others. ValueError for an unknown target, and for
    fewer devices than one stage takes.
    """
    work, each, device = plan.work(target), devices_of(plan.scale), device_name(plan.scale)
    devices = (8 if device == "GPU" else cores()) if gpus is None else gpus
    if devices < each:
        raise ValueError(
            f"--gpus {devices}: one stage at scale {plan.scale.name} takes {_counted(each, device)}"
        )
    speed = throughput_of(plan)
    hours = speed.total(work.pending)
    ends = {
        end: wall_clock(
            work.pending, lambda stage, end=end: getattr(speed.hours(stage), end) / each, devices // each
        )
        for end in ENDS
    }
    assumed = {one.option: one.chosen(device, given.get(one.option)) for one in ASSUMPTIONS}
    price, watts, pue, carbon = (one["value"] for one in assumed.values())
    energy = watts / 1000 * pue
    budget = plan.project.budget_gpu_hours
    return {
        "target": target,
        "scale": plan.scale.name,
        "seeds": plan.project.seeds,
        "stages": {state: len(getattr(work, state)) for state in STATES},
        "evaluations_pending": work.evaluations,
        "runs_left_out": [run.slug for run in plan.left_out],
        "groups": _groups(work, speed),
        "device": device,
        "devices": devices,
        "devices_per_stage": each,
        "device_hours": _spread(hours),
        "wall_clock_hours": {end: ends[end][0] for end in ends},
        "longest_chain_hours": {end: ends[end][1] for end in ends},
        "job_minutes": plan.scale.resources.runtime_minutes,
        "jobs_chain": _jobs_chain(plan.root),
        "disk_bytes": disk(plan, work.pending),
        "memory": _memory(plan, work),
        "dollars": _spread(hours * price),
        "kwh": _spread(hours * energy),
        "co2e_kg": _spread(hours * (energy * carbon)),
        "throughput": {"source": speed.source, "about": speed.about},
        "assumptions": assumed,
        "budget_gpu_hours": budget,
        "within_budget": budget is None or hours.mean <= budget,
    }


def _jobs_chain(root: Path) -> bool:
    """Whether the cluster's profile lets SLURM start the job of an unfinished training again."""
    return (root / PROFILE).is_file() and read_yaml(root / PROFILE).get("slurm-requeue") is True


def _memory(plan: Plan, work: Work) -> dict[str, Any] | None:
    """The largest pending stage on its card, as it is trained there, and what does not fit; None without a card."""
    stages = [stage for stage in work.pending if card_of(stage, plan.project)]
    if not stages:
        return None
    table, largest, misfits = read_table(), ("", 0.0), []
    for stage in stages:
        try:
            size = execution(stage, card_of(stage, plan.project), table).bytes
            largest = max(largest, (f"{stage.run.slug} {stage.kind}", size), key=lambda one: one[1])
        except ConfigError as error:
            misfits.append(str(error))
    stage, size = largest
    return {"card": card_of(stages[0], plan.project), "largest": stage, "bytes": size, "misfits": misfits}


def _spread(spread: Spread) -> dict[str, float]:
    return {end: getattr(spread, end) for end in ENDS}


def _groups(work: Work, speed: Throughput) -> list[dict[str, Any]]:
    """One entry for each model and kind of stage, in the order of the grid; sums are of pending stages."""

    def place(key: tuple[str, str]) -> tuple[Any, ...]:
        return model_order(key[0]), order_of(KINDS, key[1])

    groups = []
    for model, kind in sorted({(stage.run.model, stage.kind) for stage in work.stages}, key=place):
        counts = {
            state: [stage for stage in getattr(work, state) if (stage.run.model, stage.kind) == (model, kind)]
            for state in STATES
        }
        pending = counts["pending"]
        groups.append(
            {
                "model": model,
                "kind": kind,
                **{state: len(stages) for state, stages in counts.items()},
                "samples": sum(stage.schedule.samples for stage in pending),
                "multiply_adds": sum(map(stage_macs, pending)),
                "device_hours": _spread(speed.total(pending)),
                "jobs": _spread(max(map(speed.jobs, pending), key=lambda jobs: jobs.mean, default=NOTHING)),
            }
        )
    return groups


# ------------------------------------------------------------------------------------------------------- for people


def report(costs: dict[str, Any]) -> str:
    """The costs as a table and notes, no line longer than `COLUMNS`."""
    pending = costs["stages"]["pending"]
    kinds: dict[str, int] = {}
    for group in costs["groups"]:
        kinds[group["kind"]] = kinds.get(group["kind"], 0) + group["pending"]
    counts = [_counted(number, KINDS.get(kind, kind)) for kind, number in kinds.items()]
    lines = textwrap.wrap(
        f"{costs['target']} at scale {costs['scale']}, seeds {', '.join(map(str, costs['seeds']))}: "
        f"{_listed(counts) or 'nothing'} to train; {_counted(costs['stages']['recorded'], 'stage')} recorded, "
        f"{costs['stages']['finished']} finished on disk",
        COLUMNS,
    )
    if costs["runs_left_out"]:
        told = f"{_counted(len(costs['runs_left_out']), 'run')} of the experiments, which have no image size here: "
        lines += ["", *_wrapped("not run", told + _listed(costs["runs_left_out"]))]
    if costs["groups"]:
        lines += ["", *_table(costs)]
    if pending:
        lines += ["", *_notes(costs)]
    if costs["budget_gpu_hours"] is not None:
        verdict = "within it" if costs["within_budget"] else "above it: Snakemake would not start"
        told = f"budget_gpu_hours allows {costs['budget_gpu_hours']:,g} {costs['device']}-hours; {verdict}"
        lines += ["", *_wrapped("budget", told)]
    return "\n".join(lines)


def _table(costs: dict[str, Any]) -> list[str]:
    device = f"{costs['device']}-hours"
    head = ("model", "kind", "recorded", "on disk", "pending", "samples", "mult-adds", device, "spread")
    whole = {
        "model": "all",
        "kind": "",
        **costs["stages"],
        "samples": sum(group["samples"] for group in costs["groups"]),
        "multiply_adds": sum(group["multiply_adds"] for group in costs["groups"]),
        "device_hours": costs["device_hours"],
    }
    rows = [_row(group) for group in (*costs["groups"], whole)]
    aligned = ("left", "left", *["right"] * 7)
    return tabulate([head, *rows], tablefmt="plain", disable_numparse=True, colalign=aligned).splitlines()


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(group[state]) for state in STATES)
    if not group["pending"]:
        return group["model"], group["kind"], *counts, "", "", "", ""
    hours = group["device_hours"]
    sizes = _scaled(group["samples"]), f"{group['multiply_adds']:.2e}"
    return group["model"], group["kind"], *counts, *sizes, short(hours["mean"]), _range(hours)


def _notes(costs: dict[str, Any]) -> list[str]:
    device, assumed = costs["device"], costs["assumptions"]
    disk = {name: size for name, size in costs["disk_bytes"].items() if size}
    chain = costs["longest_chain_hours"]["mean"]
    jobs = costs["devices"] // costs["devices_per_stage"]
    notes = {
        "wall-clock": f"{_clock(costs['wall_clock_hours'])} on {_counted(costs['devices'], device)}, "
        f"{_counted(jobs, 'stage')} at once, each on {_counted(costs['devices_per_stage'], device)}; never less than "
        f"{_time(chain)}, the longest stage with those before it",
        **_jobs(costs),
        "disk": f"{_bytes(sum(disk.values()))}: "
        + ", ".join(f"{name} {_bytes(size)}" for name, size in disk.items())
        + " (2 checkpoints a stage with AdamW's moments, fp32; exported weights)",
        **({"memory": _fitting(costs["memory"])} if costs["memory"] else {}),
        "money": f"${short(costs['dollars']['mean'])} ({_range(costs['dollars'])}) at "
        f"${assumed['price']['value']:g} a {device}-hour ({assumed['price']['source']})",
        "energy": f"{short(costs['kwh']['mean'])} kWh ({_range(costs['kwh'])}) at {assumed['watts']['value']:g} W "
        f"a {device} ({assumed['watts']['source']}) and PUE {assumed['pue']['value']:g} ({assumed['pue']['source']})",
        "CO2e": f"{short(costs['co2e_kg']['mean'])} kg ({_range(costs['co2e_kg'])}) at "
        f"{assumed['carbon']['value']:g} kg a kWh ({assumed['carbon']['source']})",
        "throughput": ("" if device == "GPU" else "this scale trains on CPUs: hours of cores, not GPUs; ")
        + costs["throughput"]["about"],
        "left out": f"{_counted(costs['evaluations_pending'], 'evaluation')}, making or downloading data, starting "
        "processes, waiting for a scheduler. An interrupted stage counts whole. Multiply-adds are those of forward and "
        "backward pass, nothing computed twice",
    }
    return [line for name, text in notes.items() for line in _wrapped(name, text)]


def _jobs(costs: dict[str, Any]) -> dict[str, str]:
    """What to say where a training needs more than one job."""
    longest = [group for group in costs["groups"] if group["jobs"]["mean"] > 1]
    if not longest:
        return {}
    counts = [f"{group['model']} {KINDS[group['kind']]} {group['jobs']['mean']:.0f}" for group in longest]
    continued = (
        "each saves before its time is up, and SLURM starts it again"
        if costs["jobs_chain"]
        else f"WARNING: nothing starts them again: {PROFILE} has no `slurm-requeue: true`"
    )
    return {
        "jobs": f"of {_time(costs['job_minutes'] / 60)}, as many as the longest training needs: {_listed(counts)}; "
        + continued
    }


def _fitting(memory: dict[str, Any]) -> str:
    if misfits := memory["misfits"]:
        return f"{_counted(len(misfits), 'stage')} cannot be trained so: {misfits[0]}"
    return (
        f"all stages fit {memory['card']}, at most {_bytes(memory['bytes'])} ({memory['largest']}); `clipa fits` lists "
        "them with samples a second and MFU"
    )


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name:<12}{text}",
        COLUMNS,
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _range(spread: dict[str, float]) -> str:
    return f"{short(spread['low'])}–{short(spread['high'])}"


def _scaled(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:,.3g} {unit}" if number < 1000 * size else f"{number / size:,.0f} {unit}"
    return f"{number:g}"


def _bytes(size: float) -> str:
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _time(hours: float) -> str:
    if hours < 1 / 30:
        return f"{short(3600 * hours)} s"
    if hours < 1:
        return f"{short(60 * hours)} min"
    return f"{short(hours)} h" if hours < 72 else f"{short(hours / 24)} days"


def _clock(spread: dict[str, float]) -> str:
    return f"{_time(spread['mean'])} ({_time(spread['low'])} to {_time(spread['high'])})"
