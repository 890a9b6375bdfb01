"""Which records are the points of a figure, their means and intervals over seeds, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from clipa.render.figures import FigureError, NothingToDraw
from clipa.stats import ITEMS, MINIMAL_SEEDS, SEEDS, Estimate, estimate
from clipa.study import (
    FULL_TEXT_TOKENS,
    IMAGE_REDUCTIONS,
    TEXT_REDUCTIONS,
    TEXT_STUDY_IMAGE_SIZE,
    model_order,
    order_of,
    parse_run,
)

if TYPE_CHECKING:
    import pandas

NO_IMAGE_RUNS = "no full-length baseline, or no fine-tuned run of a shorter image length, in the records"
INTERVALS = {SEEDS: "95 % over seeds", ITEMS: "95 % over test items", "": ""}
CLASSES = {"pictograms/v1": 48, "pictograms/v2": 96, "imagenet1k": 1000}
"""Classes of the test sets of top-1 accuracy, by the start of their names; all are balanced."""


def image_points(
    frame: pandas.DataFrame, benchmark: str = "imagenet1k", metric: str = "acc1", figure: int | None = None
) -> pandas.DataFrame:
    """The records behind the figures on image reductions, text truncated at 32: by default ImageNet-1k top-1.

    Final accuracies only: the full-length baseline after its one stage, reduced runs after fine-tuning. Of
    the published ones Table 11's, or with `figure` those recorded for that figure, whose values and drops may be
    missing. Raises FigureError if a baseline or every reduced run is missing.
    """
    kept = frame[(frame.benchmark == benchmark) & (frame.metric == metric)]
    kept = kept[(kept.text_reduction == "truncation") & (kept.text_tokens == FULL_TEXT_TOKENS)]
    kept = kept[kept.patches.notna()]  # §4.1 is about ViTs; ConvNeXt is Table 13's
    kept = kept.astype({"patches": int, "image_tokens": int})
    published = (kept.table == 11) & kept.value.notna() if figure is None else kept.figure == figure
    kept = kept[((kept.source == "measured") & kept.value.notna()) | published]
    kept = kept[kept.stage == kept.run.map(lambda name: parse_run(name).final_stage)]
    if figure is not None and (kept.source == "published").any():
        printed = frame[(frame.figure == figure) & (frame.metric == f"{metric}_drop")]
        printed = printed[printed.benchmark == benchmark].set_index("run").value
        return kept.assign(drop=kept["drop"].fillna(kept.run.map(printed)))
    reduced = kept[kept.image_reduction != "none"]
    if reduced.empty or len(reduced) == len(kept):
        which = "" if benchmark == "imagenet1k" else f"{benchmark} {metric}: "
        raise NothingToDraw(which + NO_IMAGE_RUNS)
    _refuse_orphans(reduced, "its full-length baseline is not among the records")
    return kept


def text_points(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The records behind the figures on text reductions: ImageNet-1k top-1 after fine-tuning, images of 112 pixels.

    Of the published ones Table 12's. The drop of a run is from the same reduction at 32 tokens, which is a
    point as well. Raises FigureError if such a run or every shorter one is missing.
    """
    kept = frame[(frame.benchmark == "imagenet1k") & (frame.metric == "acc1") & frame.value.notna()]
    kept = kept[(kept.image_reduction == "resize") & (kept.image_size == TEXT_STUDY_IMAGE_SIZE)]
    kept = kept[((kept.source == "measured") | (kept.table == 12)) & (kept.stage == "finetune")]
    shorter = kept[kept.text_tokens < FULL_TEXT_TOKENS]
    if shorter.empty:
        raise NothingToDraw(
            f"no fine-tuned run of a shorter text at {TEXT_STUDY_IMAGE_SIZE} pixels (Table 12's runs) in the records"
        )
    _refuse_orphans(shorter, f"the same text reduction at {FULL_TEXT_TOKENS} tokens is not among the records")
    return kept[kept.text_reduction.isin(shorter.text_reduction)]


def _refuse_orphans(reduced: pandas.DataFrame, why: str) -> None:
    orphans = reduced[reduced["drop"].isna()]
    if len(orphans):
        raise FigureError(f"{orphans.id.iloc[0]}: {why}")


def pretraining(point: Any, frame: pandas.DataFrame) -> pandas.Series:
    """The record of the pre-train stage of a measured point's run and seed, which says what ran in it.

    Raises FigureError if it is not in `frame`.
    """
    stages = frame[(frame.source == "measured") & (frame.stage == "pretrain") & (frame.run == point.run)]
    stages = stages[(stages.scale == point.scale) & (stages.seed == point.seed)]
    if stages.empty:
        raise FigureError(f"{point.id}: no record of its pre-train stage, which says what ran in it")
    return stages.iloc[0]


