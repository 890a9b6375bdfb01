"""The search of `clipa cite` as data, for docs/numbers.html: everything but its four short algorithms.

`render/numbers_search.js` interprets it. `tests/test_numbers_search.py` asks both the same queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from clipa.published import search
from clipa.published.search import Entry, species


def search_data(entries: Sequence[Entry], scales: Sequence[str]) -> dict[str, Any]:
    """What the page needs to search `entries`; `scales`: those with measured records.

    `vocabulary`: pairs of a term and the sides that it names in a record (a bit each), the most frequent first.
    `departures`: the distinct ones. `records`, a list each: id, species, whether it has a value, its pairs of the
    vocabulary, its departures, run, case, and the ids in other tables.
    """
    sides = sorted({side for entry in entries for own in entry.terms.values() for side in own})
    pairs = [[(term, _bits(own, sides)) for term, own in sorted(entry.terms.items())] for entry in entries]
    counts = Counter(pair for own in pairs for pair in own)
    vocabulary = sorted(counts, key=lambda pair: (-counts[pair], pair))
    number = {pair: position for position, pair in enumerate(vocabulary)}
    departures = list(dict.fromkeys(tuple(entry.departures) for entry in entries))
    return {
        "rewrites": search.REWRITES,
        "silent": search.SILENT,
        "patterns": {
            "likeAnId": search.LIKE_AN_ID,
            "aroundAnId": search.AROUND_AN_ID,
            "space": search.SPACE,
            "plainNumber": search.PLAIN_NUMBER,
            "beginning": search.BEGINNING,
            "seed": search.SEED,
            "withANumber": search.WITH_A_NUMBER,
        },
        "changes": search.CHANGES,
        "derived": search.DERIVED,
        "measured": search.MEASURED,
        "scales": list(scales),
        "mentioned": search.MENTIONED,
        "near": search.NEAR,
        "cutoff": search.CUTOFF,
        "sides": sides,
        "vocabulary": vocabulary,
        "departures": departures,
        "records": [
            [
                entry.record["id"],
                species(entry.record),
                int(entry.record["value"] is not None),
                [number[pair] for pair in own],
                departures.index(tuple(entry.departures)),
                entry.record.get("run") or "",
                entry.record.get("case") or "",
                entry.record.get("same_as") or [],
            ]
            for entry, own in zip(entries, pairs, strict=True)
        ],
    }


def _bits(own: set[str], sides: Sequence[str]) -> int:
    return sum(1 << position for position, side in enumerate(sides) if side in own)
