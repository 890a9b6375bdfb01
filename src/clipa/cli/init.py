"""`clipa init`: a scale and an experiment for data of one's own, after a first look at it (docs/own-data.md)."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipa.cli.verbs import add_verb

NUMBERS = ("samples", "finetune_samples", "batch")
EPOCHS, FINETUNE_EPOCHS = 6.4, 0.36
"""Of the paper's study (§3.1)."""
STEPS = 2000
"""Updates that a pre-training should have: the batch is the paper's 32,768, or as small as that takes."""
LARGEST_BATCH, CPU_BATCH, CPU_VOCABULARY = 32_768, 32, 2000
SMOKE_STEPS, SMOKE_FINETUNE_STEPS = 40, 10


@dataclass(frozen=True)
class Asked:
    """What the files are written from. ``tests``: own folders by name; ``benchmarks``: all test sets' names."""

    name: str
    files: str
    shards: int
    pairs: int
    tests: dict[str, str]
    benchmarks: tuple[str, ...]
    model: str
    image: str
    text: str
    gpus: int
    card: str | None
    vocabulary: int | None
    samples: int | None
    finetune_samples: int | None
    batch: int | None
    command: str


def add_verbs(verbs) -> None:
    """Add `init` to a parser's verbs."""
    from clipa.cards import CARDS

    init = add_verb(
        verbs,
        "init",
        _init,
        "write a scale and an experiment for your own image-text data, with their cost (docs/own-data.md)",
        "--shards '/data/{00000..00999}.tar' --test /data/birds --model B/16 --image resize112 --text truncation16 "
        "--gpus 8",
        asked=False,
    )
    init.description += """

Reads the first shard, counts the shards, and checks the test sets' layout. Then it writes config/scales/NAME.yaml,
config/scales/NAME-smoke.yaml (50 steps on a CPU, to be run first) and config/experiments/NAME.yaml: your run beside the
same model at full length. Nothing is trained, and your files are not changed. What is not given is asked for on a
terminal."""
    init.add_argument(
        "--shards",
        nargs="+",
        help="folder of tars, or a pattern in quotes: '/data/{00000..00999}.tar', 's3://bucket/*.tar'",
    )
    init.add_argument(
        "--test",
        nargs="+",
        metavar="SET",
        help="folders in CLIP_benchmark's layout, or its names (imagenet1k)",
    )
    init.add_argument("--name", help="of data, scale and experiment (default: the shards' folder)")
    init.add_argument(
        "--model", default="B/16", help="S/16, B/16 (default), L/16, H/14, G/14, ConvNeXt-T, ConvNeXt-B"
    )
    init.add_argument(
        "--image", default="resize112", help="none, resize112 (default), random49, grid98, block36, …"
    )
    init.add_argument("--text", default="truncation16", help="truncation16 (default), block8, syntax8, …")
    init.add_argument(
        "--gpus",
        type=int,
        default=0,
        metavar="N",
        help="of one machine; 0 (default): a stand-in of 48 pixels on a CPU",
    )
    init.add_argument("--card", choices=tuple(CARDS), help="the GPU (default: A100-80)")
    init.add_argument(
        "--vocabulary",
        metavar="SIZE",
        help=f"bert (default with GPUs), or so many entries learnt from your captions (default: {CPU_VOCABULARY})",
    )
    init.add_argument(
        "--samples", type=int, metavar="N", help=f"of pre-training (default: {EPOCHS} epochs, §3.1)"
    )
    init.add_argument("--finetune-samples", type=int, metavar="N", help=f"default: {FINETUNE_EPOCHS} epochs")
    init.add_argument("--batch", type=int, metavar="N", help="default: as many as give 2000 steps")
    init.add_argument("--replace", action="store_true", help="overwrite the three files")


