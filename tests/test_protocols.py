"""Evaluation protocols: what they do to pixels and prompts, and which runs they belong to."""

from pathlib import Path

import numpy
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from clipa.config import load_scale
from clipa.evaluate.candidates import Candidate, Normal, prompts_of
from clipa.evaluate.decoding import resizing
from clipa.protocols import load_protocols
from clipa.records import read_records
from clipa.stages import resolve, stages_of
from clipa.study import parse_run

CONFIG = Path(__file__).parents[1] / "config"
PROTOCOLS = load_protocols(CONFIG)
IMAGE = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=numpy.uint8))
OWN = ("shorter", "bicubic")


def pixels(name: str, size: int, own: tuple[str, str] = OWN) -> numpy.ndarray:
    return numpy.asarray(resizing(PROTOCOLS[name].pixels(size, size, own))(IMAGE))


def test_the_papers_protocol_is_its_text():
    """§A.3: at 224 pixels the shorter side to 256 and the middle 224; at 336 the whole image, squashed."""
    assert PROTOCOLS["paper"].pixels(224, 224, OWN).side == 256
    cropped = CenterCrop(224)(Resize(256, antialias=True)(IMAGE))
    assert numpy.array_equal(pixels("paper", 224), numpy.asarray(cropped))
    assert numpy.array_equal(pixels("paper", 336), numpy.asarray(Resize((336, 336), antialias=True)(IMAGE)))
    # A small scale's 72 pixels stand for the paper's 336.
    assert PROTOCOLS["paper"].pixels(72, 336, OWN).mode == "squash"


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_checkpoints_own_protocol_gives_the_bits_of_open_clips_transform(mode, interpolation):
    """Also from bytes on disk: normalised later, they are the same floats."""
    theirs = image_transform(
        64,
        is_train=False,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        resize_mode=mode,
        interpolation=interpolation,
    )(IMAGE)
    own = ("shorter" if mode == "shortest" else mode), interpolation
    chosen = PROTOCOLS["checkpoint"].pixels(64, 64, own)
    normal = Normal(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    ours = Candidate(torch.nn.Identity(), None, chosen, normal, "cpu", 8)
    assert torch.equal(ours.preprocess(IMAGE), theirs)
    stored = torch.from_numpy(numpy.array(resizing(chosen)(IMAGE))).permute(2, 0, 1)
    assert torch.equal(normal(stored[None])[0], theirs)
    assert chosen == PROTOCOLS["clip-benchmark"].pixels(64, 64, own)


def test_every_protocol_sees_other_pixels_or_prompts():
    seen = {
        name: (
            pixels(name, 224, ("squash", "bicubic")).tobytes(),
            str(prompts_of("T-shirt", ["a {c}."], one)),
            *one.recall,
        )
        for name, one in PROTOCOLS.items()
    }
    assert len(set(seen.values())) == len(PROTOCOLS)
    assert prompts_of("T-shirt", ["a photo of a {c}."], PROTOCOLS["released"]) == [
        "a photo of a tshirt",
        "tshirt",
    ]


@pytest.mark.parametrize(
    ("run", "mode"),
    [
        ("L16-resize64-truncation32", "shorter"),
        ("L16-resize64-truncation16-clipa-batch7k", "shorter"),
        ("H14-resize84-truncation8-laion400m-2.56B-128M", "squash"),
        ("H14-resize84-truncation8-laion2b-12.8B-grid50", "squash"),
        ("G14-resize84-truncation8-datacomp1b-12.8B-512M-128M", "squash"),
    ],
)
def test_runs_of_section_6_are_evaluated_and_exported_squashed(run, mode):
    from clipa.config import Project

    for stage in stages_of(parse_run(run), load_scale("paper", CONFIG), seed=0):
        assert (stage.pixels.mode, stage.pixels.side) == (mode, stage.image_size)
        exported = {"shorter": "shortest", "squash": "squash"}[mode]
        assert resolve(stage, Project()).resize_mode == exported
        assert stage.protocol_name == ("squash" if mode == "squash" else "study")


def test_recorded_results_name_no_protocol_and_stay_valid():
    """They were measured with the study's: the digest of that is what it was before protocols had names."""
    folder = CONFIG.parent / "results" / "recorded" / "micro-v1"
    records = [record for path in sorted(folder.glob("L16-none*/**/*.json")) for record in read_records(path)]
    assert records and not any("protocol_name" in record for record in records)
