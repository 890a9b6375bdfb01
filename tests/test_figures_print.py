"""Figures in print: size, letters, contrast, what is hidden or clipped, and what a mark says about its seeds."""

from pathlib import Path

import matplotlib
import numpy
import pandas
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from clipa.data.glyphs import class_names
from clipa.records import load_frame, load_records
from clipa.render import figures
from clipa.render.figures import drawing, figure01, points, style
from clipa.stats import MINIMAL_SEEDS
from clipa.worlds import WORLDS
from fabricated_grid import frames

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
WIDTHS = (style.PAGE, style.COLUMN)
MEASURED = (1, 4, 5, 6, 7, 8, 9, 10)
CASES = [(number, "published") for number in figures.NUMBERS]
CASES += [(number, "three seeds") for number in MEASURED]


@pytest.fixture(scope="module")
def drawn():
    """Figure `number` from a source, at a width, laid out; each is drawn once."""
    seeds = {"three seeds": frames(), "one seed": frames((0,))}
    known = {}

    def draw(number, source, width):
        if (number, source, width) not in known:
            published = load_frame([PUBLISHED / name for name in figures.SOURCES[number]])
            frame, beside = (published, None) if source == "published" else (seeds[source][number], published)
            with matplotlib.rc_context(style.settings(width)):
                figure = drawing(number).draw(frame, beside)
                figure.set_dpi(200)
                figure.draw_without_rendering()
            known[number, source, width] = figure
        return known[number, source, width]

    return draw


def letters(figure) -> list[Text]:
    """Every text that is seen: titles, labels of axes and of the ticks in view, remarks."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += axes.texts
        if not axes.axison:
            continue
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            found += [tick.label1 for tick in axis._update_ticks()]  # those in view, and no others
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(numpy.dot((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other) -> float:
    """As WCAG has it: 1 (the same) to 21."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def ground_of(text: Text):
    """What a text stands on: the chip around it (Figure 3), else the page."""
    box = text.get_window_extent()
    middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    for patch in text.axes.patches if text.axes else ():
        filled = isinstance(patch, FancyBboxPatch) and patch.get_facecolor()[3] > 0
        if filled and patch.get_window_extent().contains(*middle):
            return patch.get_facecolor()
    return "white"


def test_contrast_is_computed_as_it_should_be():
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#767676", "white") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("number", "source"), CASES)
def test_letters_can_be_read_in_print(number, source, width, drawn):
    figure = drawn(number, source, width)
    assert figure.get_size_inches()[0] == width and figure.get_size_inches()[1] < 9.2
    for text in letters(figure):
        assert text.get_fontsize() >= 6, text
        assert contrast(text.get_color(), ground_of(text)) >= 4.5, (text, to_hex(text.get_color()))


def test_every_model_has_a_colour_that_text_can_have():
    colours = [colour for colour, _ in style.MODEL_LOOKS.values()] + list(style.OTHER_COLOURS)
    assert all(contrast(colour, "white") >= 4.5 for colour in [*colours, *style.length_colours(4)])
    lights = [luminance(colour) for colour, _ in style.MODEL_LOOKS.values()]
    assert sorted(lights, reverse=True) == lights  # larger is darker


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("number", "source"), CASES)
def test_no_letter_leaves_the_page_or_lies_on_another(number, source, width, drawn):
    figure = drawn(number, source, width)
    boxes = [(text.get_text(), text.get_window_extent()) for text in letters(figure)]
    for name, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
    for index, (name, box) in enumerate(boxes):
        for other, its in boxes[:index]:
            across = min(box.x1, its.x1) - max(box.x0, its.x0)
            down = min(box.y1, its.y1) - max(box.y0, its.y0)
            assert across <= 2 or down <= 0.3 * min(box.height, its.height), (name, other)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("number", "source"), [case for case in CASES if case[0] not in (2, 3)])
def test_no_mark_and_no_bar_is_clipped(number, source, width, drawn):
    for axes in drawn(number, source, width).axes:
        low, high = sorted(axes.get_ylim())
        in_data = [line.get_transform().contains_branch_seperately(axes.transData)[1] for line in axes.lines]
        ends = [line.get_ydata() for line, own in zip(axes.lines, in_data, strict=True) if own]
        ends += [path[:, 1] for bars in axes.collections for path in bars.get_segments()]
        for values in ends:
            values = numpy.asarray(values, float)
            assert (values[numpy.isfinite(values)] >= low - 1e-9).all()
            assert (values[numpy.isfinite(values)] <= high + 1e-9).all()


def bars_of(figure) -> int:
    return sum(
        len(own.get_segments())
        for axes in figure.axes
        for own in axes.collections
        if isinstance(own, LineCollection)
    )


def faces(figure) -> set[str]:
    """Fills of the marks of models, and of token lengths in Figure 9."""
    shapes = {shape for _, shape in style.MODEL_LOOKS.values()} | set(style.LENGTH_MARKERS)
    lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() in shapes]
    return {to_hex(line.get_markerfacecolor()) for line in lines if line.get_markerfacecolor() != "none"}


@pytest.mark.parametrize("number", [4, 5, 6, 7, 8, 9, 10])
def test_bars_are_over_seeds_and_one_seed_is_hollow(number, drawn):
    several, one = (drawn(number, source, style.PAGE) for source in ("three seeds", "one seed"))
    assert bars_of(several) > 0 and "#ffffff" not in faces(several)
    assert bars_of(one) == 0 and "#ffffff" in faces(one)
    said = " ".join(text.get_text() for text in one.texts).replace("\n", " ")
    assert f"hollow: fewer than {MINIMAL_SEEDS} seeds, so no bar" in said and "bars: 95" not in said


