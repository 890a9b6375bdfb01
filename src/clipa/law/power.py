"""The power of the primary tests: how probably an effect would be found, from deviations of single drops.

It is computed before anything is measured: a drop of each model has a standard deviation over seeds, known from pilot
runs; drops of different models are taken as independent (the same order of samples for all models makes them covary,
if anything, positively, and the slope vary less). No slope of any measurement goes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from clipa.config import Count, ModelName, Strict, read_yaml, validated
from clipa.law.layout import columns, wrapped
from clipa.law.verdicts import LEVEL, PRIMARIES, PRIMARY_SEEDS, Primary
from clipa.records import PUBLISHED_DIRECTORY, ROOT, load_records, parameters_of
from clipa.stats import SPENT_ON_WEIGHTS, fixed, model_weights, power_below, slope_weights
from clipa.study import parse_run

SEEDS = (PRIMARY_SEEDS, 12, 16, 24)
EFFECTS = {"half of it": 0.5, "the paper's": 1.0, "twice it": 2.0}
WORST_LEVEL = LEVEL / len(PRIMARIES)
"""What Holm's procedure asks of the smaller p; a hypothesis that passes it needs nothing of the other one."""

Points = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class Pilot(Strict):
    """A file of pilot deviations (YAML): what power is computed from before the records of an experiment exist."""

    parameters: dict[ModelName, Count] = Field(min_length=2, description="of both towers, by model")
    drop_deviations: dict[str, dict[ModelName, Points]] = Field(
        description="by length (resize 112, text syntax 8) and model: standard deviation of the drop over seeds"
    )

    @model_validator(mode="after")
    def _is_of_primary_lengths(self) -> Pilot:
        known = [primary.label for primary in PRIMARIES]
        if len(set(self.parameters.values())) < 2:
            raise ValueError("parameters: a slope needs two sizes")
        for label, deviations in self.drop_deviations.items():
            if label not in known:
                raise ValueError(f"drop_deviations.{label}: not a primary length ({', '.join(known)})")
            if deviations.keys() != self.parameters.keys():
                raise ValueError(f"drop_deviations.{label}: its models are not those of parameters")
        return self


def power(
    slope: float,
    deviations: Sequence[float],
    parameters: Sequence[float],
    seeds: int,
    level: float = WORST_LEVEL,
) -> float:
    """How probably a slope (points per tenfold size, negative) is found significant with so many seeds, 8 or more.

    ``deviations`` [models]: of a model's drop over seeds, points. It is up to 0.05 below what
    simulation finds, since the degree of freedom for the weights is spent and their noise left out.
    """
    variances = [deviation**2 for deviation in deviations]
    weights = slope_weights(parameters, model_weights(variances))
    per_seed = math.sqrt(math.fsum(w**2 * v for w, v in zip(weights, variances, strict=True)))
    return power_below(slope, per_seed / math.sqrt(seeds), seeds, SPENT_ON_WEIGHTS, level)


@cache
def published_slope(primary: Primary) -> float:
    """The slope of the paper's own drops (Tables 4, 11 and 12), points per tenfold size; all models weigh the same."""
    directory = ROOT / PUBLISHED_DIRECTORY
    finals = {}
    for record in load_records(directory / f"table{number}.json" for number in (12, 11)):
        if (record["benchmark"], record["metric"]) == ("imagenet1k", "acc1") and record["value"] is not None:
            run = parse_run(record["run"])
            if record["stage"] == run.final_stage:
                finals[run] = record
    models = [run.model for run in finals if run == primary.run(run.model)]
    drops = [
        finals[primary.run(model).baseline]["value"] - finals[primary.run(model)]["value"] for model in models
    ]
    sizes = [parameters_of(finals[primary.run(model)]) for model in models]
    return float(slope_weights(sizes) @ drops)


def table(parameters: Mapping[str, float], deviations: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Power by primary length, effect and number of seeds, as lines. ``deviations`` by label and model."""
    rows = []
    for primary in PRIMARIES:
        own = deviations.get(primary.label)
        if not own or not all(own.values()):
            continue
        sizes, effect = [parameters[model] for model in own], published_slope(primary)
        for name, factor in EFFECTS.items():
            shares = [power(factor * effect, list(own.values()), sizes, seeds) for seeds in SEEDS]
            first = name == next(iter(EFFECTS))
            rows.append(
                [
                    f"{primary.name} {primary.label}" if first else "",
                    f"{fixed(factor * effect, 2)} ({name})",
                    *(f"{100 * share:.0f} %" for share in shares),
                ]
            )
    if not rows:
        return []
    note = (
        f"two-sided level {100 * WORST_LEVEL:g} %, Holm's for the smaller p; "
        "from standard deviations of drops over seeds, not from slopes"
    )
    heads = ["", "slope, points per tenfold", *(f"{seeds} seeds" for seeds in SEEDS)]
    return ["Power to find a slope below 0", *wrapped(f"({note})"), *columns(rows, heads)]


def pilot_report(path: Path) -> str:
    """The table for a file of pilot deviations. ConfigError for a mistake in it, in one line."""
    pilot: Pilot = validated(Pilot, read_yaml(path), path)
    deviations = {
        label: {m: own[m] for m in pilot.parameters} for label, own in pilot.drop_deviations.items()
    }
    return "\n".join(table(pilot.parameters, deviations)) + "\n"
