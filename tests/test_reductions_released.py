"""The text reductions of the recipe `released`: each departure of the authors' code from their text, drawn and by hand.

M = text_tokens − 1 pieces fit beside [CLS]. A caption is a list of (number of pieces, tag of its first piece's entry).
"""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipa.reductions import ReductionError
from clipa.reductions.texts import ADJECTIVE, NOUN, OTHER, PADDING, VERB, keep, keep_of_caption, parts_of

REDUCTIONS = ("truncation", "random", "block", "syntax")
TAGS = ("NOUN", "PROPN", "ADJ", "VERB", "AUX", "DET", "ADP", "X")
CLASSES = {"NOUN": 1, "PROPN": 1, "ADJ": 2, "VERB": 3, "AUX": 3}  # else 4, as the released code numbers them

captions = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(TAGS)), max_size=25)
lengths = st.sampled_from((32, 16, 8, 6, 4, 2))
seeds = st.integers(0, 2**32 - 1)


def uniform(seed, *shape):
    return numpy.random.default_rng(seed).random(shape, dtype=numpy.float32)


def kept_of(reduction, caption, text_tokens, noise=None, recipe="released"):
    counts, tags = [count for count, _ in caption], [tag for _, tag in caption]
    if noise is None:
        noise = uniform(0, sum(counts))
    return keep_of_caption(reduction, counts, tags, text_tokens, noise, recipe)


def batch_of(several, width):
    parts = [
        parts_of([n for n, _ in caption], [tag for _, tag in caption], width, "released")
        for caption in several
    ]
    words = numpy.zeros((len(several), width), numpy.int64)
    for row, caption in zip(words, several, strict=True):
        numbers = [number for number, (count, _) in enumerate(caption) for _ in range(count)]
        row[: len(numbers)] = numbers
    return numpy.array(parts), words


def as_released(reduction, caption, text_tokens, noise):
    """The released procedure told with lists: words of pieces, sorted and cut; the noise stands for its draws."""
    fit, pieces = text_tokens - 1, iter(range(1000))
    words = [[next(pieces) for _ in range(count)] for count, _ in caption]
    flat = [piece for word in words for piece in word]
    if len(words) <= fit or reduction == "truncation":
        return flat[:fit]
    if reduction == "random":
        return sorted(flat[: len(words)], key=lambda piece: noise[piece])[:fit]
    if reduction == "block":
        start = min(range(len(words) - text_tokens + 1), key=lambda place: noise[place])
        return flat[: len(words)][start : start + fit]
    ranked = sorted(range(len(words)), key=lambda number: CLASSES.get(caption[number][1], 4))
    return [piece for number in sorted(ranked[:fit]) for piece in words[number]][:fit]


@given(st.sampled_from(REDUCTIONS), captions, lengths, seeds)
def test_pieces_are_those_of_the_released_procedure(reduction, caption, text_tokens, seed):
    noise = uniform(seed, sum(count for count, _ in caption))
    found = kept_of(reduction, caption, text_tokens, noise)
    assert found == as_released(reduction, caption, text_tokens, noise)
    assert len(found) == len(set(found)) == min(len(noise), text_tokens - 1)
    assert found == kept_of(reduction, caption, text_tokens, noise)


@given(st.sampled_from(REDUCTIONS), captions, lengths, seeds)
def test_captions_of_few_words_are_truncated(reduction, caption, text_tokens, seed):
    caption = caption[: text_tokens - 1]
    noise = uniform(seed, sum(count for count, _ in caption))
    found = kept_of(reduction, caption, text_tokens, noise)
    assert found == list(range(min(len(noise), text_tokens - 1)))


