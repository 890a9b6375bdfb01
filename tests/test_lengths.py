"""Texts are cut to their batch exactly where the mask allows it; where it does not every token is read."""

from dataclasses import replace

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipa.evaluate.candidates import Candidate, Normal
from clipa.evaluate.lengths import pooled_at
from clipa.protocols import Pixels
from loopback_hub import TOWERS

TOLERANCE = 1.2e-7
"""Of an entry beside its embedding's length. Towers compute in float64, where sums of other matrix sizes agree to more
than that; what is left is the rounding to float32 at the end. In float32 some 3e-6 were seen."""
WORDS = ("a", "photo", "of", "the", "zebra", "crossing", "!", "unbelievably", "1987")


def candidate(custom: bool = False, **text) -> Candidate:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    values = TOWERS | {"text_cfg": TOWERS["text_cfg"] | {"layers": 2, **text}}
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**values).double().eval()
    with torch.no_grad():  # initial weights leave what is pooled almost the same for all texts
        for parameter in model.parameters():
            parameter.mul_(3.0)
    tokenizer = open_clip.SimpleTokenizer(context_length=values["text_cfg"]["context_length"])
    pixels = Pixels(48, "shorter", 48, "bicubic")
    return Candidate(model, tokenizer, pixels, Normal((0.5,) * 3, (0.5,) * 3), "cpu", 4)


def whole(one: Candidate, texts: list[str]) -> torch.Tensor:
    """As open_clip encodes them: padded to the context length."""
    with torch.inference_mode():
        return one.model.encode_text(one.tokenizer(texts)).float()


def rows_seen(one: Candidate) -> list[int]:
    """Lengths of the batches that the tower's first block gets from now on."""
    tower = getattr(one.model, "text", one.model)
    seen: list[int] = []
    tower.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    return seen


CAUSAL = [candidate(), candidate(custom=True), candidate(pool_type="eos", eos_id=49407)]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), min_size=1, max_size=9)


@pytest.mark.parametrize("one", CAUSAL, ids=["CLIP", "CustomTextCLIP", "eos"])
@settings(max_examples=6, deadline=None)
@given(texts=TEXTS)
def test_cut_texts_have_the_embeddings_of_padded_ones(one, texts):
    """Of any lengths and in any order, the empty text and ones longer than the context among them."""
    found, expected = replace(one, texts={}).texts_of(texts), whole(one, texts)
    scale = expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=TOLERANCE)


def test_short_texts_are_cut_and_share_batches_by_length():
    one = candidate()
    seen = rows_seen(one)
    one.texts_of(["a zebra", "a photo of the zebra crossing " * 3, "the zebra", "of zebra", "photo", "a"])
    assert seen == [4, 20]  # four short ones of two words with both ends; then the long one with the other


@pytest.mark.parametrize(
    "text",
    [
        {"no_causal_mask": True, "pool_type": "last"},
        {"pool_type": "last"},
        {"no_causal_mask": True, "pool_type": "argmax"},
        {"embed_cls": True},
    ],
    ids=["CLIPA's", "pooled at the end", "sees what follows", "CoCa's"],
)
def test_a_tower_that_reads_its_padding_gets_texts_whole(text):
    one = candidate(custom="embed_cls" in text, **text)
    texts = ["a zebra", "the zebra", "a photo of the zebra crossing"]
    assert pooled_at(one.model, one.tokenizer(texts)) is None
    seen = rows_seen(one)
    assert torch.equal(one.texts_of(texts), whole(one, texts))
    assert set(seen) == {40 + ("embed_cls" in text)}


def test_a_mask_that_shows_one_later_position_is_not_causal():
    one = candidate()
    one.model.attn_mask[3, 4] = 0
    assert pooled_at(one.model, one.tokenizer(["a zebra"])) is None
