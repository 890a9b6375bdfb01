"""The verbs that make and describe data: drawing, indexing, vocabularies, parts of speech, negatives, test sets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clipa.cli.verbs import add_verb, data_of


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    draw = add_verb(
        verbs, "draw", _draw, "draw the embedded world: training shards and test sets", "all --scale micro-v1"
    )
    draw.add_argument(
        "what", help="train, the name of a test set (plain, fresh, …), all, or sheet (docs/world-v2.png)"
    )
    index = add_verb(
        verbs,
        "index",
        _index,
        "write the manifest of downloaded or own data: names, counts, sha256",
        "train --scale paper",
    )
    index.add_argument("what", help="train, or the name of a test set (imagenet1k, …)")
    aro = add_verb(
        verbs,
        "aro",
        _aro,
        "make one of ARO's four test sets from its files (docs/data.md)",
        "vg_relation --scale paper --source-folder results/data/aro",
    )
    aro.add_argument("what", help="vg_relation, vg_attribution, coco_order or flickr30k_order")
    aro.add_argument(
        "--source-folder", type=Path, metavar="DIR", help="folder of ARO's files (default: results/data/aro)"
    )
    web = add_verb(
        verbs,
        "download",
        _download,
        "download one file or repository that config/downloads.yaml pins (docs/data.md)",
        "val2014.zip results/data/aro",
        asked=False,
    )
    web.add_argument("what", help="its name there")
    web.add_argument("directory", type=Path, help="where to put it")
    web.add_argument(
        "--unpinned", action="store_true", help="also without a digest or revision there; prints what came"
    )
    add_verb(
        verbs, "vocabulary", _vocabulary, "make the vocabulary from the training captions", "--scale micro-v1"
    )
    annotate = add_verb(
        verbs, "annotate", _annotate, "tag parts of speech in the training captions", "--scale micro-v1"
    )
    prepare = _add_prepare(verbs)
    negatives = _add_negclip_verbs(verbs)
    for parser in (draw, index, annotate, prepare, negatives):
        parser.add_argument("--processes", type=int, default=1, help="number of processes (default: 1)")
    for parser in (index, annotate, prepare, negatives):
        parser.add_argument(
            "--source",
            metavar="NAME",
            help="another data source of the scale, as LAION-2B (default: its own data)",
        )


def _add_prepare(verbs) -> argparse.ArgumentParser:
    prepare = add_verb(
        verbs,
        "prepare",
        _prepare,
        "make a copy of the training shards with small images and cut captions",
        "--scale paper --source LAION-2B --processes 16",
    )
    prepare.description += """

Loading, not the model, limits trainings with few tokens. This copy is read several times as fast (docs/data.md has
measured rates). Its images have a short side of so many pixels. Beside the captions stand their word pieces, the same
that training would make. The copy needs the shards' manifest (clipa index) and the vocabulary (clipa vocabulary).

Ask for it in the scale's file, in the entry of the data:
  prepared: {short_side: 112, quality: 90}

