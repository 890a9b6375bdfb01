"""Figures 2 and 3: what is drawn is what the rules of clipa.reductions keep, seen in the pixels."""

import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import numpy
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch

from clipa import study
from clipa.reductions import images, texts
from clipa.render.figures import figure02, figure03, save, style

DPI = 440
TEXT_ROWS = [(reduction, length) for length in figure03.LENGTHS for reduction in study.TEXT_REDUCTIONS]


class Rendered:
    """A figure and its pixels, (height, width, 3), upper left first."""

    def __init__(self, module):
        with matplotlib.rc_context(style.settings()):
            self.figure = module.draw(None)
            self.figure.set_dpi(DPI)
            canvas = FigureCanvasAgg(self.figure)
            canvas.draw()
            self.renderer = canvas.get_renderer()
            self.pixels = numpy.asarray(canvas.buffer_rgba())[..., :3].astype(int)

    def cut(self, box):
        """Pixels inside a box in display coordinates, whose y points up."""
        height = len(self.pixels)
        return self.pixels[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]

    def texts(self):
        """Every written text and its box, the empty ones excepted."""
        found = [text for axes in self.figure.axes for text in axes.texts] + list(self.figure.texts)
        return [(text, text.get_window_extent(self.renderer)) for text in found if text.get_text()]


@pytest.fixture(scope="module")
def second():
    return Rendered(figure02)


@pytest.fixture(scope="module")
def third():
    return Rendered(figure03)


# ------------------------------------------------------------------------------------------------------------- figure 2


def panel_pixels(rendered, panel):
    """The panel's patches (rows, columns) as lists of pixels, without the lines between them."""
    axes = next(axes for axes in rendered.figure.axes if axes.get_label() == panel.name)
    picture = rendered.cut(axes.get_window_extent(rendered.renderer))
    rows, columns = panel.shape
    size = len(picture) / rows
    middle = [
        (round((place + 0.25) * size), round((place + 0.75) * size)) for place in range(max(rows, columns))
    ]
    return [
        [picture[slice(*middle[row]), slice(*middle[column])].reshape(-1, 3) for column in range(columns)]
        for row in range(rows)
    ]


@pytest.mark.parametrize("panel", figure02.PANELS, ids=lambda panel: panel.name)
def test_kept_patches_are_in_colour_and_the_others_pale_grey(second, panel):
    noise = numpy.random.default_rng(figure02.SEED).random((1, panel.shape[0] * panel.shape[1]))
    kept = images.keep(panel.reduction, noise, panel.shape, panel.kept, panel.reading)[0].tolist()
    assert len(kept) == panel.kept
    photograph = figure02.photograph(panel.image_size)
    for row, patches in enumerate(panel_pixels(second, panel)):
        for column, pixels in enumerate(patches):
            inner = slice(16 * row + 4, 16 * row + 12), slice(16 * column + 4, 16 * column + 12)
            expected = photograph[inner].reshape(-1, 3).mean(0)
            if row * panel.shape[1] + column in kept:
                assert numpy.ptp(pixels, axis=1).max() > 0
                # The smaller a picture, the fewer pixels of the page show a patch.
                assert numpy.abs(pixels.mean(0) - expected).max() < 20
            else:
                assert (numpy.ptp(pixels, axis=1) == 0).all()
                assert pixels.mean() > 160
                assert pixels.mean() == pytest.approx(0.3 * expected.mean() + 0.7 * 246, abs=8)


def test_grid_masking_keeps_the_upper_left_patch_of_each_window(second):
    seen = panel_pixels(second, figure02.Panel("grid", 49))
    coloured = numpy.array([[numpy.ptp(pixels, axis=1).max() > 0 for pixels in row] for row in seen])
    expected = numpy.zeros((14, 14), bool)
    expected[::2, ::2] = True
    assert (coloured == expected).all()


def test_pictures_have_their_true_size(second):
    width = {axes.get_label(): axes.get_window_extent(second.renderer).width for axes in second.figure.axes}
    for size in (160, 112, 64):
        assert width[f"resize-{size}"] == pytest.approx(width["none-196"] * size / 224, abs=0.01)
    assert len({round(width[name], 3) for name in width if name and "resize" not in name}) == 1


def test_each_picture_says_how_many_patches_it_keeps(second):
    said = [text.get_text() for text, _ in second.texts()]
    counts = [f"{panel.kept} of 196" for panel in figure02.PANELS if panel.reduction != "resize"]
    for count in set(counts):
        assert sum(count in text for text in said) == counts.count(count)
    for size, patches in ((224, 196), (160, 100), (112, 49), (64, 16)):
        assert sum(f"{size} px: {patches} patches" in text for text in said) == 1


def test_every_named_reading_is_shown():
    shown = {(panel.reduction, panel.reading) for panel in figure02.READINGS}
    assert shown == {
        (mask, name)
        for mask, names in {k: v.readings for k, v in study.IMAGE_REDUCTIONS.items()}.items()
        for name in names[1:]
    }


def test_rows_stand_under_their_reduction_and_share():
    for label, panels in figure02.ROWS.items():
        share = float(label.split(" ")[0])
        for reduction, panel in zip(study.IMAGE_REDUCTIONS, panels, strict=True):
            if panel is not None:
                assert panel.reduction == reduction
                assert abs(100 - 100 * panel.kept / 196 - share) < 1.1  # 160 px is 100 patches, not 98


