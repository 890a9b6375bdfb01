"""Types that configurations share: bounded numbers, and models that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class ConfigError(ValueError):
    """A configuration mistake, as one line: file, key, what is wrong, what to do."""


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _no_truth(value: Any) -> Any:
    """YAML's `yes` is no number; pydantic takes it for 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is expected, found {str(value).lower()}")
    return value


Number = BeforeValidator(_no_truth)
Rate = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]
"""A learning rate."""
Decay = Annotated[float, Number, Field(ge=0, le=10, allow_inf_nan=False)]
"""Of weights, times the learning rate."""
Share = Annotated[float, Number, Field(gt=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Number, Field(ge=0, le=1, allow_inf_nan=False)]
Area = Annotated[float, Number, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Number, Field(gt=0, le=10, allow_inf_nan=False)]
Count = Annotated[int, Number, Field(gt=0, le=10**12)]
Natural = Annotated[int, Number, Field(ge=0, le=10**12)]
Text = Annotated[str, Field(min_length=1)]
