"""Which patches each image reduction keeps: counts, structure, chance, and the same on NumPy and torch."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from clipa import study
from clipa.reductions import ReductionError
from clipa.reductions.images import block_shape, keep, resized_grid

PAPER = (14, 14)  # 224 pixels in patches of 16
# Table 11: kept patches of 196, per mask; grid masking stops at one patch per window.
KEPT = {"random": (98, 49, 36, 16), "grid": (98, 49), "block": (98, 49, 36, 16)}
PAPER_CASES = [(mask, kept) for mask, counts in KEPT.items() for kept in counts]
READINGS = {name: known.readings for name, known in study.IMAGE_REDUCTIONS.items() if known.readings}
GRID_READINGS, BLOCK_READINGS = READINGS["grid"], READINGS["block"]
ALL_READINGS = [("random", None), *[(mask, reading) for mask in READINGS for reading in READINGS[mask]]]

even = st.integers(1, 8).map(lambda half: 2 * half)
seeds = st.integers(0, 2**32 - 1)


def noise_of(seed, samples, shape):
    return numpy.random.default_rng(seed).random((samples, shape[0] * shape[1]), dtype=numpy.float32)


def as_pictures(kept, shape):
    """Indices (B, K) as boolean pictures (B, rows, columns)."""
    pictures = numpy.zeros((len(kept), shape[0] * shape[1]), bool)
    pictures[numpy.arange(len(kept))[:, None], kept] = True
    return pictures.reshape(-1, *shape)


def windows_of(pictures):
    """Pictures (B, rows, columns) as 2×2 windows (B, windows, 4): upper left, upper right, lower left, lower right."""
    corners = [pictures[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return numpy.stack([corner.reshape(len(pictures), -1) for corner in corners], axis=-1)


@st.composite
def cases(draw):
    """(mask, reading, shape, kept) that the mask can keep."""
    mask, reading = draw(st.sampled_from(ALL_READINGS))
    shape = (draw(even), draw(even))
    patches = shape[0] * shape[1]
    kept = patches // 4 * draw(st.integers(1, 4)) if mask == "grid" else draw(st.integers(1, patches))
    return mask, reading, shape, kept


@given(cases(), seeds)
def test_every_sample_keeps_exactly_that_many_different_patches_in_order(case, seed):
    mask, reading, shape, kept = case
    indices = keep(mask, noise_of(seed, 5, shape), shape, kept, reading)
    assert indices.shape == (5, kept) and indices.dtype == numpy.int64
    assert indices.min() >= 0 and indices.max() < shape[0] * shape[1]
    assert (numpy.diff(indices, axis=1) > 0).all()


@given(cases(), seeds, st.booleans())
def test_torch_keeps_what_numpy_keeps(case, seed, coarse):
    mask, reading, shape, kept = case
    noise = noise_of(seed, 6, shape)
    if coarse:
        noise = numpy.floor(noise * 4) / 4  # many equal numbers: the choice among them must not differ either
    expected = keep(mask, noise, shape, kept, reading)
    found = keep(mask, torch.from_numpy(noise), shape, kept, reading)
    assert found.dtype == torch.int64
    assert (found.numpy() == expected).all()


@given(cases(), seeds)
def test_a_sample_does_not_depend_on_its_batch(case, seed):
    mask, reading, shape, kept = case
    noise = noise_of(seed, 6, shape)
    batch = keep(mask, noise, shape, kept, reading)
    for rank in (0, 3):
        assert (keep(mask, noise[rank : rank + 1], shape, kept, reading)[0] == batch[rank]).all()
    assert (keep(mask, noise, shape, kept, reading) == batch).all()


@pytest.mark.parametrize(("mask", "kept"), PAPER_CASES)
def test_masks_of_table_11_are_drawn_for_each_sample(mask, kept):
    first, second = (keep(mask, noise_of(seed, 64, PAPER), PAPER, kept) for seed in (0, 1))
    different = len({tuple(row) for row in numpy.concatenate([first, second]).tolist()})
    if mask == "grid":
        assert different == 1  # a fixed corner, as in the paper's figure
    else:
        assert different > (5 if kept == 98 and mask == "block" else 30)
        assert (first != second).any()


@given(even, even, st.integers(1, 200), seeds)
def test_random_keeps_the_smallest_noise(rows, columns, kept, seed):
    assume(kept < rows * columns)
    noise = noise_of(seed, 4, (rows, columns))
    indices = keep("random", noise, (rows, columns), kept)
    for row, chosen in zip(noise, indices, strict=True):
        assert row[chosen].max() <= numpy.delete(row, chosen).min()


# ----------------------------------------------------------------------------------------------------------------- grid


@given(even, even, st.integers(1, 3), st.sampled_from(GRID_READINGS), seeds)
def test_grid_keeps_as_many_patches_in_every_window(rows, columns, each, reading, seed):
    shape = (rows, columns)
    indices = keep("grid", noise_of(seed, 4, shape), shape, rows * columns // 4 * each, reading)
    assert (windows_of(as_pictures(indices, shape)).sum(-1) == each).all()


@pytest.mark.parametrize(
    ("reading", "each", "window"),
    [
        ("diagonal", 1, [1, 0, 0, 0]),
        ("diagonal", 2, [1, 0, 0, 1]),
        ("diagonal", 3, [1, 1, 0, 1]),
        ("row", 1, [1, 0, 0, 0]),
        ("row", 2, [1, 1, 0, 0]),
        ("row", 3, [1, 1, 1, 0]),
        (None, 1, [1, 0, 0, 0]),
        (None, 2, [1, 0, 0, 1]),
    ],
)
def test_grid_with_a_fixed_corner_keeps_the_same_patches_everywhere(reading, each, window):
    indices = keep("grid", noise_of(3, 4, PAPER), PAPER, 49 * each, reading)
    assert (windows_of(as_pictures(indices, PAPER)) == numpy.array(window, bool)).all()


def test_shifted_grid_has_one_corner_per_sample_each_equally_often():
    kept = windows_of(as_pictures(keep("grid", noise_of(0, 4000, PAPER), PAPER, 49, "shifted"), PAPER))
    assert (kept == kept[:, :1]).all()
    assert numpy.abs(kept[:, 0].mean(0) - 0.25).max() < 0.03
    two = windows_of(as_pictures(keep("grid", noise_of(0, 400, PAPER), PAPER, 98, "shifted"), PAPER))
    assert (
        (two == two[:, :1]).all()
        and (two[..., 0] == two[..., 3]).all()
        and (two[..., 1] == two[..., 2]).all()
    )


def test_drawn_grid_keeps_the_smallest_noise_of_each_window():
    noise = noise_of(0, 50, PAPER)
    kept = windows_of(as_pictures(keep("grid", noise, PAPER, 49, "drawn"), PAPER))
    assert (kept.argmax(-1) == windows_of(noise.reshape(-1, *PAPER)).argmin(-1)).all()


@pytest.mark.parametrize("kept", [36, 16, 50, 15])
def test_grid_refuses_what_it_cannot_keep(kept):
    with pytest.raises(ReductionError, match="49, 98, 147"):
        keep("grid", noise_of(0, 1, PAPER), PAPER, kept)


def test_grid_refuses_a_shape_without_windows():
    with pytest.raises(ReductionError, match="2×2 window"):
        keep("grid", noise_of(0, 1, (7, 7)), (7, 7), 12)


# ---------------------------------------------------------------------------------------------------------------- block


@pytest.mark.parametrize(
    ("shape", "kept", "expected"),
    [
        (PAPER, 98, (7, 14)),
        (PAPER, 49, (7, 7)),
        (PAPER, 36, (6, 6)),
        (PAPER, 16, (4, 4)),
        ((16, 16), 192, (12, 16)),  # Table 9, H/14 fine-tuned with 25, 50, 75 % removed
        ((16, 16), 128, (8, 16)),
        ((16, 16), 64, (8, 8)),
        ((8, 8), 32, (4, 8)),
        ((8, 8), 9, (3, 3)),
    ],
)
def test_shape_of_the_kept_block(shape, kept, expected):
    assert block_shape(shape, kept) == expected


@given(st.integers(1, 16), st.integers(1, 16), st.data())
def test_the_kept_block_fits_and_wastes_less_than_a_row(rows, columns, data):
    kept = data.draw(st.integers(1, rows * columns))
    height, width = block_shape((rows, columns), kept)
    assert height <= rows and width <= columns
    assert (height - 1) * width < kept <= height * width


@given(st.integers(1, 14), st.integers(1, 14), st.sampled_from(["keep-one", "keep-centre"]), st.data(), seeds)
def test_one_rectangle_is_kept(rows, columns, reading, data, seed):
    kept = data.draw(st.integers(1, rows * columns))
    height, width = block_shape((rows, columns), kept)
    pictures = as_pictures(
        keep("block", noise_of(seed, 4, (rows, columns)), (rows, columns), kept, reading), (rows, columns)
    )
    for picture in pictures:
        used_rows, used_columns = numpy.flatnonzero(picture.any(1)), numpy.flatnonzero(picture.any(0))
        assert len(used_rows) == used_rows[-1] - used_rows[0] + 1 == height
        assert len(used_columns) == used_columns[-1] - used_columns[0] + 1 == width
        # Whole but for the end of the last row.
        flat = picture[used_rows[0] :, used_columns[0] :][:height, :width].ravel()
        assert flat[:kept].all() and not flat[kept:].any()


def test_every_place_of_the_block_is_equally_likely():
    indices = keep("block", noise_of(0, 16000, PAPER), PAPER, 49)
    places, counts = numpy.unique(indices[:, 0], return_counts=True)
    assert set(places) == {row * 14 + column for row in range(8) for column in range(8)}
    assert numpy.abs(counts / 250 - 1).max() < 0.3


def test_the_centred_block_is_in_the_middle():
    picture = as_pictures(keep("block", noise_of(0, 3, PAPER), PAPER, 36, "keep-centre"), PAPER)
    assert picture[:, 4:10, 4:10].all() and (picture.sum((1, 2)) == 36).all()


def test_removal_takes_whole_blocks_in_the_order_of_their_noise():
    """Against the definition, block by block: 4×4 patches at the patch with the smallest noise, then the next."""
    noise = noise_of(7, 20, PAPER)
    for kept in (98, 49, 16):
        for row, chosen in zip(noise, keep("block", noise, PAPER, kept, "remove-several"), strict=True):
            left = set(range(196))
            for place in row.argsort():
                top, start = divmod(int(place), 14)
                covered = [(top + i) % 14 * 14 + (start + j) % 14 for i in range(4) for j in range(4)]
                going = sorted(left.intersection(covered))
                spare = len(left) - len(going) - kept
                left -= set(going[max(0, -spare) :])
                if len(left) == kept:
                    break
            assert sorted(left) == chosen.tolist()


@pytest.mark.parametrize("reading", [None, "remove-several"])
def test_masks_that_reach_everywhere_favour_no_place_too_much(reading):
    """Random and removed-blocks masks keep each patch equally often."""
    mask = "block" if reading else "random"
    often = as_pictures(keep(mask, noise_of(0, 8000, PAPER), PAPER, 49, reading), PAPER).mean(0)
    assert numpy.abs(often - 0.25).max() < 0.03


# --------------------------------------------------------------------------------------------------------------- others


def test_fixed_places_leave_positions_out_and_drawn_ones_do_not():
    """docs/method.md: a fixed grid misses three of four positions, each beside a seen one; a fixed block the border."""

    def seen(mask, reading):
        return as_pictures(keep(mask, noise_of(1, 4000, PAPER), PAPER, 49, reading), PAPER).any(0)

    for mask, reading in ALL_READINGS:
        fixed = (mask, reading) in {("grid", "diagonal"), ("grid", "row"), ("block", "keep-centre")}
        assert seen(mask, reading).sum() == (49 if fixed else 196), (mask, reading)
    grid, block = numpy.pad(seen("grid", None), 1), seen("block", "keep-centre")
    shifts = [numpy.roll(grid, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    assert numpy.logical_or.reduce(shifts)[1:-1, 1:-1].all()
    assert not block[[0, -1]].any() and not block[:, [0, -1]].any()
    assert numpy.array_equal(seen("grid", None), seen("grid", "diagonal"))
    assert numpy.array_equal(seen("block", None), seen("block", "keep-one"))


@pytest.mark.parametrize("reduction", ["none", "resize"])
def test_whole_pictures_keep_all_patches(reduction):
    assert (keep(reduction, noise_of(0, 3, (7, 7)), (7, 7), 49) == numpy.arange(49)).all()
    with pytest.raises(ReductionError, match="keeps all 7×7"):
        keep(reduction, noise_of(0, 3, (7, 7)), (7, 7), 48)


@pytest.mark.parametrize(
    ("pixels", "patch", "patches"),
    [(224, 16, 196), (160, 16, 100), (112, 16, 49), (96, 16, 36), (64, 16, 16), (84, 14, 36), (336, 14, 576)],
)
def test_patches_of_resized_pictures(pixels, patch, patches):
    rows, columns = resized_grid(pixels, patch)
    assert rows == columns and rows * columns == patches


@pytest.mark.parametrize(("pixels", "patch"), [(100, 16), (8, 16), (0, 16)])
def test_pictures_that_cannot_be_cut_are_refused(pixels, patch):
    with pytest.raises(ReductionError, match=f"{pixels} pixels"):
        resized_grid(pixels, patch)


@pytest.mark.parametrize(
    ("reduction", "kept", "reading", "says"),
    [
        ("random", 0, None, "cannot keep 0"),
        ("random", 197, None, "cannot keep 197"),
        ("random", 49, "diagonal", "no readings"),
        ("grid", 49, "keep-one", "diagonal, row, shifted, drawn"),
        ("block", 49, "row", "keep-one, keep-centre, remove-several"),
        ("crop", 49, None, "none, random, grid, block, resize"),
    ],
)
def test_what_cannot_be_asked(reduction, kept, reading, says):
    with pytest.raises(ReductionError, match=says):
        keep(reduction, noise_of(0, 2, PAPER), PAPER, kept, reading)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ReductionError, match="196"):
        keep("random", noise_of(0, 2, (7, 7)), PAPER, 16)


def test_the_rules_load_neither_torch_nor_numpy():
    code = (
        "import sys, clipa.reductions.images, clipa.reductions.texts;"
        "found = {'torch', 'numpy'} & set(sys.modules); print(*found); sys.exit(bool(found))"
    )
    source = Path(__file__).resolve().parent.parent / "src"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source)})


def test_the_rules_run_on_a_device_without_a_copy_to_the_host():
    """On the meta device there are no numbers: whatever would read one fails."""
    noise = torch.empty((32, 196), device="meta")
    for mask, reading in ALL_READINGS:
        kept = keep(mask, noise, PAPER, 49, reading)
        assert kept.device.type == "meta" and kept.shape == (32, 49)
