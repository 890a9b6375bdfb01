"""Figures 4, 9, 10: the numbers behind them, the marks on them, the bytes of the files."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clipa import study
from clipa.records import frame_of, load_frame, write_records
from clipa.render import figures
from clipa.render.figures import FigureError, drawing, style
from fabricated import measured_grid

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "table11.json"
DROPS = {"resize112": (3, 3.2, 2), "resize64": (10, 7, 5)}
figure04, figure09, figure10 = map(drawing, (4, 9, 10))
MODULES = {4: figure04, 9: figure09, 10: figure10}


@pytest.fixture(scope="module")
def published():
    return load_frame([PUBLISHED])


@pytest.fixture(scope="module")
def three_seeds():
    return frame_of(measured_grid(DROPS))


@pytest.fixture(scope="module")
def one_seed():
    return frame_of(measured_grid(DROPS, seeds=(0,)))


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in axes.texts]
    return found


def test_figure_4_data_are_the_papers_drops(published):
    points = figure04.data(published).set_index(["image_reduction", "image_tokens", "model"])
    # Four reductions of three models: baseline and four lengths, two for the grid.
    assert len(points) == 3 * (5 + 3 + 5 + 5) and points.index.is_unique
    drop = points["drop"]
    assert [drop["resize", 17, model] for model in ("S/16", "B/16", "L/16")] == [6.2, 4.3, 3.0]
    assert drop["block", 99, "L/16"] == -0.3 and (drop.xs(197, level=1) == 0).all()
    assert points.low.isna().all()


def test_figure_4_draws_every_point_and_threshold(published):
    drawn = figure04.draw(published)
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles == ["Random masking", "Grid masking", "Block masking", "Image resizing"]
    for axes, lengths in zip(drawn.axes, (5, 3, 5, 5), strict=True):
        lines = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
        assert [len(line.get_xdata()) for line in lines] == [lengths] * 3
        levels = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
        assert {1, 2} <= levels
        assert axes.get_xlim()[0] > axes.get_xlim()[1]
        assert axes.get_ylim() == drawn.axes[0].get_ylim()
    assert "Published numbers (Table 11)" in "".join(texts(drawn))


def test_measured_points_have_means_and_intervals_over_seeds(three_seeds, one_seed):
    points = figure04.data(three_seeds).set_index(["image_tokens", "model"])
    own = three_seeds[(three_seeds.run == "S16-resize64-truncation32") & (three_seeds.stage == "finetune")][
        "drop"
    ]
    row = points.loc[(17, "S/16")]
    half = 4.302653 * own.std(ddof=1) / numpy.sqrt(3)
    assert row["drop"] == pytest.approx(own.mean()) and row.seeds == 3 and row.interval == "95 % over seeds"
    assert (row.low, row.high) == pytest.approx((own.mean() - half, own.mean() + half))
    single = figure04.data(one_seed).set_index(["image_tokens", "model"]).loc[(17, "S/16")]
    assert single.interval == "95 % over test items" and single.low < single["drop"] < single.high


@pytest.mark.parametrize("number", [4, 9, 10])
def test_measured_figures_say_what_they_show(number, three_seeds, one_seed, published):
    said = " ".join(texts(MODULES[number].draw(three_seeds, published)).copy()).replace("\n", " ")
    for part in ("micro-v1", "pictograms/v1/plain (n = 4000), not ImageNet", "3 seeds", "95 % over seeds"):
        assert part in said
    assert "ublished" in said
    said = " ".join(texts(MODULES[number].draw(one_seed))).replace("\n", " ")
    assert "1 seed, hollow: fewer than 3 seeds, so no bar" in said and "test items" not in said


def test_figure_9_has_a_line_for_each_length(published, three_seeds):
    points = figure09.data(published)
    assert sorted(points.parameters.unique()) == [55e6, 141e6, 414e6]
    assert len(points) == 3 * (4 + 2 + 4 + 4)
    drawn = figure09.draw(three_seeds, published)
    assert [len(axes.get_xticks()) for axes in drawn.axes] == [3, 3]
    assert "Panels of the two sources have axes of their own" in " ".join(texts(drawn))
    assert {"17 tokens", "50"} <= set(texts(drawn))


def test_figure_10_counts_image_and_text_tokens(published, three_seeds):
    points = figure10.data(published).set_index(["image_reduction", "image_tokens", "model"])
    row = points.loc[("resize", 17, "L/16")]
    assert (row.pretraining_tokens, row["value"]) == ((17 + 32) * 2.56e9, 66.2)
    assert points.loc[("grid", 197, "S/16")]["value"] == 56.7
    measured = figure10.data(three_seeds).set_index(["image_tokens", "model"])
    # What ran in pre-training (4 patches), not in fine-tuning (64).
    assert measured.loc[(17, "B/16")].pretraining_tokens == (4 + 1 + 32) * 80_000
    with pytest.raises(FigureError, match="no record of its pre-train stage"):
        figure10.data(
            three_seeds[(three_seeds.stage == "finetune") | (three_seeds.image_reduction == "none")]
        )


def test_figure_10_never_puts_two_scales_on_one_accuracy_axis(three_seeds, published):
    measured, theirs = figure10.draw(three_seeds, published).axes
    assert measured.get_ylim()[1] < 50 < theirs.get_ylim()[1]


def test_what_cannot_be_drawn_is_said(three_seeds, published, tmp_path):
    with pytest.raises(FigureError, match="no full-length baseline"):
        figure04.draw(three_seeds[three_seeds.image_reduction == "none"])
    lacking = [r for r in measured_grid(DROPS) if r["run"] != "S16-none-truncation32"]
    with pytest.raises(FigureError, match=r"micro-v1\.S16-resize112.*its full-length baseline"):
        figure04.draw(frame_of(lacking))
    with pytest.raises(FigureError, match="figure 11: the paper has none; there are figures 1, 2, 3, 4"):
        figures.make(11, [], [PUBLISHED], tmp_path / "figure11.pdf")


def test_swapped_columns_change_the_data(published):
    swapped = published.copy()
    columns = swapped.stage == "finetune"
    swapped.loc[columns, "model"] = swapped.loc[columns, "model"].map(
        {"S/16": "B/16", "B/16": "S/16", "L/16": "L/16"}
    )
    assert (
        not figure04.data(swapped)
        .reset_index(drop=True)
        .equals(figure04.data(published).reset_index(drop=True))
    )


@pytest.mark.parametrize("number", [4, 9, 10])
def test_files_are_the_same_bytes_every_time(number, tmp_path):
    write_records(tmp_path / "records.json", measured_grid(DROPS, n=200))
    written = [
        figures.make(
            number, [tmp_path / "records.json"], [PUBLISHED], tmp_path / name / f"figure{number}.pdf"
        )
        for name in ("a", "b")
    ]
    assert {path.name for path in written[0]} == {
        f"figure{number}{file}" for file in (*figures.FILES, ".csv")
    }
    assert written[0][-1].parent.name == "data"
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert not any(
        b"CreationDate" in path.read_bytes() or b"dc:date" in path.read_bytes() for path in written[0]
    )
    assert "published" in written[0][-1].read_text() and "measured" in written[0][-1].read_text()


def test_labels_are_spread_without_changing_their_order():
    assert style.spread([1.0, 5.0], 1.0) == [1.0, 5.0]
    placed = style.spread([2.0, 2.1, 9.0, 1.9], 1.0)
    assert placed == pytest.approx([2.0, 3.0, 9.0, 1.0])
    random = numpy.random.default_rng(0)
    for _ in range(50):
        wanted = random.random(6) * 4
        found = numpy.array(style.spread(list(wanted), 0.5))
        assert (numpy.argsort(found, kind="stable") == numpy.argsort(wanted, kind="stable")).all()
        assert (numpy.diff(numpy.sort(found)) > 0.5 - 1e-9).all()


def test_labels_stay_inside_the_page_and_apart(published):
    with matplotlib.rc_context(style.settings()):
        for module in MODULES.values():
            drawn = module.draw(published)
            FigureCanvasAgg(drawn).draw()
            page = drawn.bbox
            for axes in drawn.axes:
                boxes = [text.get_window_extent() for text in axes.texts if text.get_fontweight() == "bold"]
                assert len(boxes) >= 2
                assert all(box.x1 <= page.x1 and box.x0 >= page.x0 for box in boxes)
                for index, box in enumerate(boxes):
                    assert not any(
                        box.shrunk(1, 0.8).overlaps(other.shrunk(1, 0.8)) for other in boxes[:index]
                    )


def test_a_figure_needs_no_torch_and_few_seconds(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from clipa.render.figures import make; "
        f"make(4, [], [Path({str(PUBLISHED)!r})], Path({str(tmp_path / 'figure4.pdf')!r})); "
        "heavy = {'torch', 'open_clip', 'spacy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 'slow' if time.process_time() > 8 else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [1, 4, 9, 10])
def test_a_new_model_and_a_new_reduction_are_drawn_without_a_change_here(number, published, monkeypatch):
    monkeypatch.setitem(study.IMAGE_REDUCTIONS, "ring", study.ImageReduction("Ring masking", mask=True))
    records = [
        record
        | {"model": record["model"].replace("S/16", "M/16"), "run": record["run"].replace("S16", "M16")}
        for record in measured_grid(DROPS, n=300)
    ]
    ring = {"image_reduction": "ring", "image_size": 224}
    for record in records:
        if record["image_reduction"] == "resize" and record["patches"] == 16:
            record |= ring | {"run": record["run"].replace("resize64", "ring16")}
    frame = frame_of(records)
    assert "M/16" in set(drawing(number).data(frame).model)
    said = " ".join(texts(drawing(number).draw(frame, published)))
    assert "M/16" in said or number in (1, 9)  # there models are named on the axis
    assert "Ring masking" in said or number == 1
