"""Figure 6: zero-shot robustness, drop in accuracy on four variants of ImageNet by image token length (§4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.figures import elsewhere

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MEASURES = tuple(
    elsewhere.Measure(name, "acc1") for name in ("imagenetv2", "imagenet-r", "imagenet-a", "imagenet_sketch")
)


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a run of Table 11 and benchmark: level and drop, empty where the paper prints none."""
    return elsewhere.data(frame, 6, MEASURES)


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """Measured drops with the printed ones as open marks; published alone, what is in print of this figure."""
    return elsewhere.draw(6, "Robustness", frame, published, MEASURES)
