"""The heads of config/experiments count runs and trainings as the plan does."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from clipa.plan import load_plan

EXPERIMENTS = sorted((Path(__file__).parents[1] / "config" / "experiments").glob("*.yaml"))
KINDS = {"pre-training": "pretrain", "fine-tuning": "finetune", "NegCLIP stage": "negclip"}
NUMBERS = {"three": 3, "ten": 10}


def head(path: Path) -> str:
    """The comment above an experiment's first key, as one line."""
    lines = path.read_text(encoding="utf-8").split("about:")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines)


def counting(what: str) -> list[Path]:
    """The experiments whose head counts ``what``."""
    return [path for path in EXPERIMENTS if re.search(what, head(path))]


def stem(path: Path) -> str:
    return path.stem


@cache
def runs(experiment: str) -> frozenset[str]:
    return frozenset(run.slug for run in load_plan({"scale": "paper", "experiments": [experiment]}).runs())


@cache
def trainings(experiment: str) -> dict[str, str]:
    """Kind of every stage that one seed of an experiment has, by fingerprint."""
    plan = load_plan({"scale": "paper", "experiments": [experiment]})
    return {stage.fingerprint: stage.kind for run in plan.runs() for stage in plan.job(run, 0).stages}


def those_of(tables: str) -> dict[str, str]:
    """Trainings of the tables that a text names."""
    return {
        mark: kind
        for number in re.findall(r"\d+", tables)
        for mark, kind in trainings(f"table{number}").items()
    }


@pytest.mark.parametrize(
    "path", counting(r"pre-training|fine-tuning|NegCLIP stage|evaluations only"), ids=stem
)
def test_a_head_counts_what_is_trained(path: Path) -> None:
    cost = re.search(r"Expected cost:\s+(.*?)\s+Expected score:", head(path))[1]
    cost, _, shared = cost.partition(" of them ")
    said = {KINDS[kind]: int(number) for number, kind in re.findall(rf"(\d+) ({'|'.join(KINDS)})", cost)}
    beyond = re.search(r"beyond (.*)", cost)
    known = those_of(beyond[1]) if beyond else {}
    more = Counter(kind for mark, kind in trainings(path.stem).items() if mark not in known)
    seeds = 3 if "three seeds" in cost else 1
    assert said == {kind: count * seeds for kind, count in more.items()}
    if shared:
        both = Counter(kind for mark, kind in trainings(path.stem).items() if mark in those_of(shared))
        assert re.search(r"(\d+) and (\d+)$", cost).groups() == (str(both["pretrain"]), str(both["finetune"]))


@pytest.mark.parametrize("path", counting(r"\d runs"), ids=stem)
def test_a_head_counts_its_runs(path: Path) -> None:
    found = re.search(r"(\d+) runs(?:, (\w+) of them Table (\d+)'s)?", head(path))
    own = runs(path.stem)
    assert int(found[1]) == len(own)
    if found[2]:
        shared = own & runs(f"table{found[3]}")
        assert len(shared) == (len(own) if found[2] == "all" else NUMBERS[found[2]])
