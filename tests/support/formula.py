"""The formula and its gradients, vectorised in numpy: an oracle that is fast on small problems."""

from __future__ import annotations

import numpy as np

from tests.support.cases import Case, pair
from tests.support.problems import grid, random_problem


def formula(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return output and gradients (for the output's `grad`) in float64, NCHW."""
    return _compute(case, arrays, -1.0)


def without_weight(case: Case, dtypes: tuple[str, str]) -> dict[str, np.ndarray]:
    """Return what a depthwise case gives that has a weight of ones."""
    arrays = dict(random_problem(case, dtypes[0]))
    arrays["weight"], arrays["bias"] = np.ones_like(arrays["weight"]), None
    results = formula(case, arrays)
    return {name: results[name] for name in ("out", "x", "offset", "mask")[: 3 + case.modulated]}


def absolute_terms(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return, for each number that `formula` gives, the sum of its terms' absolute values.

    It is what rounding errors are in proportion to, however much the terms cancel.
    """
    positive = {n: a if a is None or n == "offset" else np.abs(a) for n, a in arrays.items()}
    return _compute(case, positive, 1.0)


def _compute(case: Case, arrays: dict[str, np.ndarray], sign: float) -> dict[str, np.ndarray]:
    """Compute with differences of pixels, or with their sums if sign is 1.

    Axes: n images, d deformable groups, t taps, l output pixels, c channels of a deformable group.
    """
    n, d, t, pixels = case.batch, case.deformable_groups, case.taps, case.pixels
    c, (height, width) = case.deformable_channels, case.size
    groups, rows, columns = case.groups, case.size[0] + 2, case.size[1] + 2

    at = grid(case) + arrays["offset"].reshape(n, d, t, 2, *case.out_size)
    y, x = (at[:, :, :, axis].reshape(n * d, t * pixels) for axis in (0, 1))
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)  # false where one is not finite
    y, x = np.where(inside, y, 0), np.where(inside, x, 0)
    top, left = np.floor(y), np.floor(x)
    down, right = (y - top) * inside, (x - left) * inside
    up, across = inside - down, inside - right  # 1 - fraction, or 0 where not inside

    # A border of one zero holds every corner.
    bordered = np.pad(arrays["x"], [(0, 0), (0, 0), (1, 1), (1, 1)])
    image = bordered.reshape(n * d, c, rows * columns).transpose(0, 2, 1)
    corner = ((top + 1) * columns + left + 1).astype(np.int64)
    plane = np.arange(n * d)[:, None]
    steps = [0, 1, columns, columns + 1]
    v00, v01, v10, v11 = (image[plane, corner + step] for step in steps)
    factors = [up * across, up * right, down * across, down * right]
    sample = sum(f[..., None] * v for f, v in zip(factors, (v00, v01, v10, v11)))
    by_y = across[..., None] * (v10 + sign * v00) + right[..., None] * (v11 + sign * v01)
    by_x = up[..., None] * (v01 + sign * v00) + down[..., None] * (v11 + sign * v10)
    by_y, by_x = by_y * inside[..., None], by_x * inside[..., None]

    mask = np.ones((n * d, t * pixels))
    if arrays["mask"] is not None:
        # What is not inside samples nothing, whatever the mask is.
        mask = np.where(inside, arrays["mask"].reshape(n * d, t * pixels), 0.0)
    modulated = (sample * mask[..., None]).reshape(n, d, t, pixels, c)
    depth = case.group_channels * t
    matrix = modulated.transpose(0, 1, 4, 2, 3).reshape(n, groups, depth, pixels)
    weight = arrays["weight"].reshape(groups, case.group_outputs, depth)
    out = (weight @ matrix).reshape(n, case.outputs, *case.out_size)
    if arrays["bias"] is not None:
        out = out + arrays["bias"][:, None, None]

    grad = arrays["grad"].reshape(n, groups, case.group_outputs, pixels)
    back = (weight.transpose(0, 2, 1) @ grad).reshape(n, d, c, t, pixels)
    back = back.transpose(0, 1, 3, 4, 2).reshape(n * d, t * pixels, c)  # by modulated samples
    by_image = np.zeros_like(image)
    for step, factor in zip(steps, factors):
        np.add.at(by_image, (plane, corner + step), (factor * mask)[..., None] * back)
    by_image = by_image.transpose(0, 2, 1).reshape(n, case.channels, rows, columns)
    moves = np.stack([(back * by).sum(-1) * mask for by in (by_y, by_x)])
    moves = moves.reshape(2, n, d * t, *case.out_size).transpose(1, 2, 0, 3, 4)
    return {
        "out": out,
        "x": by_image[:, :, 1:-1, 1:-1],
        "offset": moves.reshape(n, 2 * d * t, *case.out_size),
        "mask": (back * sample).sum(-1).reshape(n, d * t, *case.out_size),
        "weight": (grad @ matrix.transpose(0, 1, 3, 2))
        .sum(0)
        .reshape(case.outputs, case.group_channels, *pair(case.kernel)),
        "bias": grad.sum((0, 3)).reshape(case.outputs),
    }
