"""ARO's four test sets, made from small files of the same form: items, groups, restarts, downloads, scores."""

import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy
import pytest
import spacy
import torch
from PIL import Image

from clipa.cli import main
from clipa.data import aro
from clipa.data.annotation import AnnotationError, words_of
from clipa.data.aro import clean, convert, excluded_relations
from clipa.data.captions import reordered, wrong_orders
from clipa.downloads import DownloadError
from clipa.evaluate.candidates import Candidate, Normal
from clipa.evaluate.tasks import caption_selection
from clipa.evaluate.testsets import open_test_set
from clipa.protocols import Pixels
from clipa.records import encode_groups, encode_outcomes, value_and_error

NOUNS = ["man", "men", "dog", "park", "ball", "tree", "paris", "t", "shirt", "frisbee"]
ADJECTIVES = ["small", "brown", "green", "old"]
CAPTIONS = (
    "A man in an old, green T-shirt throws a small ball to the brown dog.",
    'The "old" dog (brown) sits under a tree in Paris!',
    "two men throw: a frisbee",
    "Dog.",
    "a dog and " * 20,
)
LEFT_OUT = ["next to", "near"]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> str:
    """A spaCy pipeline that knows the nouns and adjectives above."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for tag, words in (("NOUN", [word for word in NOUNS if word != "paris"]), ("ADJ", ADJECTIVES)):
        ruler.add([[{"LOWER": {"IN": words}}]], {"POS": tag})
    ruler.add([[{"LOWER": "paris"}]], {"POS": "PROPN"})
    folder = tmp_path_factory.mktemp("tagger")
    nlp.to_disk(folder)
    return str(folder)


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    pixels = numpy.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=numpy.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=95)
    return written.getvalue()


def row(index: int, **own) -> dict:
    """A row as ARO's Visual Genome listings have them."""
    return {
        "image_id": str(index),
        "image_path": f"{index % 3}.jpg",
        "bbox_x": index % 5,
        "bbox_y": 3,
        "bbox_w": 20 + index,
        "bbox_h": 11,
        "true_caption": f"the dog {index} is above the Tree",
        "false_caption": f"the Tree is above the dog {index}",
        **own,
    }


