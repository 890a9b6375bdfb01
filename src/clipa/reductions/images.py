"""Image tokens (§3.2): which patches of an image the image encoder sees in pre-training.

| reduction | kept patches                                              | the paper                              |
|-----------|-----------------------------------------------------------|----------------------------------------|
| random    | those with the smallest noise                             | "random masking strategy from MAE"     |
| grid      | of each 2×2 window one (two at 50 %, three at 25 %)       | "one patch in each 2×2 grid window"    |
| block     | one rectangle of patches                                  | "removes large blocks from the input"  |
| resize    | all: the image is made smaller before it is cut up        | "anti-aliasing bilinear interpolation" |

A count is a number of patches, never a ratio: int(196 × (1 − r)) is 15 for the r that means 16. The class token is
not among the patches; it is always kept, so 49 patches are the 50 image tokens of Table 11. Evaluation reduces nothing.

Shapes: B samples; L = rows × columns patches in reading order; K patches kept of them. `shape` is (rows, columns).
Grid and block masking have no released code. Where the paper's words leave a choice, each choice is a named reading;
the first in the registry (``clipa.study``) is the default, and the function says why.

A rule takes (noise [B, L] uniform in [0, 1), shape, kept, reading) and returns the indices [B, kept], ascending.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from clipa.reductions import ReductionError, arrays_of, first
from clipa.study import IMAGE_REDUCTIONS, rule_of

if TYPE_CHECKING:
    from clipa.reductions import Array

Shape = tuple[int, int]

WIDEST = 2  # a kept rectangle is at most this many times as long as wide, where the count allows it


def keep(reduction: str, noise: Array, shape: Shape, kept: int, reading: str | None = None) -> Array:
    """Indices (B, kept) of the patches that `reduction` keeps, ascending, from `noise` (B, L) uniform in [0, 1).

    `reduction` is none or a name in `clipa.study.IMAGE_REDUCTIONS`; none and resize keep all of `shape`.
    Raises ReductionError if the reduction cannot keep exactly `kept` patches of this shape, or has no such reading.
    """
    rows, columns = shape
    if noise.ndim != 2 or noise.shape[1] != rows * columns:
        raise ReductionError(
            f"noise of shape {tuple(noise.shape)}: expected (samples, {rows * columns}), a number for each patch"
        )
    if not 1 <= kept <= rows * columns:
        raise ReductionError(f"{reduction} masking cannot keep {kept} of {rows}×{columns} patches")
    known = IMAGE_REDUCTIONS.get(reduction)
    if known is None and reduction != "none":
        raise ReductionError(f"no image reduction {reduction!r} (known: none, {', '.join(IMAGE_REDUCTIONS)})")
    readings = known.readings if known else ()
    if reading is not None and reading not in readings:
        named = f"no reading {reading!r} (known: {', '.join(readings)})" if readings else "no readings"
        raise ReductionError(f"image reduction {reduction!r} has {named}")
    if known is None or not known.mask:
        if kept != rows * columns:
            raise ReductionError(f"{reduction} keeps all {rows}×{columns} patches, not {kept}")
        return first(noise, kept)
    return rule_of(known.rule)(noise, shape, kept, reading or next(iter(readings), None))


def random(noise: Array, shape: Shape, kept: int, reading: str | None = None) -> Array:
    """Random masking: the `kept` patches with the smallest noise, drawn for each sample."""
    return first(noise, kept)


def grid(noise: Array, shape: Shape, kept: int, reading: str | None = "diagonal") -> Array:
    """Grid masking: the same number of patches, one to three, in every 2×2 window.

    Which of the four (the first two readings need no noise):
    `diagonal` (default): the upper left one; as a second one its opposite, lower right; then the upper right.
    `row`: the upper left one; as a second one its neighbour, upper right; then the lower left.
    `shifted`: as `diagonal`, from a corner that is drawn for each sample and the same in all its windows.
    `drawn`: drawn for each window by itself.

    The default keeps a fixed corner because the paper's Figure 2 shows one, and MAE's grid is a regular one. One image
    cannot show whether the corner is fixed: `shifted` and `drawn` are the other answers. With the default, the tower
    sees a quarter of all positions before fine-tuning (at 50 %: half), but every other one has a neighbour among them.
    The random crop before it moves the image under the grid. Two patches per window (Table 11's 98 of 196) are nowhere
    described; on the diagonal they are evenly spread in both directions, as the single one is.
    """
    arrays, (rows, columns) = arrays_of(noise), shape
    if rows % 2 or columns % 2 or kept % (rows * columns // 4):
        possible = ", ".join(str(rows * columns // 4 * k) for k in (1, 2, 3))
        raise ReductionError(
            f"grid masking cannot keep {kept} of {rows}×{columns} patches: it keeps 1, 2 or 3 of each 2×2 window"
            + ("" if rows % 2 or columns % 2 else f", that is {possible}")
        )
    if reading == "drawn":
        windows = noise.reshape(-1, rows // 2, 2, columns // 2, 2).swapaxes(2, 3)
        rank = windows.reshape(-1, rows // 2, columns // 2, 4).argsort(stable=True).argsort(stable=True)
        rank = rank.reshape(-1, rows // 2, columns // 2, 2, 2).swapaxes(2, 3).reshape(noise.shape)
        return first(rank, kept)
    patch = arrays.arange(rows * columns, device=noise.device)
    lower, right = patch // columns % 2, patch % 2  # place of each patch in its window, as two bits
    if reading == "shifted":
        # The smallest noise in the first window names the corner; ^ exchanges sides and keeps opposites opposite.
        start = noise.reshape(-1, rows, columns)[:, :2, :2].reshape(-1, 4).argsort(stable=True)[:, :1]
        lower, right = lower ^ (start // 2), right ^ (start % 2)
    rank = 2 * lower + right if reading == "row" else 2 * (lower ^ right) + lower
    return first(arrays.broadcast_to(rank, noise.shape), kept)


def block(noise: Array, shape: Shape, kept: int, reading: str | None = "keep-one") -> Array:
    """Block masking: patches are kept, or removed, as whole rectangles.

    `keep-one` (default): one rectangle (see `block_shape`) stays, anywhere in the image, drawn for each sample.
    `keep-centre`: the same rectangle, always in the middle.
    `remove-several`: square blocks are removed, drawn one after the other, until `kept` patches are left.

    The paper writes that block masking "removes large blocks", which alone would mean the last reading, MAE's. But its
    Figure 2 keeps one contiguous block and removes all around it; §3.2 says that such masks "preserve more structured
    patterns"; and before fine-tuning S/16 falls to 28.4 % with 16 patches against 36.4 % for random ones (Table 11), as
    can be expected if one piece of 64×64 pixels is all it sees. The figure's block lies in the middle, but one image
    cannot show whether it always does. If it did, the tower would see none of the border before fine-tuning, so the
    default draws the place, as random masking does; grid masking's default keeps the figure's corner (see `grid`).
    """
    arrays, (rows, columns) = arrays_of(noise), shape
    if reading == "remove-several":
        return first(-_removal_time(noise, shape), kept)
    height, width = block_shape(shape, kept)
    places = columns - width + 1
    if reading == "keep-centre":
        top, left = (rows - height) // 2, (columns - width) // 2
    else:
        # Of the patches that can be the block's upper left one, the one with the smallest noise is.
        corners = noise.reshape(-1, rows, columns)[:, : rows - height + 1, :places]
        start = corners.reshape(len(noise), -1).argsort(stable=True)[:, :1]
        top, left = start // places, start % places
    patch = arrays.arange(rows * columns, device=noise.device)
    row, column = patch // columns, patch % columns
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return first(arrays.broadcast_to((~inside) * 1, noise.shape), kept)


def block_shape(shape: Shape, kept: int) -> Shape:
    """Rows and columns of the rectangle that block masking keeps: 49 of 14×14 is 7×7, 98 is 7×14, 128 of 16×16 is 8×16.

    The squarest one of exactly `kept` patches, at most twice as long one way as the other (then wide, not high); if
    there is none, the one with the fewest patches too many, and its last row is kept in part: the count stays exact.
    """
    rows, columns = shape

    def badness(height: int) -> tuple[bool, int, float, int]:
        width = -(-kept // height)
        stretch = max(height, width) / min(height, width)
        return stretch > WIDEST, height * width - kept, stretch, height

    fitting = [height for height in range(1, rows + 1) if -(-kept // height) <= columns]
    best = min(fitting, key=badness)
    return best, -(-kept // best)


def _removal_time(noise: Array, shape: Shape) -> Array:
    """For each patch (B, L) the noise of the block that removes it; the block with the smallest noise goes first.

    A block lies at each patch. Blocks that reach over a border wrap around, so that every patch lies in
    as many blocks as any other and none is likelier to stay. Of the last block only as much as needed is removed.
    """
    arrays, (rows, columns) = arrays_of(noise), shape
    side = (
        2 * min(rows, columns) + 3
    ) // 7  # 4 in 14×14: 16 patches, the smallest block of BEiT's masks, which MAE uses
    time = noise.reshape(-1, rows, columns)
    for axis in (1, 2):
        time = reduce(arrays.minimum, [arrays.roll(time, step, axis) for step in range(max(1, side))])
    return time.reshape(noise.shape)


def resized_grid(image_size: int, patch_size: int) -> Shape:
    """Rows and columns of patches of a square image resized to `image_size` pixels: 112 at 16 is 7×7.

    Only the count: the loader resizes, with the anti-aliased bilinear interpolation of §3.2.
    """
    if image_size < patch_size or image_size % patch_size:
        raise ReductionError(f"{image_size} pixels cannot be cut into patches of {patch_size}")
    return image_size // patch_size, image_size // patch_size