@given(st.sampled_from(REDUCTIONS), st.lists(captions, min_size=1, max_size=6), lengths, seeds, st.booleans())
def test_batches_torch_and_single_captions_agree(reduction, several, text_tokens, seed, coarse):
    width = max([text_tokens - 1, *(sum(count for count, _ in caption) for caption in several)])
    (parts, words), noise = batch_of(several, width), uniform(seed, len(several), width)
    if coarse:
        noise = numpy.floor(noise * 4) / 4  # many equal numbers: the choice among them must not differ either
    found = keep(reduction, parts, text_tokens, noise, "released", words)
    assert found.shape == (len(several), text_tokens - 1) and found.dtype == numpy.int64
    tensors = [torch.from_numpy(array) for array in (parts, noise, words)]
    on_torch = keep(reduction, tensors[0], text_tokens, tensors[1], "released", tensors[2])
    assert on_torch.dtype == torch.int64 and (on_torch.numpy() == found).all()
    # Numbers after the end mean nothing: a loader may go on counting there.
    counting = numpy.where(parts == PADDING, numpy.arange(width), words)
    assert (keep(reduction, parts, text_tokens, noise, "released", counting) == found).all()
    for caption, row, numbers in zip(several, found, noise, strict=True):
        alone, pieces = kept_of(reduction, caption, text_tokens, numbers), sum(count for count, _ in caption)
        assert row[: len(alone)].tolist() == alone and (row[len(alone) :] >= pieces).all()


# ------------------------------------------------------------------------------------------------- departures, by hand


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_seven_words_in_twelve_pieces_are_truncated_to_seven_pieces(reduction):
    """Words are counted, not pieces; the noise and the tags would choose otherwise if they were asked."""
    caption = [(2, "DET"), (2, "DET"), (2, "DET"), (2, "DET"), (2, "ADJ"), (1, "NOUN"), (1, "NOUN")]
    noise = numpy.linspace(0.9, 0.1, 12)
    assert kept_of(reduction, caption, 8, noise) == [0, 1, 2, 3, 4, 5, 6]
    assert reduction == "truncation" or kept_of(reduction, caption, 8, noise, "paper") != list(range(7))


def test_random_does_not_restore_the_order():
    noise = [0.5, 0.1, 0.9, 0.4, 0.2]
    assert kept_of("random", [(1, "NOUN")] * 5, 4, noise) == [1, 4, 3]
    assert kept_of("random", [(1, "NOUN")] * 5, 4, noise, "paper") == [1, 3, 4]


def test_random_loses_the_pieces_beyond_the_number_of_words():
    """Five words in eight pieces: the last three pieces are never drawn, however small their noise."""
    caption = [(3, "NOUN"), (1, "ADJ"), (2, "NOUN"), (1, "DET"), (1, "NOUN")]
    assert kept_of("random", caption, 4, [0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1, 0.0]) == [4, 3, 2]


def test_random_draws_every_piece_and_every_order_equally_often():
    caption = [(2, "NOUN"), *[(1, "NOUN")] * 3]  # four words, five pieces
    parts, words = batch_of([caption] * 12000, 6)
    found = keep("random", parts, 3, uniform(1, 12000, 6), "released", words)
    drawn, counts = numpy.unique(found, axis=0, return_counts=True)
    assert sorted(map(tuple, drawn.tolist())) == [(i, j) for i in range(4) for j in range(4) if i != j]
    assert numpy.abs(counts / 1000 - 1).max() < 0.15


