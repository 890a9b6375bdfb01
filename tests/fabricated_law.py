"""Made-up records of four models for tests of the law: accuracies are given, outcomes follow from them."""

from collections.abc import Callable, Iterable

import numpy

from clipa.records import record_id
from clipa.schema import Record
from clipa.study import Run
from fabricated import measured_record

PARAMETERS = {"Ti/16": 30_000, "S/16": 80_000, "B/16": 250_000, "L/16": 1_000_000}
SEEDS = tuple(range(8))
FULL = "none-truncation32"
RESIZED = "resize112-truncation32"
SYNTAX = {tokens: f"resize112-syntax{tokens}" for tokens in (32, 8)}
SHAPES = {
    FULL: Run("", "none"),
    RESIZED: Run("", "resize", 112),
    **{name: Run("", "resize", 112, None, "syntax", tokens) for tokens, name in SYNTAX.items()},
}
ITEMS = 2000
Accuracy = Callable[[str, int], float]
"""Percent, of a model (its name) with a seed."""


def law_records(
    accuracies: dict[str, Accuracy],
    *,
    seeds: Iterable[int] = SEEDS,
    models: Iterable[str] = tuple(PARAMETERS),
    recipe: str | None = None,
    n: int = ITEMS,
) -> list[Record]:
    """Final records by run (`FULL`, `RESIZED`, an entry of `SYNTAX`): the first items are right."""
    found = []
    for name, accuracy in accuracies.items():
        shape = SHAPES[name]
        for model in models:
            for seed in seeds:
                correct = numpy.arange(n) < round(accuracy(model, seed) * n / 100)
                found.append(_record(name, shape, model, seed, correct, recipe))
    return found


def _record(
    name: str, shape: Run, model: str, seed: int, correct: numpy.ndarray, recipe: str | None
) -> Record:
    stage = "pretrain" if shape.is_full_length else "finetune"
    kind = "none" if shape.image_reduction == "none" else "resize112"
    record = measured_record("S/16", kind, stage, seed, correct)
    record |= {"model": model, "run": f"{model.replace('/', '')}-{name}"}
    record |= {"text_reduction": shape.text_reduction, "text_tokens": shape.text_tokens}
    record["actual"] = record["actual"] | {"parameters": PARAMETERS[model]}
    if recipe is not None:
        record["recipe"] = recipe
    return record | {"id": record_id(record)}


def converged(
    accuracies: dict[str, Accuracy], moved: float = 0.0, seeds: Iterable[int] = (0,)
) -> list[Record]:
    """The gate's records: full length and the primary runs of `accuracies`, `moved` by so many points."""

    def of(accuracy: Accuracy) -> Accuracy:
        return lambda model, seed: accuracy(model, seed) + moved

    tuned = {name: of(own) for name, own in accuracies.items() if name in (RESIZED, SYNTAX[8])}
    pretrained = law_records({FULL: of(accuracies[FULL])}, seeds=seeds, recipe="samples-double-pretrain")
    return pretrained + law_records(tuned, seeds=seeds, recipe="finetune-double")
