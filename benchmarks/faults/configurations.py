"""Wrong values in the configuration: every key of a scale and of the project with every wrong value, and broken files.

A mutant must be refused in one line that names file and key, before any job. One that is accepted must be planned, and
two steps of it must train with a finite loss.
"""

from __future__ import annotations

import json
import math
import random
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from . import processes
from .outcomes import ACCEPTED, CODE, REFUSED, SAME, UNCLEAR, Case, Outcome, judge
from .world import ASKED, REPOSITORY, RUN, SCALE, World

KIND = "configuration"
MARK = "executed"
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 7, 10**12, -0.01, 1e300, math.nan, math.inf,
    "", "x", "../x", f"x; touch {MARK}; true ", [], [-1], [0.9, 0.1], {}, {"x": 1},
)  # fmt: skip
SCALE_FILE, PROJECT_FILE = "config/scales/tiny.yaml", "config/config.yaml"
_DATA_OF_ITS_OWN = ("data", "vocabulary_size", "tagger", "sources")
"""Keys that ask for other data than the small world has: a training may refuse these for want of it."""
_ALIKE = {
    ("models",): ("S/16", "ConvNeXt-T"),
    ("base_lr",): ("S/16", "ConvNeXt-T"),
    ("suite",): ("imagenet1k", "aro/vg_relation"),
    ("image_sizes",): ("224", "64"),
    ("kept_patches",): ("49",),
}
"""Maps whose entries are alike: these stand for all of them."""
_LARGEST_LOSS = 12.0
_MOST_PROCESSES = 4


def broken(path: Path) -> dict[str, bytes]:
    """Files that are no configuration, by what is wrong with them."""
    whole = path.read_bytes()
    return {
        "empty": b"",
        "not utf-8": whole + b"# \xff\xfe\n",
        "a list": b"- 1\n- 2\n",
        "a word": b"micro\n",
        "cut in a bracket": b"about: [1, 2\n",
        "a tab": b"about:\n\tx: 1\n",
        "a null character": whole + b"\0",
        "a key twice": whole + b"\nabout: twice\nabout: thrice\n",
        "an unknown key": whole + b"\nlearning_rate: 1\n",
        "a python object": whole + f"\nabout: !!python/object/apply:os.system ['touch {MARK}']\n".encode(),
        "aliases that grow": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n".encode() for a, b in pairwise("abcdefghi")),
        "an alias to itself": b"about: &a [*a]\n",
        "20,000 brackets": b"about: " + b"[" * 20_000,
        "extends itself": b"extends: tiny\n",
        "extends another folder": b"extends: ../../config\n",
        "two documents": whole + b"\n---\nabout: x\n",
    }  # fmt: skip


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """Every key with every value, and broken files (``quick``: twenty drawn ones of them)."""
    found = []
    for file, values in ((SCALE_FILE, whole_scale()), (PROJECT_FILE, project())):
        for path in keys(values):
            for value in VALUES:
                name = f"{Path(file).stem}: {'.'.join(map(str, path))} = {json.dumps(value)}"
                found.append(
                    Case(
                        KIND,
                        name,
                        lambda file=file, path=path, value=value: mutated(world, file, path, value),
                    )
                )
        for what in broken(REPOSITORY / "config" / "config.yaml"):
            found.append(
                Case(
                    KIND,
                    f"{Path(file).stem}: {what}",
                    lambda file=file, what=what: wrecked(world, file, what),
                )
            )
    yield from random.Random(seed).sample(found, 20) if quick else found


def whole_scale() -> dict[str, Any]:
    """Every key of the small scale, those with defaults too."""
    from clipa.config import Scale, load_scale

    values = load_scale("ci", REPOSITORY / "config").model_dump(mode="json")
    for key, value in SCALE.items():
        if isinstance(value, dict):
            values[key] = _merged(values[key], value)
        elif key != "extends":
            values[key] = value
    values = Scale.model_validate(values).model_dump(mode="json")
    return {key: value for key, value in values.items() if key not in ("name", "config_directory")}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) and merged.get(key) else value
    return merged


def project() -> dict[str, Any]:
    """The project's keys."""
    return yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8")) | {
        "scale": "tiny"
    }