def test_starts_of_a_block_are_equally_likely_but_the_last_piece_is_never_kept():
    """Thirteen words of one piece, seven kept: starts 0 … 5 (the paper's text has 6, too), so pieces 0 … 11."""
    parts, words = batch_of([[(1, "NOUN")] * 13] * 12000, 20)
    found = keep("block", parts, 8, uniform(0, 12000, 20), "released", words)
    starts, counts = numpy.unique(found[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3, 4, 5] and found.max() == 11
    assert numpy.abs(counts / 2000 - 1).max() < 0.1
    assert (numpy.diff(found, axis=1) == 1).all()


def test_a_block_of_one_word_too_many_has_one_start():
    for seed in range(20):
        assert kept_of("block", [(1, "NOUN")] * 8, 8, uniform(seed, 8)) == list(range(7))


def test_a_block_lies_in_the_first_pieces_as_many_as_there_are_words():
    """Six words in twelve pieces, three kept: starts 0 … 2, so nothing from piece 5 on, where the noise is smallest."""
    caption = [(2, "NOUN")] * 6
    assert kept_of("block", caption, 4, numpy.linspace(0.9, 0.1, 12)) == [2, 3, 4]
    assert kept_of("block", caption, 4, numpy.linspace(0.9, 0.1, 12), "paper") == [9, 10, 11]


def test_syntax_ranks_verbs_between_adjectives_and_others():
    caption = [(1, "DET"), (1, "VERB"), (1, "ADP"), (1, "ADJ"), (1, "NOUN"), (1, "AUX")]
    ranked = [kept_of("syntax", caption, text_tokens) for text_tokens in (2, 3, 4, 5, 6)]
    assert ranked == [[4], [3, 4], [1, 3, 4], [1, 3, 4, 5], [0, 1, 3, 4, 5]]
    assert kept_of("syntax", caption, 4, recipe="paper") == [0, 3, 4]  # where a verb is an "other word"


def test_syntax_goes_by_the_first_piece_of_each_word():
    """What the other pieces' entries are does not matter, of the word itself or of its neighbours."""
    parts = numpy.array([[OTHER, NOUN, ADJECTIVE, OTHER, VERB, NOUN, NOUN, PADDING]])
    words = numpy.array([[0, 0, 1, 1, 2, 3, 3, 0]])
    # An "other" word with a noun inside; an adjective; a verb; a noun: the last three are taken, three pieces of them.
    assert keep("syntax", parts, 4, recipe="released", words=words).tolist() == [[2, 3, 4]]
    assert keep("syntax", parts, 3, recipe="released", words=words).tolist() == [[2, 3]]
    assert keep("syntax", parts, 2, recipe="released", words=words).tolist() == [[5]]


def test_syntax_chooses_words_and_then_cuts_off_a_late_one():
    """Three words are taken, all nouns; their pieces are cut to three, and the last noun is gone."""
    caption = [(1, "DET"), (2, "NOUN"), (1, "VERB"), (1, "NOUN"), (1, "NOUN")]
    assert kept_of("syntax", caption, 4) == [1, 2, 4]
    late = [(1, "ADJ"), (1, "DET"), (2, "ADJ"), (1, "DET"), (1, "NOUN")]
    assert kept_of("syntax", late, 4) == [0, 2, 3]  # the only noun was taken first
    assert kept_of("syntax", late, 4, recipe="paper") == [0, 2, 5]


def test_truncation_is_the_same_in_both_recipes():
    caption = [(2, "DET"), (2, "NOUN"), *[(1, "NOUN")] * 9]
    for recipe in ("paper", "released"):
        assert kept_of("truncation", caption, 8, recipe=recipe) == list(range(7))


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda parts: keep("random", parts, 4, recipe="printed"), "'printed' .known: paper, released"),
        (lambda parts: keep("syntax", parts, 4, recipe="released"), "number of the word of each of .1, 9."),
        (lambda parts: keep("syntax", parts, 4, None, "released", parts[:, 1:]), "number of the word"),
        (lambda parts: keep("random", parts, 4, recipe="released", words=parts), "needs a uniform number"),
        (lambda parts: keep("stopwords", parts, 4, None, "released", parts), "truncation, random, block"),
        (lambda parts: keep("syntax", parts, 12, None, "released", parts), "padded to at least 11"),
        (lambda parts: keep_of_caption("syntax", [1], ["NOUN"], 4, None, "printed"), "'printed'"),
    ],
)
def test_what_cannot_be_asked(call, says):
    with pytest.raises(ReductionError, match=says):
        call(numpy.zeros((1, 9), int))


def test_the_rules_run_on_a_device_without_a_copy_to_the_host():
    """On the meta device there are no numbers: whatever would read one fails."""
    parts, words = (torch.empty((4, 40), dtype=torch.int64, device="meta") for _ in range(2))
    noise = torch.empty((4, 40), device="meta")
    for reduction in REDUCTIONS:
        assert keep(reduction, parts, 8, noise, "released", words).shape == (4, 7)
