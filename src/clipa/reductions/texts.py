"""Text tokens (§3.3): which word pieces of a caption the text encoder sees in pre-training.

A text of length N is [CLS] and N − 1 word pieces ([SEP] is not used), then zeros if the caption has fewer. A caption
that fits is never changed, and kept pieces stay in the caption's order.

| reduction  | kept pieces                      | what is cut           | the paper                                 |
|------------|----------------------------------|-----------------------|-------------------------------------------|
| truncation | the first N − 1                  | pieces at the end     | "selects the first N text tokens"         |
| random     | any N − 1, drawn                 | pieces anywhere       | "randomly drops a portion" of them        |
| block      | N − 1 in a row, start drawn      | pieces at both ends   | "randomly preserves consecutive" ones     |
| syntax     | those of nouns, then adjectives, | words, and the end of | "retaining nouns, followed by adjectives, |
|            | then other words                 | the last kept one     | and then other words"                     |

"Tokens" are word pieces throughout, so random, block and truncation may keep a part of a word. Syntax takes words by
their part of speech and, within each, from left to right; the last word that is taken is cut to its first pieces if
the whole of it does not fit. All starts of a block are equally likely, the last one included.

That is the recipe `paper`. The authors' released code (`clipa_jax/transforms/bert_ops.py`, commit 3800508) departs from
it; the recipe `released` does what that code does. It counts words, W of them: a caption of at most N − 1 words is
truncated, whatever the reduction, even if its pieces do not fit. Of longer ones:

| reduction  | what `released` keeps                                                                              |
|------------|----------------------------------------------------------------------------------------------------|
| truncation | the first N − 1 pieces: no difference                                                              |
| random     | N − 1 of the first W pieces, in the order in which they were drawn (the number of words is used as |
|            | a length, so whatever pieces a caption has beyond it are lost)                                     |
| block      | N − 1 in a row of the first W pieces, the last of which is never among them (start 0 … W − N)      |
| syntax     | N − 1 words: nouns, then adjectives, verbs, other words; and of their pieces, in the caption's     |
|            | order, the first N − 1. A word is what the vocabulary entry of its first piece is, taken alone     |

Shapes: B captions, padded to L pieces. A caption is described by `parts` (B, L), the part of speech of each piece's
word: NOUN, ADJECTIVE, OTHER, or PADDING after its end; for `released` that of each piece's vocabulary entry, which may
be VERB. `released` also reads `words` (B, L), the number of each piece's word: 0, 1, … without a gap, and any of 0 to
L − 1 after the end. Indices of padding come last and point to padding, so that gathering zero-padded ids gives
zero-padded ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipa.reductions import ReductionError, arrays_of, first
from clipa.study import TEXT_REDUCTIONS, rule_of

if TYPE_CHECKING:
    from clipa.reductions import Array

RECIPES = ("paper", "released")
NOUN, ADJECTIVE, VERB, OTHER, PADDING = range(5)  # in the order of syntax masking
PARTS_OF_TAGS = {"NOUN": NOUN, "PROPN": NOUN, "ADJ": ADJECTIVE}  # Universal POS; every other tag is OTHER
# The released code sorts by Penn tags NN*, JJ* and VB*. VB* is be, have and do as well, which Universal POS calls AUX;
# but so it calls the modals, Penn's MD, which are "other" (see clipa.data.annotation).
RELEASED_PARTS_OF_TAGS = {**PARTS_OF_TAGS, "VERB": VERB, "AUX": VERB}


def keep(
    reduction: str,
    parts: Array,
    text_tokens: int,
    noise: Array | None = None,
    recipe: str = "paper",
    words: Array | None = None,
) -> Array:
    """Indices (B, text_tokens − 1) of the word pieces that `reduction` keeps, ascending but for `released` random.

    `text_tokens` counts [CLS] (32, 16, 8, 6, 4); `noise` (B, L), uniform in [0, 1), is needed by random and block,
    `words` (B, L) by all of the recipe `released` but truncation. Raises ReductionError for an unknown recipe or
    reduction, missing noise or words, or L below text_tokens − 1.
    """
    kept = text_tokens - 1
    if recipe not in RECIPES:
        raise ReductionError(f"no text recipe {recipe!r} (known: {', '.join(RECIPES)})")
    if not 1 <= kept <= parts.shape[1]:
        raise ReductionError(
            f"{text_tokens} text tokens with [CLS]: captions must be padded to at least {max(1, kept)} word pieces, "
            f"not {parts.shape[1]}"
        )
    known = TEXT_REDUCTIONS.get(reduction)
    if known is None:
        raise ReductionError(f"no text reduction {reduction!r} (known: {', '.join(TEXT_REDUCTIONS)})")
    if known.noise and (noise is None or noise.shape != parts.shape):
        raise ReductionError(
            f"{reduction} masking needs a uniform number for each of {tuple(parts.shape)} pieces"
        )
    if recipe == "paper" or not known.released:
        return rule_of(known.rule)(parts, kept, noise)
    if words is None or words.shape != parts.shape:
        raise ReductionError(
            f"{reduction} masking as released needs the number of the word of each of {tuple(parts.shape)} pieces"
        )
    return rule_of(known.released)(parts, words, kept, noise)


def truncation(parts: Array, kept: int, noise: Array | None = None) -> Array:
    """Truncation: the first pieces."""
    return first((parts == PADDING) * 1, kept)


def random(parts: Array, kept: int, noise: Array) -> Array:
    """Random masking: the pieces with the smallest noise."""
    return first(arrays_of(parts).where(parts == PADDING, math.inf, noise), kept)


def block(parts: Array, kept: int, noise: Array) -> Array:
    """Block masking: consecutive pieces, one run of them; its start has the smallest noise of the possible ones."""
    arrays = arrays_of(parts)
    place = arrays.arange(parts.shape[1], device=parts.device)
    length = (parts != PADDING).sum(1)[:, None]
    possible = (place == 0) | (place <= length - kept)
    start = arrays.where(possible, noise, math.inf).argsort(stable=True)[:, :1]
    return start + place[:kept]


def syntax(parts: Array, kept: int, noise: Array | None = None) -> Array:
    """Syntax masking: nouns, then adjectives, then other words; of each kind the first ones."""
    return first(parts, kept)


def released_random(parts: Array, words: Array, kept: int, noise: Array) -> Array:
    """Random masking as released: of the first W pieces those with the smallest noise, in the order of the noise."""
    arrays = arrays_of(parts)
    place, count = _places(parts), _word_count(parts, words)
    drawn = arrays.where(place < count, noise, math.inf)
    return arrays.where(count > kept, drawn, place).argsort(stable=True)[:, :kept]


def released_block(parts: Array, words: Array, kept: int, noise: Array) -> Array:
    """Block masking as released: as `block`, of the first W − 1 pieces."""
    arrays = arrays_of(parts)
    place, last = _places(parts), _word_count(parts, words) - kept - 1
    # Where there are at most `kept` words, no start but the first is possible: that is the truncation.
    start = arrays.where((place == 0) | (place <= last), noise, math.inf).argsort(stable=True)[:, :1]
    return start + place[:kept]


def released_syntax(parts: Array, words: Array, kept: int, noise: Array | None = None) -> Array:
    """Syntax masking as released: whole words by the part of their first piece, then the first of their pieces."""
    arrays = arrays_of(parts)
    place, padded = _places(parts), parts == PADDING
    begins = ~padded & ((place == 0) | (words != arrays.roll(words, 1, 1)))
    order = arrays.where(begins, parts, PADDING).argsort(stable=True)
    # Of first pieces: whether their word is taken. That is all words where there are at most `kept`: the truncation.
    taken = order.argsort(stable=True) < kept
    beginnings = (~begins * 1).argsort(stable=True)  # where word 0 begins, word 1, …
    sample = arrays.arange(parts.shape[0], device=parts.device)[:, None]
    taken = taken[sample, beginnings[sample, words]]  # of all pieces
    return first(arrays.where(padded, 2, ~taken * 1), kept)


def _places(parts: Array) -> Array:
    """0 … L − 1."""
    return arrays_of(parts).arange(parts.shape[1], device=parts.device)


def _word_count(parts: Array, words: Array) -> Array:
    """W of each caption: (B, 1)."""
    arrays = arrays_of(parts)
    return arrays.amax(arrays.where(parts == PADDING, -1, words), 1)[:, None] + 1


def parts_of(pieces: Sequence[int], tags: Sequence[str], length: int, recipe: str = "paper") -> list[int]:
    """One caption's row of `parts`, padded to `length`, from the number of pieces and the tag of each word.

    Tags are Universal POS; for `released` those of the vocabulary entries that words begin with. Raises ReductionError
    if there are not as many tags as words, or too many pieces.
    """
    if len(pieces) != len(tags):
        raise ReductionError(f"{len(pieces)} words but {len(tags)} part-of-speech tags")
    known = RELEASED_PARTS_OF_TAGS if recipe == "released" else PARTS_OF_TAGS
    row = [known.get(tag, OTHER) for count, tag in zip(pieces, tags, strict=True) for _ in range(count)]
    if len(row) > length:
        raise ReductionError(f"a caption of {len(row)} word pieces does not fit in {length}")
    return row + [PADDING] * (length - len(row))


def keep_of_caption(
    reduction: str,
    pieces: Sequence[int],
    tags: Sequence[str],
    text_tokens: int,
    noise: Sequence[float] | None = None,
    recipe: str = "paper",
) -> list[int]:
    """The kept pieces of one caption: their indices in it, in the order of `keep`, at most text_tokens − 1, no padding.

    `pieces` and `tags`: as for `parts_of`; `noise`: at least one uniform number for each piece of the caption.
    """
    import numpy

    count = sum(pieces)
    length = max(count, text_tokens - 1)
    parts = numpy.array([parts_of(pieces, tags, length, recipe)])
    words = numpy.zeros((1, length), numpy.int64)
    written = [number for number in pieces if number]
    words[0, :count] = numpy.repeat(numpy.arange(len(written)), written)
    if noise is not None:
        if len(noise) < count:
            raise ReductionError(f"{len(noise)} uniform numbers for {count} word pieces")
        padded = numpy.zeros(length)
        padded[:count] = numpy.asarray(noise)[:count]
        noise = padded[None]
    kept = keep(reduction, parts, text_tokens, noise, recipe, words)[0]
    return [int(index) for index in kept if index < count]