def test_data_of_figure_2_are_the_kept_patches():
    table = figure02.data(None)
    groups = table.groupby(["image_reduction", "reading", "image_size", "patches"], sort=False)
    assert len(groups) == len(figure02.PANELS)
    for panel, ((reduction, reading, size, patches), group) in zip(figure02.PANELS, groups, strict=True):
        assert (reduction, reading or None, size, patches) == (
            panel.reduction,
            panel.reading,
            panel.image_size,
            panel.kept,
        )
        assert group.patch.tolist() == figure02.kept_patches(panel).tolist()
        assert (group.row * panel.shape[1] + group.column == group.patch).all()


# ------------------------------------------------------------------------------------------------------------- figure 3


def chips(rendered):
    return {
        patch.get_gid(): patch.get_window_extent(rendered.renderer)
        for patch in rendered.figure.axes[0].patches
        if isinstance(patch, FancyBboxPatch)
    }


def fill_of(rendered, box):
    """Colour of a chip beside its letters: left of them, above the middle."""
    height = len(rendered.pixels)
    row = round(height - (box.y0 + 0.7 * box.height))
    return rendered.pixels[row, round(box.x0) + 3]


@pytest.mark.parametrize(("reduction", "length"), TEXT_ROWS)
def test_kept_pieces_are_filled_and_the_others_not(third, reduction, length):
    kept = figure03.kept_pieces(reduction, length)
    assert len(kept) == length - 1
    boxes, colours = chips(third), figure03.part_colours()
    for place, part in enumerate(figure03.PARTS):
        expected = numpy.array(to_rgb(colours[part]) if place in kept else (1, 1, 1)) * 255
        assert numpy.abs(fill_of(third, boxes[f"{reduction}-{length}-{place}"]) - expected).max() < 3
    assert numpy.abs(fill_of(third, boxes[f"{reduction}-{length}-cls"]) - numpy.array([34, 34, 34])).max() < 3


def test_what_the_rules_do_to_the_caption():
    kept = {
        row: " ".join(figure03.PIECES[place] for place in figure03.kept_pieces(*row)) for row in TEXT_ROWS
    }
    assert kept["truncation", 4] == "my fluffy grey"
    assert kept["truncation", 8] == "my fluffy grey kitten asleep on the"
    assert kept["syntax", 4] == "kitten windows ##ill"
    assert kept["syntax", 8] == "fluffy grey kitten asleep windows ##ill lisbon"
    whole = " ".join(figure03.PIECES)
    assert kept["block", 4] in whole and kept["block", 8] in whole
    assert (
        kept["random", 4] not in whole and kept["random", 8] not in whole
    )  # else it would look like a block


def test_chips_are_wide_enough_and_do_not_overlap(third):
    boxes = chips(third)
    for text, box in third.texts():
        owners = [chip for chip in boxes.values() if chip.x0 < (box.x0 + box.x1) / 2 < chip.x1]
        owners = [chip for chip in owners if chip.y0 < (box.y0 + box.y1) / 2 < chip.y1]
        for chip in owners:
            assert chip.x0 + 1 < box.x0 and box.x1 < chip.x1 - 1, text.get_text()
    for row in ["caption", *(f"{reduction}-{length}" for reduction, length in TEXT_ROWS)]:
        own = [boxes[f"{row}-{place}"] for place in ("cls", *range(len(figure03.PIECES)))]
        assert all(left.x1 <= right.x0 + 0.01 for left, right in pairwise(own))


def test_data_of_figure_3_are_the_kept_pieces():
    table = figure03.data(None)
    assert len(table) == len(TEXT_ROWS) * len(figure03.PIECES)
    for (reduction, length), group in table.groupby(["text_reduction", "text_tokens"]):
        assert group[group.kept].place.tolist() == figure03.kept_pieces(reduction, length)
        assert group.piece.tolist() == list(figure03.PIECES)
    named = dict(zip(table.piece, table.tag, strict=True))
    assert (named["kitten"], named["##ill"], named["grey"], named["the"]) == ("NOUN", "NOUN", "ADJ", "DET")
    assert texts.PARTS_OF_TAGS[named["lisbon"]] == texts.NOUN


# ----------------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("which", ["second", "third"])
def test_no_text_is_clipped_or_lies_on_another(which, request):
    rendered = request.getfixturevalue(which)
    height, width, _ = rendered.pixels.shape
    for text, box in rendered.texts():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    for (first, box), (other, its) in combinations(rendered.texts(), 2):
        across = min(box.x1, its.x1) - max(box.x0, its.x0)
        down = min(box.y1, its.y1) - max(box.y0, its.y0)
        assert across <= 0.5 or down <= 0.5, (first.get_text(), other.get_text())


@pytest.mark.parametrize(("module", "name"), [(figure02, "figure2"), (figure03, "figure3")])
def test_the_same_bytes_every_time(tmp_path, module, name):
    written = []
    for folder in ("once", "again"):
        (tmp_path / folder).mkdir()
        with matplotlib.rc_context(style.settings()):
            paths = save(module.draw(None), tmp_path / folder / f"{name}.pdf")
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_they_need_nothing_heavy():
    code = (
        "import sys; from clipa.render.figures import figure02, figure03\n"
        "for module in (figure02, figure03): module.draw(None), module.data(None)\n"
        "found = {'torch', 'open_clip', 'spacy', 'transformers'} & set(sys.modules)\n"
        "print(*found); sys.exit(bool(found))"
    )
    source = Path(__file__).resolve().parent.parent / "src"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source)})