@pytest.mark.parametrize("number", [8, 10])
def test_measured_accuracies_start_at_zero_and_chance_is_drawn(number, drawn):
    measured = drawn(number, "three seeds", style.PAGE).axes[0]
    assert measured.get_ylim()[0] == 0
    levels = {line.get_ydata()[0] for line in measured.lines if len(set(line.get_ydata())) == 1}
    assert any(level == pytest.approx(100 / 48) for level in levels)
    assert "chance" in [text.get_text() for text in measured.texts]


def test_the_ceiling_is_drawn_where_bars_come_near_it():
    table = pandas.DataFrame({"value": [80.0], "low": [60.0], "high": [130.0]})
    table = table.assign(source="measured", interval=points.INTERVALS["seeds"])
    with matplotlib.rc_context(style.settings()):
        _, [[panel]] = style.panels(1, 1)
        style.accuracy_axis(panel, [table], 2.0)
    assert panel.get_ylim() == (0, 103) and {text.get_text() for text in panel.texts} == {"ceiling", "chance"}


def test_drops_cannot_exceed_what_the_baseline_has_above_chance(drawn):
    figure = drawn(4, "three seeds", style.PAGE)
    lines = {
        to_hex(line.get_color()): line.get_ydata()[0]
        for line in figure.axes[0].lines
        if line.get_alpha() == 0.7
    }
    assert set(lines) == {style.colour(model) for model in ("S/16", "B/16", "L/16")}
    assert all(level == pytest.approx(50 - 100 / 48, abs=2) for level in lines.values())


def test_the_counts_of_classes_are_the_worlds():
    for world in WORLDS:
        assert points.CLASSES[world] == len(class_names(world))


def test_stars_have_the_token_counts_that_the_paper_prints(drawn):
    rows = [
        record["row"]
        for name in ("table1", "table8")
        for record in load_records([PUBLISHED / f"{name}.json"])
    ]
    said = [text.get_text() for text in drawn(8, "published", style.PAGE).axes[0].texts]
    for model, image, text, row in (
        ("B/16", 50, 16, "(I50,T16)"),
        ("L/16", 17, 16, "(I17,T16)"),
        ("L/16", 37, 8, "(I37,T8)"),
        ("H/14", 36, 8, "CLIPA-H/14 | 36 | 8"),
    ):
        assert any(row in known.replace(", ", ",") for known in rows), row
        assert f"{model} (I{image}, T{text})" in said


@pytest.mark.parametrize(
    ("number", "source"), [(1, "published"), (1, "three seeds"), (5, "published"), (6, "published")]
)
def test_no_mark_hides_another(number, source, drawn):
    for axes in drawn(number, source, style.PAGE).axes:
        marks = [
            line
            for line in axes.lines
            if line.get_marker() in {shape for _, shape in style.MODEL_LOOKS.values()}
        ]
        places = [
            axes.transData.transform(place)
            for line in marks
            for place in line.get_xydata()
            if line.get_markersize() < 9
        ]
        for index, place in enumerate(places):
            distances = [numpy.hypot(*(place - other)) for other in places[:index]]
            assert all(distance > 6 for distance in distances)  # of 200 dots an inch: 2 points


def test_figure_1_shows_what_the_intervals_leave_possible():
    table = pandas.DataFrame(
        {"drop": [0.0, 0.5, 0.8, 3.0], "low": [numpy.nan, 0.2, 0.1, 0.5], "high": [numpy.nan, 0.8, 1.5, 5.5]},
        index=[197, 101, 50, 17],
    ).assign(interval=["", *[points.INTERVALS["seeds"]] * 3])
    assert figure01.smallest_within(table["drop"].to_dict(), 1) == 50
    assert figure01.possible(table, 1) == (17, 101)
    # A length of one seed excludes nothing: it may be over the threshold, or not.
    assert figure01.possible(table.assign(interval=["", *[points.INTERVALS["items"]] * 3]), 1) == (17, 197)
    assert figure01.first_over(table, 50) == 17 and figure01.first_over(table, 17) == 17


def test_figure_1_is_hollow_where_it_rests_on_one_seed(drawn):
    one = drawing(1).data(frames((0,))[1])
    assert one.one_seed.all() and (one.low <= one.tokens).all() and (one.high >= one.tokens).all()
    assert not drawing(1).data(frames()[1]).one_seed.any()
    assert "#ffffff" in faces(drawn(1, "one seed", style.PAGE))


@pytest.mark.parametrize("number", [2, 4])
def test_files_have_their_size_in_print(number, tmp_path):
    sources = [PUBLISHED / name for name in figures.SOURCES[number]]
    written = figures.make(number, [], sources, tmp_path / f"figure{number}.pdf")
    for variant, width in zip(figures.VARIANTS, WIDTHS, strict=True):
        stem = f"figure{number}{variant}"
        assert matplotlib.image.imread(tmp_path / f"{stem}.png").shape[1] == round(width * figures.PNG_DPI)
        assert f"/MediaBox [ 0 0 {72 * width:g} ".encode() in (tmp_path / f"{stem}.pdf").read_bytes()
        assert f'width="{72 * width:g}pt"' in (tmp_path / f"{stem}.svg").read_text("utf-8")
    tracked = [path for path in written if path.suffix == ".png" and "column" not in path.stem]
    assert sum(path.stat().st_size for path in tracked) < 800_000
