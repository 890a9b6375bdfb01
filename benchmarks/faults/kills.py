"""kill -9 at a file event of every command that writes: started again, it must end with the bytes of an undisturbed
call.

Killed *before* each file event (:class:`processes.Watch`), and at moments spread over its time, which also fall into
what libraries write without Python.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from . import processes
from .outcomes import REFUSED, STOPPED, UNCLEAR, Case, Outcome, judge
from .world import BESIDE, VERBS, World

KIND = "kill"
SLOW = {"run": 12}
"""Commands with at most so many kills: they start a process that imports torch anew."""


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """Every file event of every command (``quick``: one in the middle and the last), and moments between."""
    for verb in [*VERBS, *BESIDE]:
        if quick and verb in SLOW:
            continue
        with world.copy(verb) as home:
            undisturbed = processes.run(home, world.words(verb, home), watch := processes.Watch(home))
        events = list(range(1, watch.events + 1))
        for event in spread(events, 3)[1:] if quick else spread(events, SLOW.get(verb, 120)):
            yield Case(KIND, f"{verb}@{event}", lambda verb=verb, event=event: at_event(world, verb, event))
        for share in () if quick or verb in SLOW else range(1, 10):
            after = undisturbed.seconds * share / 10
            yield Case(
                KIND, f"{verb}@{share}0%", lambda verb=verb, after=after: at_moment(world, verb, after)
            )


def spread(values: list[int], most: int) -> list[int]:
    """At most ``most`` of ``values``, evenly spread, the last one (the commit) among them."""
    if len(values) <= most:
        return values
    return sorted({values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)})


def at_event(world: World, verb: str, event: int) -> Outcome:
    """Kill ``verb`` before its file event number ``event``, and start it again."""
    with world.copy(verb) as home:
        words = world.words(verb, home)
        command = processes.Command(home, words, processes.Watch(home, event, signal.SIGKILL))
        try:
            killed = command.wait()
            if killed.code != -signal.SIGKILL:
                return UNCLEAR, f"it has only {killed.events} events this time"
            # What it had started goes on, as it would; the next call has to wait for it.
            return again(world, verb, home, words, f"killed before {killed.event}")
        finally:
            command.kill()


def at_moment(world: World, verb: str, after: float) -> Outcome:
    """Kill ``verb`` after so many seconds, and start it again."""
    with world.copy(verb) as home:
        words = world.words(verb, home)
        processes.run(home, words, limit=after)
        return again(world, verb, home, words, f"killed after {after:.2f} s")


def again(world: World, verb: str, home: Path, words: list[str], how: str) -> Outcome:
    """Start ``verb`` again after its end; it must finish."""
    ended = processes.run(home, words)
    outcome = judge(ended)
    if outcome is None:
        outcome = world.compare(home, verb)
    elif outcome[0] == REFUSED:
        outcome = STOPPED, outcome[1]
    return outcome[0], f"{how}: {outcome[1]}"
