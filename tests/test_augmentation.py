"""Colours of training images: named draws, torchvision's definitions, nothing where nothing is asked for."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from clipa.config import Augmentation
from clipa.data.stream import recoloured, sample_noise

NOISE = sample_noise(0, "pretrain", 0, 4000)
JITTER = Augmentation(color_jitter=0.32, grayscale_probability=0.2)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def drawn(**chosen: float) -> np.ndarray:
    """A row of noise that changes nothing but what is named."""
    row = np.full(32, 0.5)
    places = {
        "apply": 23,
        "brightness": 24,
        "contrast": 25,
        "saturation": 26,
        "hue": 27,
        "order": 28,
        "grey": 29,
    }
    row[29] = 1.0
    for name, value in chosen.items():
        row[places[name]] = value
    return row


def test_without_jitter_pixels_stay(picture):
    for noise in NOISE[:50]:
        assert recoloured(picture, Augmentation(), noise) is picture


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
    ],
)
@pytest.mark.parametrize("draw", [0.0, 0.25, 0.99])
def test_each_change_is_torchvisions(picture, name, change, draw):
    ours = recoloured(picture, JITTER, drawn(apply=0.1, **{name: draw}))
    assert np.array_equal(np.asarray(ours), np.asarray(change(picture, 1 + 0.32 * (2 * draw - 1))))


def test_hue_is_torchvisions(picture):
    ours = np.asarray(recoloured(picture, JITTER, drawn(apply=0.1, hue=0.9))).astype(int)
    theirs = np.asarray(functional.adjust_hue(picture, 0.25 * 0.32 * 0.8)).astype(int)
    assert np.abs(ours - theirs).mean() < 2.5
    assert np.abs(ours - np.asarray(picture).astype(int)).mean() > 10


def test_probabilities_are_the_papers(picture):
    """A.2: jitter with probability 0.8, grey with 0.2."""
    changed = grey = 0
    for noise in NOISE:
        result = np.asarray(recoloured(picture, JITTER, noise))
        is_grey = (result == result[..., :1]).all()
        grey += is_grey
        changed += not is_grey and not np.array_equal(result, np.asarray(picture))
    assert grey / len(NOISE) == pytest.approx(0.2, abs=0.02)
    assert changed / (len(NOISE) - grey) == pytest.approx(0.8, abs=0.02)


def test_the_order_of_changes_is_drawn(picture):
    strong = drawn(apply=0.1, brightness=0.99, contrast=0.01, saturation=0.99, hue=0.8)
    results = set()
    for order in np.linspace(0.01, 0.99, 24):
        strong[28] = order
        results.add(recoloured(picture, JITTER, strong).tobytes())
    assert len(results) > 12
