"""What `clipa plan` cannot know: prices, power, the grid. Each has an option, and is printed with its source."""

from __future__ import annotations

from typing import Any, NamedTuple


class Assumption(NamedTuple):
    """A number by the option that replaces it, at GPU and at CPU scales, with its source at each."""

    option: str
    unit: str
    values: dict[str, tuple[float, str]]

    def chosen(self, device: str, given: float | None) -> dict[str, Any]:
        """Value, unit and source for ``device`` ("GPU" or "core"). ValueError when a negative number is given."""
        if given is not None and given < 0:
            raise ValueError(f"--{self.option} {given:g}: must not be negative")
        value, source = self.values[device] if given is None else (given, "given")
        return {"value": value, "unit": self.unit, "source": source}

    @property
    def help(self) -> str:
        """What argparse says of the option."""
        told = "; ".join(f"{value:g} a {device}: {source}" for device, (value, source) in self.values.items())
        if len(set(self.values.values())) == 1:
            told = "{:g}, {}".format(*self.values["GPU"])
        return f"{self.unit} (default {told})"


_LLAMA = "as LLaMA's report reckons: arXiv 2302.13971, section 6"

ASSUMPTIONS = (
    Assumption(
        "price",
        "dollars a device-hour",
        {
            "GPU": (2.0, "assumed for a rented A100; offers differ by a factor of three"),
            "core": (0.05, "assumed for a rented server's core"),
        },
    ),
    Assumption(
        "watts",
        "watts a device",
        {
            "GPU": (400.0, "board limit of an A100, SXM; the server around it comes on top"),
            "core": (10.0, "assumed for a server's core with its memory"),
        },
    ),
    Assumption(
        "pue",
        "energy of the data centre over that of its machines",
        {"GPU": (1.1, _LLAMA), "core": (1.1, _LLAMA)},
    ),
    Assumption(
        "carbon",
        "kg of CO2e a kWh of the grid",
        dict.fromkeys(("GPU", "core"), (0.385, f"mean of the United States; {_LLAMA}")),
    ),
)
