"""Makes the small world, runs the attacks on it, and prints what they came to."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from . import configurations, disks, exchanges, flips, hostile, kills, power, processes, samples
from .outcomes import UNCLEAR, Case, Result, plain, table
from .world import World

ATTACKS = (kills, disks, power, flips, exchanges, samples, configurations, hostile)
KINDS = {module.KIND: module for module in ATTACKS}

_CASES: list[Case] = []
"""Those of this call. Set before the workers are forked, which thus have them without pickling."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where every attack was survived, 1 where one was not."""
    chosen = _parser().parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=chosen.folder))
    try:
        _said("importing the package, and making a small world without attacks …")
        harness = Harness(folder, chosen.seed, chosen.quick)
        cases = harness.cases(chosen.only or list(KINDS), chosen.case)
        if chosen.list:
            print(*(f"{case.kind}: {case.name}" for case in cases), sep="\n")
            return 0
        results = harness.run(cases, chosen.jobs, _said)
    finally:
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
    failed = [result for result in results if result.failed]
    print(table(results))
    print(*(result.line(chosen.seed) for result in failed), sep="\n")
    if chosen.out:
        chosen.out.write_text(
            json.dumps({"seed": chosen.seed, "results": plain(results)}, indent=1), encoding="utf-8"
        )
    return 1 if failed else 0


class Harness:
    """The small world in ``folder``, and attacks on it."""

    def __init__(self, folder: Path, seed: int = 0, quick: bool = False) -> None:
        self.world, self.seed, self.quick = World(folder), seed, quick
        processes.preload()
        self.world.build(quick)

    def cases(self, kinds: Sequence[str], name: str = "*") -> list[Case]:
        """The attacks of these kinds whose names match ``name``."""
        found: list[Case] = []
        for kind in kinds:
            made: Iterator[Case] = KINDS[kind].cases(self.world, self.seed, self.quick)
            found += [
                case for case in made if name in (case.name, "*") or fnmatch.fnmatchcase(case.name, name)
            ]
        return found

    def run(
        self, cases: list[Case], jobs: int = 1, say: Callable[[str], object] = lambda text: None
    ) -> list[Result]:
        """Make every attack, in ``jobs`` processes; results in the order of ``cases``. Failures are said at once."""
        from clipa.data.shards import progress_bar

        _CASES[:] = cases
        results: dict[int, Result] = {}
        with (
            progress_bar("attacks", len(cases), "attack") as bar,
            ProcessPoolExecutor(jobs, get_context("fork")) as pool,
        ):
            for done in as_completed([pool.submit(_attack, number) for number in range(len(cases))]):
                number, result = done.result()
                results[number] = result
                if result.failed:
                    say(result.line(self.seed))
                bar.update()
        return [results[number] for number in range(len(cases))]


def _attack(number: int) -> tuple[int, Result]:
    case, began = _CASES[number], time.monotonic()
    try:
        outcome, detail = case.attack()
    except Exception as error:  # of the harness itself: seen, not counted as survived
        outcome, detail = UNCLEAR, f"the harness failed: {error!r} {traceback.format_exc(limit=-2)}"
    return number, Result(case.kind, case.name, outcome, detail, round(time.monotonic() - began, 3))


def _said(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description="Attack the commands of clipa in a small world and print what was survived; "
        "exit code 1 if anything was not (docs/reliability.md).",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=KINDS,
        metavar="KIND",
        help=f"of {', '.join(KINDS)}; repeat for more",
    )
    parser.add_argument(
        "--case", default="*", metavar="NAME", help="only cases of this name (a pattern, as 'train@*')"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of places and values that are drawn (default: 0)"
    )
    parser.add_argument("--quick", action="store_true", help="a few attacks of each kind, a minute or two")
    parser.add_argument(
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="attacks at once (default: all cores)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write all results, as JSON")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="where the world is made (default: the system's for temporary files)",
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the world afterwards")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    return parser
