"""Figure 2, image reductions: the rules of `clipa.reductions.images` applied to a photograph.

The paper shows random, grid and block masking at 75 % (§3.2). Here they stand beside resizing, at 50, 75 and 92 %, and
above the other readings that the paper's words allow. Nothing is measured: `frame` and `published` are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipa.reductions import images
from clipa.render.figures import style
from clipa.study import FULL_IMAGE_SIZE, FULL_PATCHES, IMAGE_REDUCTIONS

if TYPE_CHECKING:
    import numpy
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE, PATCH_SIZE = FULL_IMAGE_SIZE, 16
SHAPE = images.resized_grid(SIZE, PATCH_SIZE)
SEED = 1  # of the noise; one draw, the same for all panels
CROP = (0, 0, 512, 512)  # of the photograph: face, cap and shoulders; left out is the uniform below


@dataclass(frozen=True)
class Panel:
    """One panel of the figure; `image_size` is below 224 for resizing only, whose patches are all kept."""

    reduction: str
    kept: int
    reading: str | None = None
    image_size: int = SIZE

    @property
    def shape(self) -> tuple[int, int]:
        return images.resized_grid(self.image_size, PATCH_SIZE)

    @property
    def name(self) -> str:
        """`random-49`, `grid-98-row`, `resize-112`: the label of the panel's axes."""
        setting = self.image_size if self.reduction == "resize" else self.kept
        return "-".join([self.reduction, str(setting), *([self.reading] if self.reading else [])])


ORIGINAL = Panel("none", FULL_PATCHES)
COLUMNS = ("random", "grid", "block", "resize")
ROWS: dict[str, tuple[Panel | None, ...]] = {
    "50 % removed": (
        Panel("random", 98),
        Panel("grid", 98),
        Panel("block", 98),
        Panel("resize", 100, image_size=160),
    ),
    "75 % (as in the\npaper's figure)": (
        Panel("random", 49),
        Panel("grid", 49),
        Panel("block", 49),
        Panel("resize", 49, image_size=112),
    ),
    "91.8 % removed": (
        Panel("random", 16),
        None,
        Panel("block", 16),
        Panel("resize", 16, image_size=64),
    ),
}
READINGS = {
    Panel("grid", 98, "row"): "Grid, two in a row",
    Panel("grid", 49, "shifted"): "Grid, corner drawn",
    Panel("grid", 49, "drawn"): "Grid, windows drawn",
    Panel("block", 49, "keep-centre"): "Block, centred",
    Panel("block", 49, "remove-several"): "Blocks removed",
}
PANELS = (*(panel for row in ROWS.values() for panel in row if panel), *READINGS)

GAP = 0.06  # inches, between panels