@pytest.fixture
def sources(tmp_path) -> Path:
    """What a person has placed and what is downloaded, small."""
    folder = tmp_path / "aro"
    for index in range(3):
        for name in (f"images/{index}.jpg", f"flickr30k-images/{index}.jpg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(picture(index))
    with zipfile.ZipFile(folder / "val2014.zip", "w") as archive:
        for index in range(2):
            archive.writestr(f"val2014/{index}.jpg", picture(10 + index))
    relations = ["above", "next to", "riding", "above", "near", "above", "riding"]
    attributes = [["old", "green"]] * 3 + [["small", "brown"]] * 2
    listings = {
        "visual_genome_relation.json": [row(i, relation_name=name) for i, name in enumerate(relations)],
        "visual_genome_attribution.json": [row(i, attributes=pair) for i, pair in enumerate(attributes)],
        "coco_karpathy_test.json": [
            {"image": "val2014/0.jpg", "caption": list(CAPTIONS[:3])},
            {"image": "val2014/1.jpg", "caption": list(CAPTIONS[3:])},
        ],
        "flickr30k_test.json": [
            {"image": f"flickr30k-images/{i}.jpg", "caption": list(CAPTIONS)} for i in range(2)
        ],
        aro.NOTEBOOK: {
            "cells": [
                {"cell_type": "markdown", "source": ["symmetric = ['above']"]},
                {"cell_type": "code", "source": ["%matplotlib inline\n"]},
                {"cell_type": "code", "source": ["x = 1\n", f"symmetric = {LEFT_OUT!r}\n", "print(x)"]},
            ]
        },
    }
    for name, content in listings.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def items(home: Path) -> list[tuple[str, Image.Image, dict]]:
    """(name of the picture, picture, facts) of every item of a converted set."""
    found = []
    for index in range(int((home / "test/nshards.txt").read_text())):
        with tarfile.open(home / "test" / f"{index}.tar") as archive:
            files = [(member.name, archive.extractfile(member).read()) for member in archive]
        for (name, content), (said_name, said) in zip(files[::2], files[1::2], strict=True):
            assert Path(name).stem == Path(said_name).stem and said_name.endswith(".json")
            found.append((name, Image.open(io.BytesIO(content)), json.loads(said)))
    return found


def test_crops_are_exact_and_captions_and_groups_are_kept(sources, tmp_path, tagger, capsys):
    home = tmp_path / "test" / "aro-vg_relation"
    manifest = json.loads(convert("vg_relation", sources, home, tagger, items_per_shard=3).read_text())
    assert (manifest["name"], manifest["n"], len(manifest["shards"])) == ("aro-vg_relation", 7, 3)
    assert manifest["files"] == ["dataset_type.txt"]
    assert "aro-vg_relation: 7 items, ARO has 23937" in capsys.readouterr().err
    rows = json.loads((sources / "visual_genome_relation.json").read_text())
    for one, (name, crop, facts) in zip(rows, items(home), strict=True):
        whole = numpy.asarray(Image.open(sources / "images" / one["image_path"]))
        left, top = one["bbox_x"], one["bbox_y"]
        expected = whole[top : top + one["bbox_h"], left : left + one["bbox_w"]]
        assert name.endswith(".png") and numpy.array_equal(numpy.asarray(crop), expected)
        assert facts["captions"] == [one["true_caption"], one["false_caption"]]
        assert facts["kind"] == "relation"
        assert facts.get("group") == (None if one["relation_name"] in LEFT_OUT else one["relation_name"])


def test_pairs_of_attributes_are_groups(sources, tmp_path, tagger):
    home = tmp_path / "aro-vg_attribution"
    convert("vg_attribution", sources, home, tagger)
    assert {facts["kind"] for _, _, facts in items(home)} == {"attribute"}
    assert Counter(facts["group"] for _, _, facts in items(home)) == {"old_green": 3, "small_brown": 2}


@pytest.mark.parametrize("name", ["coco_order", "flickr30k_order"])
def test_order_items_have_the_whole_picture_and_the_same_words(sources, tmp_path, tagger, name):
    home = tmp_path / f"aro-{name}"
    convert(name, sources, home, tagger, items_per_shard=2)
    found = items(home)
    listing = json.loads((sources / aro.SETS[name].listing).read_text())
    said = [(entry["image"], text) for entry in listing for text in entry["caption"]]
    assert len(found) == len(said) == {"coco_order": 5, "flickr30k_order": 10}[name]
    for (path, text), (_, shown, facts) in zip(said, found, strict=True):
        right, *wrong = facts["captions"]
        own = int(Path(path).stem) + (10 if name == "coco_order" else 0)
        assert shown.format == "JPEG" and shown.tobytes() == Image.open(io.BytesIO(picture(own))).tobytes()
        assert facts["kind"] == "order" and "group" not in facts and len(wrong) == 4
        assert right == " ".join(words_of(clean(text)))
        assert all(Counter(one.split()) == Counter(right.split()) for one in wrong)
        if len(right.split()) > 1:
            assert right not in wrong
        if len(set(right.split())) > 3:
            assert len(set(wrong)) == 4
    again = tmp_path / "again" / home.name
    convert(name, sources, again, tagger, items_per_shard=2)
    assert (again / "manifest.json").read_bytes() == (home / "manifest.json").read_bytes()


def test_captions_are_cleaned_as_in_aro():
    assert clean('The "old" dog (brown)  sits;~\n') == "the old dog brown sits"
    assert clean("it's a T-shirt, isn't it?") == "it's a t-shirt, isn't it?"
    assert len(clean("word " * 40).split()) == 30


def test_the_four_ways_move_what_they_say():
    words = [f"w{i}" for i in range(12)]
    nouns, adjectives = [1, 4, 7, 10], [0, 5]
    others = [2, 3, 6, 8, 9, 11]
    seen = [0] * 4
    for seed in range(20):
        made = [
            reordered(words, [nouns, adjectives], way, numpy.random.default_rng(seed)) for way in range(4)
        ]
        seen = [count + (one != words) for count, one in zip(seen, made, strict=True)]
        for places in (nouns, adjectives):
            assert {made[0][i] for i in places} == {words[i] for i in places}
            assert [made[1][i] for i in places] == [words[i] for i in places]
        assert [made[0][i] for i in others] == [words[i] for i in others]
        groups = [words[i : i + 3] for i in range(0, 12, 3)]
        assert [sorted(made[2][i : i + 3]) for i in range(0, 12, 3)] == [sorted(group) for group in groups]
        assert all(made[3][i : i + 3] in groups for i in range(0, 12, 3))
    assert min(seen) >= 18


def test_a_caption_that_is_too_short_for_four_other_orders():
    generator = numpy.random.default_rng(0)
    assert wrong_orders("a dog", ["a", "dog"], [[1], []], generator) == ["dog a"] * 4
    assert wrong_orders("dog", ["dog"], [[0], []], generator) == ["dog"] * 4


def test_an_interrupted_conversion_is_not_taken_for_finished_and_is_resumed(
    sources, tmp_path, tagger, monkeypatch
):
    whole = tmp_path / "whole" / "aro-coco_order"
    convert("coco_order", sources, whole, tagger, items_per_shard=2)
    home, written = tmp_path / "aro-coco_order", []
    convert_shard = aro._convert_shard

    def stop_at_second(shard, *job):
        written.append(shard)
        if len(written) == 2:
            raise KeyboardInterrupt
        return convert_shard(shard, *job)

    monkeypatch.setattr(aro, "_convert_shard", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        convert("coco_order", sources, home, tagger, items_per_shard=2)
    assert not (home / "manifest.json").exists()
    convert("coco_order", sources, home, tagger, items_per_shard=2)
    assert written == ["0.tar", "1.tar", "1.tar", "2.tar"]
    for name in ("manifest.json", "conversion.json", "test/0.tar", "test/1.tar", "test/2.tar"):
        assert (home / name).read_bytes() == (whole / name).read_bytes(), name

    convert("coco_order", sources, home, tagger, items_per_shard=2)
    assert len(written) == 4  # all of it was there
    (home / "test/2.tar").write_bytes(b"cut")
    convert("coco_order", sources, home, tagger, items_per_shard=3)
    assert written[4:] == ["0.tar", "1.tar"]  # another conversion: nothing of the old one stays
    assert sorted(path.name for path in (home / "test").glob("*.tar")) == ["0.tar", "1.tar"]


class Oracle(torch.nn.Module):
    """Sees in a caption whether it is one of ``known``, and nothing in a picture."""

    def encode_image(self, images, normalize):
        return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)

    def encode_text(self, known, normalize):
        return torch.stack([known, torch.zeros(len(known))], dim=1)


def candidate(known: set[str]) -> Candidate:
    def tokenizer(captions: list[str]) -> torch.Tensor:
        return torch.tensor([float(caption in known) for caption in captions])

    normal = Normal((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Candidate(Oracle(), tokenizer, Pixels(8, "squash", 8, "bilinear"), normal, "cpu", 2)


def test_converted_sets_are_read_and_scored(sources, tmp_path, tagger):
    """Right on two of three `above`, on no `riding`, and on those without a group: 4 of 7, and a mean of 1/3."""
    home = tmp_path / "aro-vg_relation"
    convert("vg_relation", sources, home, tagger, items_per_shard=3)
    known = {f"the dog {index} is above the Tree" for index in (0, 1, 3, 4)}
    measured, macro = caption_selection(candidate(known), open_test_set(home), "relation")
    assert measured.metric == "acc1" and measured.outcomes.tolist() == [i in (0, 1, 3, 4) for i in range(7)]
    assert measured.content["value"] == pytest.approx(400 / 7)
    # Of two groups of two thirds and of none: 1/2 (2/3 + 0); the error is that of the first alone.
    assert macro.metric == "acc1_macro" and macro.outcomes is measured.outcomes
    assert macro.content["value"] == pytest.approx(100 / 3)
    assert macro.content["standard_error"] == pytest.approx(100 * (2 / 9 / 3) ** 0.5 / 2)

    home = tmp_path / "aro-flickr30k_order"
    convert("flickr30k_order", sources, home, tagger)
    rights = {facts["captions"][0] for _, _, facts in items(home)}
    (measured,) = caption_selection(candidate(rights), open_test_set(home), "order")
    # "Dog." has one order only, which is right and wrong: such an item is lost.
    assert measured.content["value"] == 80.0


def test_small_groups_of_attributes_do_not_count(sources, tmp_path, tagger):
    pairs = [["old", "green"]] * 25 + [["small", "brown"]] * 24
    listing = [row(i % 10, attributes=pair, true_caption=f"right {i}") for i, pair in enumerate(pairs)]
    (sources / "visual_genome_attribution.json").write_text(json.dumps(listing))
    home = tmp_path / "aro-vg_attribution"
    convert("vg_attribution", sources, home, tagger)
    known = {f"right {index}" for index in range(20)}
    measured, macro = caption_selection(candidate(known), open_test_set(home), "attribute")
    assert measured.content["value"] == pytest.approx(2000 / 49) and macro.content["value"] == 80.0


def of_groups(correct: list[bool], groups: list[str | None], smallest: int) -> dict:
    outcomes = encode_outcomes(numpy.array(correct))
    return {"metric": "acc1_macro", "outcomes": outcomes, "groups": encode_groups(groups, smallest)}


def test_means_over_groups_worked_by_hand():
    """Items without a group and small groups count in neither sum: 3/4 and 1/2 make 62.5; plainly 5 of 9 are right."""
    right = [True, True, True, False, True, False, False, False, False]
    groups = ["on", "on", "on", "on", "under", "under", "near", None, None]
    value, error = value_and_error(of_groups(right, groups, 2))
    assert value == 62.5
    assert error == pytest.approx(100 * ((3 / 16) / 4 + (1 / 4) / 2) ** 0.5 / 2)
    assert value_and_error(of_groups(right, groups, 1))[0] == pytest.approx(100 * (3 / 4 + 1 / 2 + 0) / 3)
    assert value_and_error(of_groups(right, groups, 4))[0] == 75.0
    with pytest.raises(ValueError, match="none has 5 items"):
        value_and_error(of_groups(right, groups, 5))


def test_the_excluded_relations_are_those_of_the_notebook(sources):
    assert excluded_relations(sources / aro.NOTEBOOK) == set(LEFT_OUT)
    (sources / aro.NOTEBOOK).write_text(json.dumps({"cells": []}))
    with pytest.raises(DownloadError, match="has no list `symmetric`"):
        excluded_relations(sources / aro.NOTEBOOK)


@pytest.mark.parametrize(
    ("name", "lost", "told"),
    [
        (
            "vg_relation",
            "visual_genome_relation.json",
            "missing; get it: from ARO's Google Drive, gdown 1kX2",
        ),
        ("vg_relation", aro.NOTEBOOK, "missing; get it: python -m clipa download aro_notebook"),
        ("vg_attribution", "images/1.jpg", r"missing; get it: .*vgr_vga_images\.zip"),
        ("flickr30k_order", "flickr30k-images/0.jpg", "missing; get it: on request, forms"),
        ("coco_order", "val2014.zip", r"missing; get it: python -m clipa download val2014\.zip"),
    ],
)
def test_a_missing_file_is_one_line_that_says_where_to_get_it(sources, tmp_path, tagger, name, lost, told):
    (sources / lost).unlink()
    home = tmp_path / f"aro-{name}"
    with pytest.raises(DownloadError, match=told) as failed:
        convert(name, sources, home, tagger)
    assert "\n" not in str(failed.value) and not (home / "manifest.json").exists()


def test_broken_files_are_named(sources, tmp_path, tagger):
    home = tmp_path / "aro-vg_relation"
    convert("vg_relation", sources, home, tagger)
    listing = sources / "visual_genome_relation.json"
    for content, told in (
        ("[{", "not JSON"),
        ('[{"image_path": "0.jpg"}]', "not ARO's listing"),
        (json.dumps([row(0, relation_name="x", bbox_w=0)]), "box .* is empty"),
    ):
        listing.write_text(content)
        with pytest.raises(DownloadError, match=told):
            convert("vg_relation", sources, home, tagger)
    assert not (home / "manifest.json").exists()  # the old one does not stand for the new files
    (sources / "images/0.jpg").write_bytes(picture(0)[:500])
    listing.write_text(json.dumps([row(0, relation_name="x")]))
    with pytest.raises(DownloadError, match=r"images/0\.jpg: not a whole image"):
        convert("vg_relation", sources, home, tagger)
    with pytest.raises(AnnotationError, match="is not installed; install it"):
        convert("coco_order", sources, home, "en_no_such_pipeline")


def test_the_verb_converts_into_the_scale_s_data(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    places = ["--scale", "paper", "--data-directory", str(tmp_path)]  # ARO's files lie in <data>/aro
    assert main(["aro", "vg_relation", *places]) == 0
    manifest = Path(capsys.readouterr().out.splitlines()[-1])
    assert manifest.is_file() and manifest.parent.name == "aro-vg_relation"
    assert manifest.parents[1].name == "test" and manifest.parents[2].name.startswith("laion-400m-")
    assert main(["aro", "blue", *places]) == 1
    assert "'blue' is no set of ARO: choose from vg_relation" in capsys.readouterr().err
    assert main(["aro", "vg_relation", "--scale", "micro-v1"]) == 1
    assert "its counterpart of ARO is the set `order`" in capsys.readouterr().err
