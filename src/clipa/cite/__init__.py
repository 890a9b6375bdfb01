"""`clipa cite`: find a number of the paper by words or id, with what must be known before it is cited.

Only the standard library, and the claims where they are asked for: an answer is there in a fraction of a second.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipa.cite import errata, telling
from clipa.cite.words import like_an_id, matches, record_terms, terms_of, unsaid, vocabulary
from clipa.records import PUBLISHED_DIRECTORY, published_records

Record = Mapping[str, Any]
LISTED = 20
MENTIONED = 3
WIDTH = 100  # columns


@dataclass
class Found:
    """What a search gives: the hits, best first, and how many more match in settings that nobody asked for."""

    terms: list[str]
    hits: list[Record]
    further: list[Record]


def find(words: Sequence[str], records: Sequence[Record]) -> list[Record]:
    """The records that have all words; one alone where the words, read with the paper's standard setting, leave one.

    Standard (`clipa.cite.words.unsaid`): the authors' models, 32 text tokens, ImageNet-1k accuracy, no special case.
    A number that several tables print is one hit: the first table's; its `same_as` names the others. Records
    without a number are hits only where nothing else matches, or by their id.
    """
    return search(words, records).hits


def search(words: Sequence[str], records: Sequence[Record]) -> Found:
    """As `find`, with the terms as understood and what matches beyond the standard setting."""
    terms = terms_of(" ".join(words))
    if len(terms) == 1:
        exact = [record for record in records if record["id"].lower() == terms[0]]
        if exact:
            return Found(terms, exact, [])
    scored, by_value = [], False
    for position, record in enumerate(records):
        have = record_terms(record)
        if terms and all(matches(term, have, record["id"].lower()) for term in terms):
            said = set().union(*(have.get(term, ()) for term in terms))
            by_value = by_value or any(have.get(term) == {"value"} for term in terms)
            scored.append((unsaid(record, said), position))
    if any(records[position]["value"] is not None for _, position in scored):
        scored = [entry for entry in scored if records[entry[1]]["value"] is not None]
    groups: list[tuple[int, Record]] = []
    taken: set[str] = set()
    for distance, position in sorted(scored):
        record = records[position]
        if taken.isdisjoint([record["id"], *(record.get("same_as") or ())]):
            groups.append((distance, record))
        taken.add(record["id"])
    # Who asks for a number by its digits does not mean the standard setting.
    if not by_value and len([distance for distance, _ in groups if distance == groups[0][0]]) == 1:
        return Found(terms, [groups[0][1]], [record for _, record in groups[1:]])
    return Found(terms, [record for _, record in groups], [])


def nearest(terms: Sequence[str], records: Sequence[Record]) -> tuple[dict[str, list[str]], list[str]]:
    """For a search without hits: near words for every unknown term, and the ids that have most of the terms.

    In looking for these ids the nearest word stands for an unknown one.
    """
    indexed = [(record_terms(record), record) for record in records if record["value"] is not None]
    known = {word: word for word in vocabulary([have for have, _ in indexed])}
    slugs = {r[key].lower(): r[key] for _, r in indexed for key in ("run", "case", "id") if r.get(key)}
    near: dict[str, list[str]] = {}
    for term in terms:
        if not any(matches(term, have, record["id"].lower()) for have, record in indexed):
            near[term] = _near(term, slugs if like_an_id(term) else known)
    meant = [near[term][0].lower() if near.get(term) else term for term in terms]

    def distance(have: Mapping[str, set[str]], record: Record) -> tuple[int, int]:
        held = [term for term in meant if matches(term, have, record["id"].lower())]
        said = set().union(*(have.get(term, ()) for term in held))
        return len(meant) - len(held), unsaid(record, said)

    ranked = sorted((*distance(have, record), i) for i, (have, record) in enumerate(indexed))
    return near, [indexed[i][1]["id"] for missing, _, i in ranked[:MENTIONED] if missing < len(meant)]


def _near(term: str, known: Mapping[str, str]) -> list[str]:
    """Up to three known words near `term`: of the same letters with the nearest number (resize64 for resize65), else
    of like spelling."""
    parts = re.fullmatch(r"([a-z]*)(\d+)([a-z]*)", term)
    if parts is not None and (parts[1] or parts[3]):
        kin = re.compile(rf"{parts[1]}(\d+){parts[3]}")
        numbers = sorted(
            (abs(int(found[1]) - int(parts[2])), word)
            for word in known
            if (found := kin.fullmatch(word)) is not None
        )
        if numbers:
            return [word for _, word in numbers[:3]]
    return [known[word] for word in difflib.get_close_matches(term, known, n=3, cutoff=0.7)]


# -------------------------------------------------------------------------------------------------------- telling


def main(words: Sequence[str], *, as_json: bool = False, bibtex: bool = False) -> tuple[str, int]:
    """What `clipa cite` prints, and its exit code: 0 if something was found, else 1."""
    records = published_records(PUBLISHED_DIRECTORY)
    found = search(words, records)
    if not found.hits:
        return _none(words, found.terms, records, as_json), 1
    known = caveats(found.hits[0], records) if len(found.hits) == 1 else []
    if as_json:
        return _as_json(found, known), 0
    if len(found.hits) == 1:
        text, entry = _one(found.hits[0], known) + _further(found), telling.bibtex(found.hits[0])
    else:
        text, entry = _several(found), telling.bibtex()
    return (f"{text}\n\n{entry}" if bibtex else text), 0


def caveats(record: Record, records: Sequence[Record]) -> list[tuple[str, str]]:
    """What to know before citing a record, as (kind, text): its note, and errata of the paper that it is part of.

    Errata are computed from all published `records` (a third of a second), hence for a single hit only.
    """
    told = [("caveat", record["note"])] if record.get("note") else []
    known = errata.about(record, errata.checked(records)[1])
    return told + [("erratum" if erratum.kind == "claim" else "conflict", erratum.text) for erratum in known]


def _one(record: Record, known: Sequence[tuple[str, str]]) -> str:
    """A number with everything about it, a line each."""
    lines = [("id", record["id"]), ("in the paper", telling.place(record))]
    if record["row"]:
        lines += [("row", record["row"]), ("column", record["column"])]
    if telling.printed_differently(record):
        lines.append(("printed", f"“{record['printed']}”"))
    lines.append(("setting", ", ".join(telling.setting(record))))
    lines.append(("stage", telling.stage_text(record)))
    lines.append(("measured by", telling.measuring(record)))
    lines += [("also printed", other) for other in record.get("same_as") or ()]
    lines += known
    lines.append(("cite as", telling.citation(record)))
    head = f"{telling.value_text(record)}   {telling.quantity(record)}"
    body = "\n".join(_wrapped(name, text) for name, text in lines if text)
    return f"{head}\n{body}"


def _wrapped(name: str, text: str) -> str:
    """One named line of an answer, in a terminal's width; ids and addresses are not broken."""
    indent = 16 * " "
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {name + ':':<14}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _several(found: Found) -> str:
    shown = found.hits[:LISTED]
    more = len(found.hits) - len(shown)
    count = f"{len(found.hits)} numbers have {' '.join(found.terms)}"
    head = f"{count}{f'; the first {len(shown)}' if more else ''} (value, id, row; column):"
    tail = "\nMore words leave fewer; an id leaves one."
    return head + "\n" + "\n".join(_lines(shown)) + tail


