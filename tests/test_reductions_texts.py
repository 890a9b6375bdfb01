"""Which word pieces each text reduction keeps: length, order, priority, chance, and the same on NumPy and torch."""

import itertools

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipa.reductions import ReductionError
from clipa.reductions.texts import ADJECTIVE, NOUN, OTHER, PADDING, keep, keep_of_caption, parts_of

REDUCTIONS = ("truncation", "random", "block", "syntax")
LENGTHS = (32, 16, 8, 6, 4)  # Table 12
TAGS = ("NOUN", "PROPN", "ADJ", "VERB", "DET", "ADP", "NUM", "PUNCT", "X")

words = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(TAGS)), max_size=25)
lengths = st.sampled_from(LENGTHS)
seeds = st.integers(0, 2**32 - 1)


def uniform(seed, *shape):
    return numpy.random.default_rng(seed).random(shape, dtype=numpy.float32)


def kept_of(reduction, caption, text_tokens, seed=0):
    counts, tags = [count for count, _ in caption], [tag for _, tag in caption]
    return keep_of_caption(reduction, counts, tags, text_tokens, uniform(seed, sum(counts)))


def batch_of(captions, width):
    rows = [
        parts_of([count for count, _ in caption], [tag for _, tag in caption], width) for caption in captions
    ]
    return numpy.array(rows)


@given(st.sampled_from(REDUCTIONS), words, lengths, seeds)
def test_as_many_pieces_as_fit_are_kept_in_the_captions_order(reduction, caption, text_tokens, seed):
    kept = kept_of(reduction, caption, text_tokens, seed)
    pieces = sum(count for count, _ in caption)
    assert len(kept) == min(pieces, text_tokens - 1)
    assert kept == sorted(set(kept)) and all(0 <= index < pieces for index in kept)


@given(st.sampled_from(REDUCTIONS), words, lengths, seeds)
def test_captions_that_fit_are_not_changed(reduction, caption, text_tokens, seed):
    pieces = sum(count for count, _ in caption)
    if pieces <= text_tokens - 1:
        assert kept_of(reduction, caption, text_tokens, seed) == list(range(pieces))


@given(st.sampled_from(REDUCTIONS), st.lists(words, min_size=1, max_size=6), lengths, seeds, st.booleans())
def test_batches_torch_and_single_captions_agree(reduction, captions, text_tokens, seed, coarse):
    width = max([text_tokens - 1, *(sum(count for count, _ in caption) for caption in captions)])
    parts, noise = batch_of(captions, width), uniform(seed, len(captions), width)
    if coarse:
        noise = numpy.floor(noise * 4) / 4  # many equal numbers: the choice among them must not differ either
    found = keep(reduction, parts, text_tokens, noise)
    assert found.shape == (len(captions), text_tokens - 1) and found.dtype == numpy.int64
    on_torch = keep(reduction, torch.from_numpy(parts), text_tokens, torch.from_numpy(noise))
    assert on_torch.dtype == torch.int64 and (on_torch.numpy() == found).all()
    for caption, row, numbers in zip(captions, found, noise, strict=True):
        counts, tags = [count for count, _ in caption], [tag for _, tag in caption]
        alone = keep_of_caption(reduction, counts, tags, text_tokens, numbers)
        assert alone == [index for index in row.tolist() if index < sum(counts)]
        # What is left of the row points to padding: ids that are zero there stay zero.
        assert row[: len(alone)].tolist() == alone and (row[len(alone) :] >= sum(counts)).all()


@given(words, lengths)
def test_truncation_keeps_the_beginning(caption, text_tokens):
    kept = kept_of("truncation", caption, text_tokens)
    assert kept == list(range(len(kept)))


@given(words, lengths, seeds)
def test_random_keeps_the_smallest_noise(caption, text_tokens, seed):
    kept = kept_of("random", caption, text_tokens, seed)
    noise = uniform(seed, sum(count for count, _ in caption))
    if len(kept) < len(noise):
        assert noise[kept].max() <= numpy.delete(noise, kept).min()


@given(words, lengths, seeds)
def test_block_keeps_consecutive_pieces(caption, text_tokens, seed):
    kept = kept_of("block", caption, text_tokens, seed)
    assert not kept or kept == list(range(kept[0], kept[0] + len(kept)))


