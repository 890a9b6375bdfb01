"""Figure 5: zero-shot retrieval on COCO, drop in recall@1 by image token length (§4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipa.figures import elsewhere

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MEASURES = (
    elsewhere.Measure("mscoco_captions", "image_retrieval_recall@1"),
    elsewhere.Measure("mscoco_captions", "text_retrieval_recall@1"),
)


def data(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row a run of Table 11 and direction of retrieval: level and drop, empty where the paper prints none."""
    return elsewhere.data(frame, 5, MEASURES)


def draw(frame: pandas.DataFrame, published: pandas.DataFrame | None = None) -> Figure:
    """Measured drops with the printed ones as open marks; published alone, what is in print of this figure."""
    return elsewhere.draw(5, "COCO retrieval, recall@1", frame, published, MEASURES)