def _init(chosen: argparse.Namespace) -> int:
    from clipa.data.local import look_at
    from clipa.data.samples import named

    shards, *more = chosen.shards or [_ask("--shards", "Where are the tars with images and captions?")]
    if more:
        raise ValueError(
            f"--shards: {1 + len(more):,} values, where one is expected; put a pattern in quotes, as in "
            "'/data/*.tar', so that the shell leaves it as it is"
        )
    tests = chosen.test or _ask("--test", "Which test sets (folders, or names like imagenet1k)?").split()
    found, read, bad = look_at(shards)
    own, benchmarks = _test_sets(tests)
    asked = _checked(chosen, shards, tests, len(found), read, own, benchmarks)
    print(
        f"{shards}: {len(found):,} shards; {found[0]} has {read:,} samples, so about {asked.pairs:,} in all"
    )
    if bad:
        print(
            f"of these {bad.total():,} are bad: {named(bad)}; training leaves them out, and stops above 1 %"
        )
    files = {
        Path(f"config/scales/{asked.name}.yaml"): scale_text(asked),
        Path(f"config/scales/{asked.name}-smoke.yaml"): smoke_text(asked),
        Path(f"config/experiments/{asked.name}.yaml"): experiment_text(asked),
    }
    _write(files, asked.name, chosen.replace)
    _say_cost(asked.name)
    return 0


