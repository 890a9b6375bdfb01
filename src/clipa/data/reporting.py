"""``clipa data report``: what a download brought. Yield and failures come from img2dataset's statistics of all shards;
sizes and captions from the samples of a few shards.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipa.data.samples import BadSample, captions_of, metadata_of, samples_of
from clipa.data.vocabulary import VocabularyError, load_tokenizer
from clipa.data.yields import (
    FETCHES,
    LASTING,
    OTHER,
    TRANSIENT,
    Yield,
    expected_shards,
    lines_of,
    outages,
    read_yields,
    summary,
)
from clipa.downloads import DownloadError
from clipa.files import write_text_atomically
from clipa.links import Links

TEXT_LENGTHS = (4, 6, 8, 16, 32)
"""Of the paper, [CLS] included (Table 11)."""
_WORST = 8


def report(
    train: Path, links: Links, shards: int, vocabulary: Path, sampled: int, table: Path | None = None
) -> Iterator[str]:
    """The lines of a report on the shards in ``train``, of which there should be ``shards``.

    ``vocabulary``: a tokenizer's folder; ``sampled``: of how many shards samples are read; ``table``: where to write a
    row for each shard, as CSV. Raises DownloadError where nothing has been downloaded.
    """
    found = read_yields(train)
    tars = sorted(train.glob("*.tar"))
    if not tars:
        raise DownloadError(f"{train}: no shards; download the data first (snakemake data --config scale=…)")
    minimum = links.download.minimum_yield
    yield from lines_of(summary(found))
    yield f"  {'':>13}  {minimum:6.1%}  is the least (download.minimum_yield)"
    expected = expected_shards(train) or shards
    yield f"shards: {len(tars):,} of {expected:,}, {sum(tar.stat().st_size for tar in tars) / 1e9:,.1f} GB"
    yield from _outages(found, minimum)
    if table is not None:
        write_text_atomically(table, _rows(found))
        yield f"a row for each shard: {table}"
    step = max(1, len(tars) // max(sampled, 1))
    yield from _samples(tars[::step][:sampled], vocabulary)


def _outages(found: Sequence[Yield], minimum: float) -> Iterator[str]:
    flagged = outages(found, minimum)
    again = [one for one in flagged if one.fetches < FETCHES]
    twice = sum(one.fetches > 1 for one in found)
    yield (
        f"outages: {len(again)} shards to be fetched again; {twice} were; {len(flagged) - len(again)} stayed low after "
        f"{FETCHES} times"
    )
    for one in sorted(flagged, key=lambda one: one.rate)[:_WORST]:
        why = ", ".join(f"{count:,} {name}" for name, count in one.failures.most_common(3))
        yield f"  {one.number:05d}: {one.successes:,} of {one.count:,} ({one.rate:.1%}); {why}"


def _rows(found: Sequence[Yield]) -> str:
    kinds = [*TRANSIENT, *LASTING, OTHER]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["shard", "links", "images", "fetches", *kinds])
    for one in found:
        counts = [one.failures[kind] for kind in kinds]
        writer.writerow([one.number, one.count, one.successes, one.fetches, *counts])
    return text.getvalue()


def _samples(tars: Sequence[Path], vocabulary: Path) -> Iterator[str]:
    """Sizes of the images before they were resized, and lengths of captions."""
    sides: list[tuple[int, int]] = []
    captions: list[str] = []
    bad = 0
    for tar in tars:
        for sample in samples_of(tar, ("json", "txt")):
            try:
                captions += captions_of(sample)
                sides += _size(metadata_of(sample)) if "json" in sample.members else []
            except BadSample:
                bad += 1
    yield f"samples of {len(tars)} shards: {len(captions):,} captions, {bad} bad samples"
    if sides:
        yield f"  longer side in the web:  {_spread([max(side) for side in sides])} pixels"
        yield f"  shorter side in the web: {_spread([min(side) for side in sides])} pixels"
    if captions:
        yield f"  caption: {_spread([len(caption) for caption in captions])} characters"
        yield from _tokens(captions, vocabulary)


def _size(facts: dict[str, Any]) -> list[tuple[int, int]]:
    width, height = facts.get("original_width"), facts.get("original_height")
    return [(width, height)] if type(width) is int and type(height) is int else []


def _tokens(captions: list[str], vocabulary: Path) -> Iterator[str]:
    try:
        tokenizer = load_tokenizer(vocabulary)
    except VocabularyError as error:
        yield f"  caption in tokens: not known ({error})"
        return
    lengths = [1 + len(one.ids) for one in tokenizer.encode_batch(captions, add_special_tokens=False)]
    yield f"  caption: {_spread(lengths)} tokens, [CLS] included"
    for length in TEXT_LENGTHS:
        cut = sum(one > length for one in lengths)
        yield f"    cut at {length:>2} tokens: {cut / len(lengths):.1%}"


def _spread(values: list[int]) -> str:
    ordered = sorted(values)
    low, middle, high = (
        ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.05, 0.5, 0.95)
    )
    return f"median {middle:,} (5 % below {low:,}, 5 % above {high:,}; most {ordered[-1]:,})"