def _further(found: Found) -> str:
    if not found.further:
        return ""
    head = (
        f"\n\n{len(found.further)} more in other settings (benchmark, text, case, model family), such as:\n"
    )
    return head + "\n".join(_lines(found.further[:MENTIONED]))


def _lines(records: Iterable[Record]) -> list[str]:
    records = list(records)
    values = [telling.value_text(record) for record in records]
    value_width, id_width = max(map(len, values)), max(len(record["id"]) for record in records)
    return [
        f"  {value:>{value_width}}  {record['id']:<{id_width}}  {telling.cell(record)}"
        for value, record in zip(values, records, strict=True)
    ]


def _none(words: Sequence[str], terms: list[str], records: Sequence[Record], as_json: bool) -> str:
    near, ids = nearest(terms, records)
    if as_json:
        return json.dumps(
            {"terms": terms, "found": 0, "near": near, "nearest": ids}, indent=2, ensure_ascii=False
        )
    if not terms:
        return (
            f"clipa cite: {' '.join(words)!r} names nothing; for example: clipa cite L/16 resize 64 finetune"
        )
    lines = [f"clipa cite: no number has all of: {' '.join(terms)}"]
    for term, close in near.items():
        lines.append(f"  {term}: in no record" + (f"; near it: {', '.join(close)}" if close else ""))
    if ids:
        lines += ["  nearest:", *(f"    {identity}" for identity in ids)]
    return "\n".join(lines)


def _as_json(found: Found, known: Sequence[tuple[str, str]]) -> str:
    """Whole records, with their citations; `caveats` beyond a record's note are there for a single hit."""
    hits = [
        {**record, "cite_as": telling.citation(record), "bibtex": telling.bibtex(record)}
        for record in found.hits
    ]
    if len(hits) == 1:
        hits[0]["errata"] = [text for kind, text in known if kind != "caveat"]
    content = {
        "terms": found.terms,
        "found": len(hits),
        "records": hits,
        "further": [r["id"] for r in found.further],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)
