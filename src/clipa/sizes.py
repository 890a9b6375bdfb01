"""How large the paper's models are and what they cost: Table 4 counted two ways, multiply-adds at every length used."""

from __future__ import annotations

from clipa.cost import CONFIGURATIONS, CONVNETS, FULL_TEXT_TOKENS, Towers, full_patches
from clipa.records import published_records

MODELS = ("S/16", "B/16", "L/16", "H/14", "G/14")
BERT_ROWS, RELEASED_ROWS = (
    30_522,
    32_000,
)  # bert-base-uncased's entries; rows of the released embedding tables
TEXT_LENGTHS = (32, 16, 8, 6, 4)
# Patches kept in pre-training and, for patch size 14, in fine-tuning: 30 % masked at 224 and 40 % at 336 pixels.
IMAGE_LENGTHS = {16: (196, 100, 98, 49, 36, 16), 14: (576, 345, 256, 179, 36, 25)}
CONVNEXT = {"ConvNeXt-T": "convnext_tiny", "ConvNeXt-B": "convnext_base"}
CONVNEXT_SIZES = (224, 160, 112, 96, 64)


def report() -> str:
    """The tables as text for a terminal, at most 100 columns wide."""
    return "\n".join([*_parameter_lines(), "", *_image_lines(), "", *_text_lines(), "", *_convnext_lines()])


def counted(model: str) -> dict[str, tuple[float, float]]:
    """Millions of parameters of vision, text and total: bare, and as the released weights have them.

    Bare: no projections, 30,522 word pieces, image positions included. Released: projections, 32,000 rows, without
    the fixed image positions. No one convention gives all fifteen numbers of Table 4.
    """
    towers: Towers = CONFIGURATIONS[model]
    bare = (
        towers.vision_parameters(positions=True, projection=False),
        towers.text_parameters(BERT_ROWS, projection=False),
    )
    released = (
        towers.vision_parameters(positions=False, projection=True),
        towers.text_parameters(RELEASED_ROWS, projection=True),
    )
    pairs = [*zip(bare, released, strict=True), (sum(bare), sum(released))]
    return {
        name: (one / 1e6, two / 1e6)
        for name, (one, two) in zip(("vision", "text", "total"), pairs, strict=True)
    }


def _parameter_lines() -> list[str]:
    printed = {r["id"]: r["value"] for r in published_records() if r["table"] == 4}
    lines = [
        "Parameters, millions: bare / as released / Table 4",
        f"  {'model':<6}" + "".join(f"{name:>30}" for name in ("vision", "text", "total")),
    ]
    for model in MODELS:
        place = f"table4.{model.replace('/', '')}"
        cells = [
            f"{one:.2f} / {two:.2f} / {printed[f'{place}.{name}.parameters']}"
            for name, (one, two) in counted(model).items()
        ]
        lines.append(f"  {model:<6}" + "".join(f"{cell:>30}" for cell in cells))
    lines += [
        "  bare: no projections, 30,522 word pieces; as released: projections, 32,000 rows, without the",
        "  fixed image positions. Table 4's totals for B/16, L/16 and H/14 are not the sums of its towers.",
    ]
    return lines


def _image_lines() -> list[str]:
    lines = ["Image tower, GMACs of one forward pass, by patches (the class token is added)"]
    for size, models in ((16, MODELS[:3]), (14, MODELS[3:])):
        lines.append(f"  {'':<6}" + "".join(f"{patches:>9}" for patches in IMAGE_LENGTHS[size]))
        for model in models:
            costs = [CONFIGURATIONS[model].image_macs(patches) / 1e9 for patches in IMAGE_LENGTHS[size]]
            lines.append(f"  {model:<6}" + "".join(f"{cost:>9.2f}" for cost in costs))
    return lines


def _text_lines() -> list[str]:
    lines = ["Text tower, GMACs, by tokens; last column: both towers at 224 pixels and 32 tokens"]
    lines.append(f"  {'':<6}" + "".join(f"{tokens:>9}" for tokens in TEXT_LENGTHS) + f"{'both':>9}")
    for model in MODELS:
        towers = CONFIGURATIONS[model]
        costs = [towers.text_macs(tokens) / 1e9 for tokens in TEXT_LENGTHS]
        both = towers.macs(full_patches(model), FULL_TEXT_TOKENS) / 1e9
        lines.append(f"  {model:<6}" + "".join(f"{cost:>9.3f}" for cost in costs) + f"{both:>9.2f}")
    return lines


def _convnext_lines() -> list[str]:
    lines = ["ConvNeXt trunk (§4.3): parameters, millions, and GMACs by pixels"]
    lines.append(f"  {'':<12}{'':>9}" + "".join(f"{size:>9}" for size in CONVNEXT_SIZES))
    for model, name in CONVNEXT.items():
        net = CONVNETS[name]
        costs = "".join(f"{net.macs(size) / 1e9:>9.2f}" for size in CONVNEXT_SIZES)
        lines.append(f"  {model:<12}{net.parameters() / 1e6:>9.2f}{costs}")
    return lines
