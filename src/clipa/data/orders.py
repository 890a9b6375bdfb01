"""Wrong orders of a caption's words, in ARO's four ways (Yuksekgonul et al., 2023): of the embedded world's captions
and of ARO's own (:mod:`clipa.data.aro`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

WAYS = 4
_TRIES = 50


def reordered(
    words: Sequence[str], slots: Sequence[Sequence[int]], way: int, generator: numpy.random.Generator
) -> list[str]:
    """``words`` in another order, in one of ARO's four ways; chance may give the same order again.

    0: the words at each of ``slots`` (groups of positions) change places among themselves; 1: the words at all other
    positions do; 2: words inside each group of three; 3: the groups of three.
    """
    moved = list(words)
    if way < 2:
        taken = {position for group in slots for position in group}
        rest = [position for position in range(len(words)) if position not in taken]
        for group in slots if way == 0 else [rest]:
            for position, source in zip(group, generator.permutation(group), strict=True):
                moved[position] = words[int(source)]
        return moved
    groups = [moved[i : i + 3] for i in range(0, len(moved), 3)]
    if way == 2:
        return [group[int(i)] for group in groups for i in generator.permutation(len(group))]
    return [word for i in generator.permutation(len(groups)) for word in groups[int(i)]]


def wrong_orders(
    right: str, words: Sequence[str], slots: Sequence[Sequence[int]], generator: numpy.random.Generator
) -> list[str]:
    """Four wrong orders of ``words``, joined by spaces, that differ from ``right`` and from one another.

    A way that does not change the caption gives a full shuffle. A caption that has fewer than four other orders gives
    one of them more than once, and one that has none gives itself.
    """
    wrong: list[str] = []
    for way in range(WAYS):
        moved = reordered(words, slots, way, generator)
        for _ in range(_TRIES):
            text = " ".join(moved)
            if text != right and text not in wrong:
                break
            moved = [words[int(i)] for i in generator.permutation(len(words))]
        else:
            text = wrong[0] if wrong else text
        wrong.append(text)
    return wrong