def over_seeds(points: pandas.DataFrame, by: Sequence[str], value: str, error: str) -> pandas.DataFrame:
    """Mean over seeds of `value` for each combination of `by`, with columns low, high, seeds, interval.

    `error` is the column of one seed's standard error over test items. Intervals as in `clipa.stats.estimate`.
    """
    import pandas

    rows = []
    for key, group in points.groupby(list(by), sort=False):
        found = estimate(group[value].tolist(), group[error].tolist())
        row = dict(zip(by, key, strict=True)) | {value: found.mean, "low": found.low, "high": found.high}
        rows.append(row | {"seeds": found.seeds, "interval": INTERVALS[found.over]})
    return pandas.DataFrame(rows)


def of_estimates(places: Iterable[float], estimates: Iterable[Estimate]) -> pandas.DataFrame:
    """A row an estimate, as :func:`clipa.render.figures.style.line` takes them: x, mean, low, high, interval."""
    import pandas

    rows = [
        {"x": x, "mean": one.mean, "low": one.low, "high": one.high, "interval": INTERVALS[one.over]}
        for x, one in zip(places, estimates, strict=True)
    ]
    return pandas.DataFrame(rows, columns=["x", "mean", "low", "high", "interval"])


def of_items(table: pandas.DataFrame) -> pandas.Series:
    """Which points have too few seeds for an interval over seeds. Theirs, over test items, is in no figure: it would
    look surer than one over seeds, and says nothing about other seeds."""
    return table.interval == INTERVALS[ITEMS]


def has_bar(table: pandas.DataFrame) -> pandas.Series:
    """Which points are drawn with an interval."""
    return table.interval == INTERVALS[SEEDS]


def chance(points: pandas.DataFrame) -> float | None:
    """Percent: top-1 accuracy of guessing, in measured `points`; None if it is not known, or not the same for all."""
    names = (
        set(points[points.source == "measured"].dataset_name) if (points.metric == "acc1").all() else set()
    )
    counts = {
        next((count for world, count in CLASSES.items() if name.startswith(world)), None) for name in names
    }
    [count] = counts if len(counts) == 1 else [None]
    return None if count is None else 100 / count


def in_order(table: pandas.DataFrame, *columns: str) -> pandas.DataFrame:
    """Rows sorted by these columns: reductions and models as in `clipa.study`, `-name` from large to small."""
    ranks = {
        "image_reduction": lambda name: order_of(IMAGE_REDUCTIONS, name),
        "text_reduction": lambda name: order_of(TEXT_REDUCTIONS, name),
        "model": model_order,
    }

    def key(column: str) -> list[Any]:
        values = table[column.removeprefix("-")]
        return (
            [-value for value in values] if column[0] == "-" else list(map(ranks.get(column, float), values))
        )

    keys = list(zip(*map(key, columns), strict=True))
    return table.iloc[sorted(range(len(table)), key=keys.__getitem__)]


def models_of(table: pandas.DataFrame) -> list[str]:
    """The models of a table of points, in the study's order."""
    return sorted(set(table.model), key=model_order)


def reductions_of(table: pandas.DataFrame, column: str = "image_reduction") -> list[str]:
    """The reductions of a table of points, in the study's order."""
    registry = IMAGE_REDUCTIONS if column == "image_reduction" else TEXT_REDUCTIONS
    return sorted(set(table[column]), key=lambda name: order_of(registry, name))


def provenance_line(
    points: pandas.DataFrame,
    published: str = "Published numbers (Table 11): zero-shot top-1 on ImageNet-1k after fine-tuning, one run a point",
    instead_of: str = "ImageNet",
) -> str:
    """What the numbers are, for a figure's subtitle: `published`, or scale, data, items, seeds, interval."""
    if (points.source == "published").all():
        return published
    scale, items = points.scale.iloc[0], points.drop_duplicates("dataset_name")
    names, counts = items.dataset_name.to_list(), sorted({int(n) for n in items.dataset_n})
    name = ", ".join([names[0], *(other.rsplit("/", 1)[-1] for other in names[1:])])
    n = " to ".join(map(str, counts[:: max(1, len(counts) - 1)]))
    return f"Measured at {scale} scale on {name} (n = {n}), not {instead_of}; {seeds_line(points)}"


def seeds_line(points: pandas.DataFrame) -> str:
    """How many seeds measured points have, and how a mark shows it."""
    seeds = points.groupby("run").seed.nunique()
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    said = [f"{count} seed{'' if seeds.max() == 1 else 's'}"]
    if seeds.max() >= MINIMAL_SEEDS:
        said.append("bars: 95 % over seeds")
    if seeds.min() < MINIMAL_SEEDS:
        said.append(f"hollow: fewer than {MINIMAL_SEEDS} seeds, so no bar")
    return ", ".join(said)
