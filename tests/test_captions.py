"""Captions: what they say is true of the scene, their tags fit their words, and they are long enough to matter."""

import json
import re

import numpy
import pytest

from clipa.data import WorldParameters, captions, drawing, glyphs, pictograms
from clipa.data.annotation import words_of
from clipa.data.drawing import draw_train
from clipa.data.vocabulary import load_tokenizer, train_vocabulary

PARAMETERS = WorldParameters()
NAMES = glyphs.class_names(PARAMETERS.name)
UNIVERSAL = {
    "ADJ",
    "ADP",
    "ADV",
    "AUX",
    "CCONJ",
    "DET",
    "INTJ",
    "NOUN",
    "NUM",
    "PART",
    "PRON",
    "PROPN",
    "PUNCT",
    "SCONJ",
    "SYM",
    "VERB",
    "X",
}


@pytest.fixture(scope="module")
def scenes():
    drawn = [pictograms.layout(PARAMETERS, "train", index) for index in range(600)]
    return [(scene, pictograms.scene_captions(PARAMETERS, scene)) for scene in drawn]


def test_every_template_has_a_part_of_speech_for_every_word():
    pieces = [*captions.ONE_FIGURE, *captions.TWO_FIGURES, *captions.FILLER, *drawing.ORDER_TEMPLATES]
    for wordings in (*captions.RELATIONS.values(), *captions.POSITIONS.values()):
        pieces += wordings
    for piece in (*pieces, *pictograms.COLOURS, *pictograms.TEXTURES, "small", "large"):
        tags = {tag for word, tag, _ in captions._parse(piece) if not word.startswith("{")}
        assert tags <= UNIVERSAL, piece
    with pytest.raises(ValueError, match="no part of speech for 'zebra'"):
        captions._parse("a zebra here")


def test_filler_names_no_class_and_no_colour():
    said = set(re.findall("[a-z]+", " ".join(captions.FILLER)))
    assert not said & (
        {*glyphs.CLASSES["pictograms/v1"], *glyphs.CLASSES["pictograms/v2"]}
        | set(pictograms.COLOURS)
        | set(pictograms.TEXTURES)
    )


def test_tags_and_words_go_together(scenes):
    for _, drawn in scenes:
        for caption in drawn:
            assert len(caption.tags) == len(caption.words) == len(words_of(caption.text))
            assert tuple(words_of(caption.text)) == caption.words
            assert set(caption.tags) <= UNIVERSAL
            for word, tag in zip(caption.words, caption.tags, strict=True):
                assert (tag == "PUNCT") == (not word.isalnum()), (caption.text, word, tag)
                if word.lower() in NAMES:
                    assert tag == "NOUN"
                if word.lower() in pictograms.COLOURS:
                    assert tag == "ADJ"


def test_captions_name_each_figure_once_and_often_its_colour(scenes):
    coloured = []
    for scene, drawn in scenes:
        nouns = [NAMES[figure.label] for figure in scene.figures]
        for caption in drawn:
            words = [word.lower() for word in caption.words]
            assert [word for word in words if word in NAMES] in (nouns, nouns[::-1])
            colours = {pictograms.COLOUR_NAMES[figure.colour] for figure in scene.figures}
            assert set(words) & set(pictograms.COLOURS) <= colours
            coloured.append(colours <= set(words))
            assert set(words) & set(pictograms.TEXTURES) <= {pictograms.TEXTURES[scene.texture]}
    assert 0.3 < numpy.mean(coloured) < 0.6  # more, and small models learn colours instead of nouns


def test_captions_of_one_picture_come_from_different_templates(scenes):
    for scene, drawn in scenes:
        assert len(drawn) == PARAMETERS.captions_per_image
        assert len({caption.text.lower() for caption in drawn}) == len(drawn), scene


def test_relations_and_positions_said_are_true():
    facts = captions.Facts(
        (captions.Named("anchor", "red"), captions.Named("star", "blue")), "plain", relation="above"
    )
    generator = numpy.random.default_rng(0)
    for template in captions.TWO_FIGURES:
        for _ in range(4):
            text = captions.core(template, facts, generator).text
            if "{opposite}" in template:
                assert re.search(r"anchor and, (below|under) it, a star", text)
            else:
                assert "below" not in text and "under" not in text
                assert text.index("anchor") < text.index("star")
    facts = captions.Facts((captions.Named("umbrella", "orange"),), "wavy", position=("top", "right"))
    texts = {captions.core(template, facts, generator).text for template in captions.ONE_FIGURE}
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]|left|bottom", text) for text in texts), texts


def test_letter_case_varies_but_not_the_words(scenes):
    texts = [caption.text for _, drawn in scenes for caption in drawn]
    assert 0.05 < numpy.mean([text.isupper() for text in texts]) < 0.25
    assert 0.3 < numpy.mean([text.islower() for text in texts]) < 0.7


def test_captions_are_long_enough_for_short_texts_to_cost_something(tmp_path):
    parameters = WorldParameters(training_images=1500, images_per_shard=500)
    draw_train(parameters, tmp_path, 1)
    manifest = json.loads(train_vocabulary(tmp_path, 700).read_text())
    assert manifest
    tokenizer = load_tokenizer(tmp_path / "vocabulary")
    scenes = [pictograms.layout(parameters, "train", index) for index in range(1500)]
    lengths, places = [], []
    for scene in scenes:
        texts = [caption.text for caption in pictograms.scene_captions(parameters, scene)]
        for encoding, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
            lengths.append(len(encoding.ids))
            if scene.label is not None:
                start = re.search(rf"\b{NAMES[scene.label]}\b", text.lower()).start()
                places.append(next(i for i, (a, b) in enumerate(encoding.offsets) if a <= start < b))
    assert tokenizer.encode("anchor").tokens == ["[CLS]", "anchor"]
    assert numpy.median(lengths) >= 14
    assert numpy.percentile(lengths, 90) >= 26
    assert numpy.mean(numpy.array(lengths) > 32) < 0.05
    # Truncation to 16, 8, 6 and 4 tokens loses the class noun more and more often.
    kept = [numpy.mean(numpy.array(places) < length) for length in (4, 6, 8, 16, 32)]
    assert kept[0] < 0.25 and 0.35 < kept[2] < 0.6 and 0.8 < kept[3] < 0.95 and kept[4] > 0.995