@dataclass(frozen=True)
class Place:
    """Where panels stand, in inches from the left and from the top of what is below the heading.

    On a page the original and the other readings are a block of two columns at the right of the matrix, in a column one
    of three columns below it.
    """

    column: bool
    left = 0.07
    names: float  # of the rows of the matrix
    side: float
    caption: float  # height of what is written below a panel

    @property
    def pitch(self) -> float:
        """From row to row of the matrix."""
        return self.side + self.caption

    @property
    def matrix(self) -> float:
        """The left end of the matrix."""
        return self.left + self.names

    @property
    def others(self) -> list[tuple[float, float]]:
        """Upper left corners of the original and the other readings."""
        if not self.column:
            x = self.matrix + 4 * (self.side + GAP) + 0.2
            return [
                (x + (self.side + GAP) * (rank % 2), TITLE + self.pitch * (rank // 2)) for rank in range(6)
            ]
        y = TITLE + 3 * self.pitch + TITLE
        middles = [style.COLUMN * (2 * rank + 1) / 6 for rank in range(3)]
        return [(middles[rank % 3] - self.side / 2, y + self.pitch * (rank // 3)) for rank in range(6)]

    @property
    def height(self) -> float:
        return self.others[-1][1] + self.pitch


TITLE = 0.17  # inches: of a line above panels


def place() -> Place:
    """The places for the width in force."""
    if style.in_column():
        return Place(True, names=0.33, side=(style.COLUMN - 0.47 - 3 * GAP) / 4, caption=0.24)
    return Place(False, names=0.36, side=(style.PAGE - 0.5 - 0.2 - 5 * GAP) / 6, caption=0.28)


def kept_patches(panel: Panel) -> numpy.ndarray:
    """Indices of the patches that the panel's rule keeps, ascending."""
    import numpy

    rows, columns = panel.shape
    noise = numpy.random.default_rng(SEED).random((1, rows * columns))
    return images.keep(panel.reduction, noise, panel.shape, panel.kept, panel.reading)[0]


def data(frame: pandas.DataFrame | None = None) -> pandas.DataFrame:
    """One row a kept patch: reduction, reading (empty: default), image size, patches kept, place of the patch."""
    import pandas

    return pandas.DataFrame(
        [
            {
                "image_reduction": panel.reduction,
                "reading": panel.reading or "",
                "image_size": panel.image_size,
                "patches": panel.kept,
                "patch": patch,
                "row": patch // panel.shape[1],
                "column": patch % panel.shape[1],
            }
            for panel in PANELS
            for patch in kept_patches(panel).tolist()
        ]
    )


def photograph(size: int = SIZE) -> numpy.ndarray:
    """matplotlib's sample photograph, cropped square, resized (bilinear, anti-aliased): (size, size, 3) bytes."""
    import matplotlib.cbook
    import numpy
    from PIL import Image

    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    with Image.open(path) as image:
        square = image.convert("RGB").crop(CROP)
        return numpy.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def pixels_of(panel: Panel) -> numpy.ndarray:
    """The panel's pixels: kept patches as they are, dropped ones in pale grey."""
    import numpy

    # §3.2: the resized image is made from the full one, as the loader does from its crop.
    pixels = photograph(panel.image_size)
    grey = 0.3 * pixels.mean(-1, keepdims=True) + 0.7 * 246
    mask = numpy.zeros(panel.shape, bool)
    mask.ravel()[kept_patches(panel)] = True
    kept = mask.repeat(PATCH_SIZE, 0).repeat(PATCH_SIZE, 1)[..., None]
    return numpy.where(kept, pixels, grey.round()).astype("uint8")


def draw(frame: pandas.DataFrame | None = None, published: Any = None) -> Figure:
    """The matrix of reductions and removed shares, and beside or below it the original and other readings."""
    at = place()
    figure = style.page(at.height)
    top = style.heading(
        figure,
        "Four ways to fewer image tokens",
        "The index rules of clipa.reductions on one photograph of 224×224 pixels (14×14 patches of 16). "
        "Kept patches are in colour, dropped ones grey; one draw of the noise.",
    )
    figure.set_layout_engine("none")  # everything else is placed by hand, in inches
    for column, reduction in enumerate(COLUMNS):
        title = IMAGE_REDUCTIONS[reduction].label
        if at.column:
            title = title.removesuffix(" masking").removeprefix("Image ").capitalize()
        x = at.matrix + column * (at.side + GAP)
        _write(figure, x, top + TITLE - 0.05, title, weight="bold")
    for row, (label, panels) in enumerate(ROWS.items()):
        y = top + TITLE + row * at.pitch
        _write(
            figure,
            at.matrix - 0.05,
            y + at.side / 2,
            label,
            rotation=90,
            ha="right",
            va="center",
            ma="center",
        )
        for column, panel in enumerate(panels):
            x = at.matrix + column * (at.side + GAP)
            if panel is None:
                _write_absent(figure, at.side, x, y)
            else:
                _draw_panel(figure, panel, at.side, x, y, _caption(panel, at.column))
    (x, y), *places = at.others
    heading = "Original and other readings of §3.2" if at.column else "Original, other readings of §3.2"
    _write(figure, at.left if at.column else x, top + y - 0.05, heading, weight="bold")
    _draw_panel(figure, ORIGINAL, at.side, x, top + y, "Original\n224 px: 196 patches")
    for (x, y), (panel, title) in zip(places, READINGS.items(), strict=True):
        _draw_panel(figure, panel, at.side, x, top + y, f"{title}\n{panel.kept} of 196")
    return figure


def _caption(panel: Panel, column: bool) -> str:
    if panel.reduction != "resize":
        return f"{panel.kept} of 196"
    return f"{panel.image_size} px:{chr(10) if column else ' '}{panel.kept} patches"


def _write(figure: Figure, x: float, y: float, text: str, **how: Any) -> None:
    """Text at (x, y) inches from the upper left corner."""
    width, height = figure.get_size_inches()
    look = {"fontsize": style.SMALL, "va": "baseline", "linespacing": 1.1} | how
    figure.text(x / width, 1 - y / height, text, **look)


def _square(figure: Figure, x: float, y: float, side: float) -> Axes:
    """Axes of `side` inches with the upper left corner at (x, y) inches."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height))
    axes.set_axis_off()
    return axes


def _draw_panel(figure: Figure, panel: Panel, full: float, x: float, y: float, caption: str) -> None:
    """One image at true scale (112 pixels are half as wide as 224), lines between its patches, a caption below."""
    side = full * panel.image_size / SIZE
    axes = _square(figure, x + (full - side) / 2, y + (full - side) / 2, side)
    axes.set_label(panel.name)
    axes.imshow(pixels_of(panel), extent=(0, panel.shape[1], panel.shape[0], 0), interpolation="none")
    for line in range(1, panel.shape[0]):
        axes.axhline(line, color="white", linewidth=0.35)
        axes.axvline(line, color="white", linewidth=0.35)
    if side < full:
        _frame(figure, full, x, y)
    _write(
        figure, x + full / 2, y + full + 0.02, caption, ha="center", va="top", ma="center", color=style.INK
    )


def _frame(figure: Figure, side: float, x: float, y: float) -> None:
    """The outline of the full-size image."""
    from matplotlib.patches import Rectangle

    axes = _square(figure, x, y, side)
    axes.set_zorder(-1)
    axes.add_patch(
        Rectangle(
            (0, 0),
            1,
            1,
            fill=False,
            clip_on=False,
            edgecolor=style.PALE,
            linewidth=0.5,
            linestyle=(0, (2, 2)),
        )
    )


def _write_absent(figure: Figure, side: float, x: float, y: float) -> None:
    """In place of an image: grid masking keeps no fewer than one patch of each window."""
    _frame(figure, side, x, y)
    remark = "none below\none patch a\nwindow (§4.1)"
    _write(figure, x + side / 2, y + side / 2, remark, ha="center", va="center", color=style.FAINT)