def _ask(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise ValueError(
            f"{option} is missing (and this is no terminal to ask on); clipa init --help has an example"
        )
    answer = input(f"{question} ").strip()
    if not answer:
        raise ValueError(f"{option}: nothing was given")
    return answer


# ----------------------------------------------------------------------------------------------------- what is asked


def _test_sets(given: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Own folders by name, and the names of all; ValueError for what is neither."""
    from clipa.data.local import check_test_set
    from clipa.downloads import load_downloads

    known = {name.removeprefix("clip-benchmark/wds_") for name in load_downloads().repositories}
    own: dict[str, str] = {}
    names = []
    for one in given:
        if one in known:
            names.append(one)
            continue
        folder = Path(os.path.abspath(Path(one).expanduser()))
        check_test_set(folder)
        name = _name_of(folder.name)
        if name in known or name in own:
            raise ValueError(f"--test {one}: there is another test set called {name}; rename the folder")
        own[name] = folder.as_posix()
        names.append(name)
    return own, tuple(names)


def _name_of(words: str) -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", words.lower()).strip("-")
    if not name:
        raise ValueError(f"{words!r}: no letter or digit to make a name of; give --name")
    return name


def _checked(
    chosen: argparse.Namespace,
    shards: str,
    tests: list[str],
    count: int,
    read: int,
    own: dict[str, str],
    names: tuple[str, ...],
) -> Asked:
    from clipa.study import parse_run

    run = parse_run(f"{chosen.model.replace('/', '')}-{chosen.image}-{chosen.text}")
    if run.is_full_length:
        raise ValueError(
            "--image, --text: nothing is reduced; the full length is trained anyway, to be compared with"
        )
    words = chosen.vocabulary or ("bert" if chosen.gpus else str(CPU_VOCABULARY))
    if words != "bert" and not words.isdecimal():
        raise ValueError(f"--vocabulary {words}: expected bert, or a number of entries")
    for option, least in (("gpus", 0), *((number, 1) for number in NUMBERS)):
        if (number := getattr(chosen, option)) is not None and number < least:
            raise ValueError(f"--{option.replace('_', '-')} {number}: expected {least} or more")
    samples = chosen.samples or round(EPOCHS * read * count)
    if chosen.batch is not None and chosen.batch > samples:
        raise ValueError(f"--batch {chosen.batch}: more than the {samples:,} samples of pre-training")
    folder = re.split(r"[*?{\[]", shards)[0].rstrip("/")
    default = Path(folder if Path(folder).expanduser().is_dir() else Path(folder).parent).name
    files = shards if "://" in shards else os.path.abspath(Path(shards).expanduser())
    return Asked(
        name=_name_of(chosen.name or default),
        files=files,
        shards=count,
        pairs=read * count,
        tests=own,
        benchmarks=names,
        model=run.model,
        image=chosen.image,
        text=chosen.text,
        gpus=chosen.gpus,
        card=chosen.card,
        vocabulary=None if words == "bert" else int(words),
        samples=chosen.samples,
        finetune_samples=chosen.finetune_samples,
        batch=chosen.batch,
        command=_command(chosen, shards, tests),
    )


def _command(chosen: argparse.Namespace, shards: str, tests: list[str]) -> str:
    """The command in one line, for the head of the files."""
    words = ["clipa", "init", "--shards", shards, "--test", *tests]
    for option in ("name", "model", "image", "text", "gpus", "card", "vocabulary", *NUMBERS):
        if (value := getattr(chosen, option)) is not None:
            words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------------- the files


def lanes_of(asked: Asked) -> int:
    """Lanes of the order of samples: a power of two that batches are multiples of, at most one a shard."""
    return 1 << int(math.log2(min(64 if asked.gpus else 8, asked.shards)))


def schedule_of(asked: Asked) -> tuple[int, int, int]:
    """Batch, samples of pre-training and samples of fine-tuning, whole batches all."""
    unit = math.lcm(lanes_of(asked), max(1, asked.gpus))
    samples = asked.samples or EPOCHS * asked.pairs
    batch = asked.batch
    if batch is None:
        doubled = 1 << max(0, int(math.log2(max(1, samples / STEPS / unit))))
        batch = max(unit, min(unit * doubled if asked.gpus else CPU_BATCH, LARGEST_BATCH // unit * unit))
    tuned = asked.finetune_samples or FINETUNE_EPOCHS * asked.pairs
    return batch, *(max(1, round(number / batch)) * batch for number in (samples, tuned))


def _data(asked: Asked) -> str:
    tests = "".join(f"\n    {name}: {_quoted(folder)}" for name, folder in asked.tests.items())
    return f"""data:
  kind: local
  name: {asked.name}
  files: {_quoted(asked.files)}
  shards: {asked.shards}
  # manifest: …         what `clipa index train --scale {asked.name}` prints; with it, other bytes are refused
  lanes: {lanes_of(asked)}
  workers: {8 if asked.gpus else 0}
  decode: scaled        # JPEGs no finer than crops need (docs/data.md)
  tests:{tests or " {}"}
"""


def _quoted(text: str) -> str:
    """A YAML scalar."""
    return "'" + text.replace("'", "''") + "'"


def _evaluation(asked: Asked) -> str:
    names = ", ".join(f"{name}: {name}" for name in asked.benchmarks)
    tagger = "tagger: en_core_web_sm   # for syntax masking\n"
    return f"""vocabulary_size: {asked.vocabulary or "null   # bert-base-uncased"}
{tagger}evaluation: {{benchmarks: {{{names}}}}}
experiments: [{asked.name}]
"""


def scale_text(asked: Asked) -> str:
    """The scale's file."""
    base, about = (
        ("paper", f"{asked.gpus} GPUs") if asked.gpus else ("micro-v1", "48-pixel stand-ins on a CPU")
    )
    head = f"""# Written by: {asked.command}
# Whatever it does not say is as in {base}.yaml.
extends: {base}
about: "{asked.name}, {about}: about {asked.pairs:,} pairs"
"""
    if asked.gpus:
        card = f", card: {asked.card}" if asked.card else ""
        head += f"processes: {asked.gpus}\nresources: {{gpus: {asked.gpus}, cpus: {12 * asked.gpus}{card}}}\n"
    return (
        head
        + _data(asked)
        + "augmentation: {crop_area: [0.4, 1.0]}\n"
        + _schedules(asked)
        + _evaluation(asked)
    )


def _schedules(asked: Asked) -> str:
    batch, samples, tuned = schedule_of(asked)
    text = (
        f"# The paper: {EPOCHS} epochs, then {FINETUNE_EPOCHS}, and warms up for 2 % and 20 % of steps (§3.1).\n"
        "# Peak rates are base lr × batch / 256, with the base rates of the file that this one extends.\n"
    )
    for kind, number, share in (("pretrain", samples, 0.02), ("finetune", tuned, 0.2)):
        steps = number // batch
        values = f"samples: {number}, batch_size: {batch}, warmup_steps: {max(1, round(steps * share))}"
        text += f"{kind}: {{{values}}}   # {steps:,} steps, {number / asked.pairs:.2g} epochs\n"
    return text


def smoke_text(asked: Asked) -> str:
    """The file of the smoke run: the same data, test sets and runs, small stand-ins and 50 steps on a CPU."""
    batch = max(CPU_BATCH, lanes_of(asked))
    return f"""# Written by: {asked.command}
# Shows in minutes on one core that shards, captions, vocabulary and test sets can be read. It measures nothing.
extends: micro-v1
about: "{asked.name}: {SMOKE_STEPS} + {SMOKE_FINETUNE_STEPS} steps on a CPU, to see that everything runs"
{_data(asked)}pretrain: {{samples: {SMOKE_STEPS * batch}, batch_size: {batch}, warmup_steps: 4}}
finetune: {{samples: {SMOKE_FINETUNE_STEPS * batch}, batch_size: {batch}, warmup_steps: 2}}
{_evaluation(asked)}"""


def experiment_text(asked: Asked) -> str:
    """The experiment's file: the run that is asked for, and the same model at full length."""
    from clipa.study import parse_run

    run = parse_run(f"{asked.model.replace('/', '')}-{asked.image}-{asked.text}")
    kept = f", kept_patches: [{run.kept_patches}]" if run.kept_patches else ""
    size = f", image_size: [{run.image_size}]" if run.image_reduction == "resize" else ""
    text = f"text_reduction: [{run.text_reduction}]"
    return f"""# Written by: {asked.command}
#   Command:        snakemake measure_{asked.name} --config scale={asked.name}
#   Expected cost:  clipa plan measure_{asked.name} --scale {asked.name}
about: "{asked.name}: shortened pre-training and fine-tuning, beside the full length"
fills: [{asked.name}]
models: [{asked.model}]
runs:
  - {{image_reduction: none, {text}}}
  - {{image_reduction: {run.image_reduction}{size}{kept}, {text}, text_tokens: [{run.text_tokens}]}}
"""


def _write(files: dict[Path, str], name: str, replace: bool) -> None:
    """Write all files, and take them back where they do not fit together. ValueError for files that are there."""
    from clipa.files import write_text_atomically
    from clipa.plan import load_plan

    there = [path for path in files if path.exists()]
    if there and not replace:
        raise ValueError(f"{there[0]} is there; give another --name, or --replace to overwrite it")
    if not Path("config/scales").is_dir():
        raise ValueError("config/scales: no such folder here; start clipa init in the repository")
    before = {path: path.read_text(encoding="utf-8") for path in there}
    try:
        for path, text in files.items():
            write_text_atomically(path, text)
        for scale in (name, f"{name}-smoke"):
            load_plan({"scale": scale})
    except BaseException:
        for path in files:
            if path in before:
                write_text_atomically(path, before[path])
            else:
                path.unlink(missing_ok=True)
        raise
    print(*files, sep="\n")


def _say_cost(name: str) -> None:
    from clipa.cli.assumptions import ASSUMPTIONS
    from clipa.cli.planning import cost_of, report
    from clipa.plan import load_plan

    target = f"measure_{name}"
    none: dict[str, None] = {one.option: None for one in ASSUMPTIONS}
    print(f"\n{report(cost_of(load_plan({'scale': name}), target, None, none))}\n")
    commands: list[tuple[str, Callable[[], str] | str]] = [
        (f"snakemake {target} --config scale={name}-smoke 'seeds=[0]'", "first: 50 steps on a CPU"),
        (f"snakemake {target} --config scale={name}", "all of it; add --profile slurm on a cluster"),
        (f"clipa watch --scale {name}", "meanwhile"),
    ]
    width = max(len(command) for command, _ in commands)
    print(*(f"{command:<{width}}   # {why}" for command, why in commands), sep="\n")