def test_all_starts_of_a_block_are_equally_likely_the_last_one_too():
    parts = numpy.array([parts_of([1] * 13, ["NOUN"] * 13, 20)] * 8000)
    starts = keep("block", parts, 8, uniform(0, 8000, 20))[:, 0]
    places, counts = numpy.unique(starts, return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 4, 5, 6]  # 13 pieces, 7 kept
    assert numpy.abs(counts / (8000 / 7) - 1).max() < 0.1


def test_random_keeps_every_piece_equally_often():
    parts = numpy.array([parts_of([1] * 13, ["NOUN"] * 13, 20)] * 8000)
    kept = keep("random", parts, 8, uniform(0, 8000, 20))
    assert numpy.abs(numpy.bincount(kept.ravel(), minlength=13) / 8000 - 7 / 13).max() < 0.03
    assert len({tuple(row) for row in kept.tolist()}) > 1000  # drawn for each sample


@given(words, lengths)
def test_syntax_keeps_nouns_then_adjectives_then_others(caption, text_tokens):
    """Against the rule as the paper words it: take words in that order until the length is reached."""
    starts = numpy.cumsum([0, *(count for count, _ in caption)]).tolist()
    priority = {"NOUN": 0, "PROPN": 0, "ADJ": 1}
    order = sorted(range(len(caption)), key=lambda index: priority.get(caption[index][1], 2))
    taken = []
    for index in order:
        taken += range(starts[index], starts[index] + caption[index][0])
    assert kept_of("syntax", caption, text_tokens) == sorted(taken[: text_tokens - 1])


def test_syntax_on_a_caption():
    caption = [
        ("my", "PRON", 1),
        ("fluffy", "ADJ", 1),
        ("kitten", "NOUN", 1),
        ("sleeps", "VERB", 1),
        ("on", "ADP", 1),
        ("windowsills", "NOUN", 3),
        ("in", "ADP", 1),
        ("lisbon", "PROPN", 1),
    ]
    counts, tags = [count for *_, count in caption], [tag for _, tag, _ in caption]
    assert keep_of_caption("syntax", counts, tags, 4) == [2, 5, 6]  # kitten, and what fits of windowsills
    assert keep_of_caption("syntax", counts, tags, 6) == [2, 5, 6, 7, 9]  # all nouns
    assert keep_of_caption("syntax", counts, tags, 8) == [
        0,
        1,
        2,
        5,
        6,
        7,
        9,
    ]  # the adjective, then the first other


@given(st.sampled_from(REDUCTIONS), words, seeds)
def test_shorter_texts_are_parts_of_longer_ones(reduction, caption, seed):
    """With the same noise, but for blocks: they start elsewhere when they are longer."""
    if reduction != "block":
        kept = [set(kept_of(reduction, caption, length, seed)) for length in LENGTHS]
        assert all(shorter <= longer for longer, shorter in itertools.pairwise(kept))


def test_parts_of_a_caption():
    row = parts_of([1, 2, 1, 1], ["DET", "ADJ", "PROPN", "VERB"], 7)
    assert row == [OTHER, ADJECTIVE, ADJECTIVE, NOUN, OTHER, PADDING, PADDING]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: parts_of([1, 1], ["NOUN"], 8), "2 words but 1"),
        (lambda: parts_of([3, 3], ["NOUN", "NOUN"], 5), "6 word pieces does not fit in 5"),
        (lambda: keep("syntax", numpy.zeros((1, 6), int), 8), "padded to at least 7"),
        (lambda: keep("syntax", numpy.zeros((1, 6), int), 1), "1 text tokens"),
        (lambda: keep("random", numpy.zeros((1, 9), int), 4), "needs a uniform number"),
        (lambda: keep("block", numpy.zeros((2, 9), int), 4, uniform(0, 1, 9)), "needs a uniform number"),
        (lambda: keep("stopwords", numpy.zeros((1, 9), int), 4), "truncation, random, block, syntax"),
        (lambda: keep_of_caption("random", [2, 2], ["NOUN", "ADJ"], 4, [0.5]), "1 uniform numbers for 4"),
    ],
)
def test_what_cannot_be_asked(call, says):
    with pytest.raises(ReductionError, match=says):
        call()


def test_the_rules_run_on_a_device_without_a_copy_to_the_host():
    """On the meta device there are no numbers: whatever would read one fails."""
    parts, noise = torch.empty((4, 40), dtype=torch.int64, device="meta"), torch.empty((4, 40), device="meta")
    for reduction in REDUCTIONS:
        assert keep(reduction, parts, 8, noise).shape == (4, 7)