Stages whose smallest crops have at least their target's pixels in it read it from then on: with crops of 40 % and more,
112 pixels serve targets of up to 70. All others read the shards as they are. Pixels differ, so those stages get other
fingerprints. An interrupted call is resumed by the same call."""
    return prepare


def _add_negclip_verbs(verbs) -> argparse.ArgumentParser:
    coco = add_verb(
        verbs,
        "coco",
        _coco,
        "make img2dataset's list of COCO's images, with all their captions",
        "annotations_trainval2014.zip images.jsonl",
        asked=False,
    )
    coco.add_argument("annotations", type=Path, help="COCO's zip of captions")
    coco.add_argument("list", type=Path, help="where to write the list, as JSON lines")
    negatives = add_verb(
        verbs,
        "negatives",
        _negatives,
        "make NegCLIP's training set: captions with two words exchanged, images with similar ones",
        "--scale micro-v1 --processes 2 --neighbours pixels --rows 8000",
    )
    negatives.add_argument(
        "--neighbours",
        metavar="HOW",
        help="pixels, or an open_clip model and its weights: ViT-B-32/openai (default: the scale's)",
    )
    negatives.add_argument(
        "--rows", type=int, metavar="N", help="only the first N images (default: the scale's)"
    )
    return negatives


def _draw(chosen: argparse.Namespace) -> int:
    from clipa.data import TEST_SETS
    from clipa.data.drawing import contact_sheet, draw_test, draw_train
    from clipa.files import naming

    scale, _, directory = data_of(chosen)
    if scale.data.world is None:
        raise ValueError(
            f"scale {scale.name} downloads its data ({scale.data.name}); there is nothing to draw"
        )
    parameters = scale.data.world
    if chosen.what == "sheet":
        sheet = f"docs/world-{parameters.name.rpartition('/')[2]}.png"
        with naming(sheet):
            contact_sheet(parameters).save(sheet, optimize=True)
        print(sheet)
        return 0
    if chosen.what in ("train", "all"):
        path = draw_train(parameters, directory, chosen.processes)
        print(path)
        _compare(path, scale)
    if chosen.what != "train":
        names = TEST_SETS if chosen.what == "all" else (chosen.what,)
        print(*draw_test(parameters, directory, names, chosen.processes), sep="\n")
    return 0


def _compare(manifest: Path, scale) -> None:
    """Say where this machine draws other bytes than recorded results were trained on: nothing here is accepted."""
    from clipa.data.shards import read_manifest
    from clipa.resolved import digest, named_manifest

    found, named = digest(read_manifest(manifest.parent)), named_manifest(scale.data)
    if named not in (None, found):
        print(
            f"{manifest}: digest is {found[:12]}, recorded results have {named[:12]}: another libjpeg, FreeType or "
            "processor drew other bytes; trainings here are sound, but `clipa accept` refuses their records",
            file=sys.stderr,
        )


def _index(chosen: argparse.Namespace) -> int:
    from clipa.data.download import index_test_set, index_training
    from clipa.data.local import index_local, index_own_test_set
    from clipa.data.shards import read_manifest
    from clipa.downloads import check_test_set, load_downloads
    from clipa.links import links_of
    from clipa.resolved import digest

    scale, data, directory = data_of(chosen)
    if chosen.what == "train":
        path = (
            index_local(data, directory, chosen.processes)
            if data.kind == "local"
            else index_training(
                directory / "train",
                chosen.processes,
                data.shards,
                links_of(data.download).download.minimum_yield,
            )
        )
        key = f"sources.{chosen.source}" if chosen.source else "data"
        print(path)
        print(f"in config/scales/{scale.name}.yaml, {key}:  manifest: {digest(read_manifest(path.parent))}")
    elif chosen.what in data.tests:
        print(index_own_test_set(data.tests[chosen.what], directory / "test" / chosen.what))
    else:
        path = index_test_set(directory / "test" / chosen.what)
        made = read_manifest(path.parent)
        try:
            check_test_set(chosen.what, made["n"], made["fingerprint"], load_downloads())
        except ValueError:
            path.unlink()
            raise
        print(path)
    return 0


def _aro(chosen: argparse.Namespace) -> int:
    from clipa.data.aro import convert

    scale, _, directory = data_of(chosen)
    if scale.data.world is not None:
        raise ValueError(f"scale {scale.name} draws its test sets; its counterpart of ARO is the set `order`")
    sources = chosen.source_folder or directory.parent / "aro"
    print(convert(chosen.what, sources, directory / "test" / f"aro-{chosen.what}", scale.tagger))
    return 0


def _download(chosen: argparse.Namespace) -> int:
    from clipa.data.web import download
    from clipa.downloads import load_downloads

    print(download(chosen.what, chosen.directory, load_downloads(), chosen.unpinned))
    return 0


def _vocabulary(chosen: argparse.Namespace) -> int:
    from clipa.data.vocabulary import train_vocabulary

    scale, _, directory = data_of(chosen)
    print(train_vocabulary(directory, scale.vocabulary_size))
    return 0


def _annotate(chosen: argparse.Namespace) -> int:
    from clipa.data.annotation import annotate

    scale, _, directory = data_of(chosen)
    print(annotate(directory, chosen.processes, scale.tagger))
    return 0


def _prepare(chosen: argparse.Namespace) -> int:
    from clipa.data.prepared import prepare
    from clipa.resolved import data_slug

    scale, data, directory = data_of(chosen)
    asked = data.prepared
    if asked is None:
        entry = f"sources.{chosen.source}" if chosen.source else "data"
        file = scale.config_directory / "scales" / f"{scale.name}.yaml"
        raise ValueError(f"{file}: {entry}.prepared: missing; add prepared: {{short_side: 112, quality: 90}}")
    vocabulary = directory.parent / data_slug(scale.data) / "vocabulary"
    print(prepare(directory, asked, vocabulary, chosen.processes))
    return 0


def _negatives(chosen: argparse.Namespace) -> int:
    from clipa.data.negclip import write_negatives

    scale, _, directory = data_of(chosen)
    asked = scale.negatives
    if asked is None:
        raise ValueError(f"scale {scale.name} has no NegCLIP: its file has no `negatives`")
    neighbours, rows = chosen.neighbours or asked.neighbours, chosen.rows or asked.rows
    print(write_negatives(directory, chosen.processes, neighbours, rows))
    return 0


def _coco(chosen: argparse.Namespace) -> int:
    from clipa.data.download import write_image_list

    print(write_image_list(chosen.annotations, chosen.list))
    return 0
