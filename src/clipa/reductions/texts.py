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

The released code departs from this text (it reduces only captions of more words than N − 1, does not restore the order
after random masking, never keeps a caption's last piece in a block, and ranks verbs between adjectives and the rest);
the rules here follow the text.

Shapes: B captions, padded to L pieces. A caption is described by `parts` (B, L), the part of speech of each piece's
word: NOUN, ADJECTIVE, OTHER, or PADDING after its end. Indices of padding come last and point to padding, so that
gathering zero-padded ids gives zero-padded ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipa.reductions import ReductionError, arrays_of, first

if TYPE_CHECKING:
    from clipa.reductions import Array

NOUN, ADJECTIVE, OTHER, PADDING = range(4)  # in the order of syntax masking
PARTS_OF_TAGS = {"NOUN": NOUN, "PROPN": NOUN, "ADJ": ADJECTIVE}  # Universal POS; every other tag is OTHER


def keep(reduction: str, parts: Array, text_tokens: int, noise: Array | None = None) -> Array:
    """Indices (B, text_tokens − 1) of the word pieces that `reduction` keeps, ascending.

    `text_tokens` counts [CLS] (32, 16, 8, 6, 4); `noise` (B, L), uniform in [0, 1), is needed by random and block.
    Raises ReductionError for an unknown reduction, missing noise, or L below text_tokens − 1.
    """
    kept = text_tokens - 1
    if not 1 <= kept <= parts.shape[1]:
        raise ReductionError(
            f"{text_tokens} text tokens with [CLS]: captions must be padded to at least {max(1, kept)} word pieces, "
            f"not {parts.shape[1]}"
        )
    if reduction in ("random", "block"):
        if noise is None or noise.shape != parts.shape:
            raise ReductionError(
                f"{reduction} masking needs a uniform number for each of {tuple(parts.shape)} pieces"
            )
        return random(parts, kept, noise) if reduction == "random" else block(parts, kept, noise)
    if reduction == "truncation":
        return truncation(parts, kept)
    if reduction == "syntax":
        return syntax(parts, kept)
    raise ReductionError(f"no text reduction {reduction!r} (known: truncation, random, block, syntax)")


def truncation(parts: Array, kept: int) -> Array:
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


def syntax(parts: Array, kept: int) -> Array:
    """Syntax masking: nouns, then adjectives, then other words; of each kind the first ones."""
    return first(parts, kept)


def parts_of(pieces: Sequence[int], tags: Sequence[str], length: int) -> list[int]:
    """One caption's row of `parts`, padded to `length`, from the number of pieces and the tag of each word.

    Tags are Universal POS. Raises ReductionError if there are not as many tags as words, or too many pieces.
    """
    if len(pieces) != len(tags):
        raise ReductionError(f"{len(pieces)} words but {len(tags)} part-of-speech tags")
    row = [
        PARTS_OF_TAGS.get(tag, OTHER) for count, tag in zip(pieces, tags, strict=True) for _ in range(count)
    ]
    if len(row) > length:
        raise ReductionError(f"a caption of {len(row)} word pieces does not fit in {length}")
    return row + [PADDING] * (length - len(row))


def keep_of_caption(
    reduction: str,
    pieces: Sequence[int],
    tags: Sequence[str],
    text_tokens: int,
    noise: Sequence[float] | None = None,
) -> list[int]:
    """The kept pieces of one caption: their indices in it, ascending, at most text_tokens − 1, without padding.

    `pieces` and `tags`: as for `parts_of`; `noise`: at least one uniform number for each piece of the caption.
    """
    import numpy

    count = sum(pieces)
    length = max(count, text_tokens - 1)
    parts = numpy.array([parts_of(pieces, tags, length)])
    if noise is not None:
        if len(noise) < count:
            raise ReductionError(f"{len(noise)} uniform numbers for {count} word pieces")
        padded = numpy.zeros(length)
        padded[:count] = numpy.asarray(noise)[:count]
        noise = padded[None]
    return [int(index) for index in keep(reduction, parts, text_tokens, noise)[0] if index < count]