def keys(values: Any, above: tuple = ()) -> Iterator[tuple]:
    """The place of every value in nested maps and lists."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        if (above[-1:] in _ALIKE and key not in _ALIKE[above[-1:]]) or above[2:] == ("augmentation",):
            continue
        yield (*above, key)
        yield from keys(value, (*above, key))


def mutated(world: World, file: str, path: tuple, value: Any) -> Outcome:
    """Put ``value`` at ``path``, and see whether that is refused, or trains."""
    values = whole_scale() if file == SCALE_FILE else project()
    place = values
    for key in path[:-1]:
        place = place[key]
    if place[path[-1]] == value and type(place[path[-1]]) is type(value):
        return SAME, "that is its value"
    place[path[-1]] = value
    return configured(world, file, yaml.safe_dump(values, allow_unicode=True).encode(), path)


def wrecked(world: World, file: str, what: str) -> Outcome:
    """Put a broken file in its place."""
    return configured(world, file, broken(REPOSITORY / "config" / "config.yaml")[what], ())


def configured(world: World, file: str, content: bytes, path: tuple) -> Outcome:
    """Resolve, plan and, where these succeed, train with ``content`` as the configuration."""
    with world.copy("train") as home:
        for made in home.glob("results/runs/tiny"):
            made.rename(home / "before")
        (home / file).write_bytes(content)
        asked = ASKED if file == SCALE_FILE else ()
        for words in (["resolve", RUN, *asked], ["plan", "all", "--gpus", "64", *asked]):
            ended = processes.run(home, words, limit=60, memory_mb=4000)
            outcome = judge(ended)
            if list(home.rglob(MARK)):
                return CODE, f"{words[0]} ran a command of the configuration"
            if outcome is not None:
                return _clear(outcome, file, path) if outcome[0] == REFUSED else outcome
        resolved = next(home.glob("**/pretrain/*/stage.resolved.json"), None)
        if path[:1] == ("evaluation",) and path[1] != "suite":
            return evaluates(world, content)
        if resolved is None or (path[:1] == ("models",) and "S/16" not in path):
            return SAME, "accepted, and planned"
        return trains(home, resolved, path)


def evaluates(world: World, content: bytes) -> Outcome:
    """Evaluate with an accepted mutant of the evaluation's keys, which change no stage."""
    with world.copy("evaluate") as home:
        (home / SCALE_FILE).write_bytes(content)
        outcome = judge(processes.run(home, world.words("evaluate", home), limit=60, memory_mb=4000))
        if outcome and outcome[0] == REFUSED:
            return ACCEPTED, f"planned, but refused in evaluation: {outcome[1]}"
        return outcome or (SAME, "accepted, and evaluated")


def _clear(outcome: Outcome, file: str, path: tuple) -> Outcome:
    """A refusal must name the file, and a key on the way to the wrong value."""
    line = outcome[1]
    named = [str(key) for key in path if not isinstance(key, int)]
    clear = Path(file).name in line and (not named or any(key in line for key in named))
    # A name that is looked up elsewhere (a scale, an experiment) is refused by the name of that file.
    elsewhere = path[:1] in (("scale",), ("experiments",))
    return outcome if clear or elsewhere else (UNCLEAR, f"names no file or key: {line}")


def trains(home: Path, resolved: Path, path: tuple) -> Outcome:
    """Train two steps of an accepted mutant."""
    facts = json.loads(resolved.read_text(encoding="utf-8"))
    many = max(facts["processes"], facts["workers"])
    if many > _MOST_PROCESSES:
        return ACCEPTED, f"it would start {many} processes"
    progress = resolved.with_name("progress.json")

    def two_steps() -> bool:
        try:
            return json.loads(progress.read_text(encoding="utf-8"))["step"] >= 2
        except (OSError, ValueError):
            return False

    name, steps = str(resolved.relative_to(home)), facts["content"]["schedule"]
    short = steps["samples"] <= 200 * steps["batch_size"]
    with processes.running(home, ["train", name], memory_mb=4000) as command:
        ended = command.wait(60, until=lambda: not short and two_steps())
        if ended is None:
            time.sleep(0.05)
            command.signal(signal.SIGTERM)
            ended = command.wait(60)
    outcome = judge(ended)
    if outcome and outcome[0] == REFUSED and ended.code != 75 and "stopped after step" not in ended.said:
        if path[:1] and path[0] in _DATA_OF_ITS_OWN:
            return outcome
        return ACCEPTED, f"planned, but refused in training: {outcome[1]}"
    if outcome and ended.code != 75:
        return outcome if outcome[0] != UNCLEAR else (ACCEPTED, outcome[1])
    log = resolved.with_name("loss.jsonl")
    losses = (
        [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
        if log.is_file()
        else []
    )
    if not all(math.isfinite(loss) and 0 <= loss < _LARGEST_LOSS for loss in losses):
        return ACCEPTED, f"it trains, with losses {losses[:4]}"
    return SAME, f"accepted; {len(losses)} losses"
