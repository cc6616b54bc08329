"""How far Winograd's minimal filtering F(4x4, 3x3) may be from the sum that it computes."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def amplification() -> float:
    """By how much Winograd's transforms enlarge rounding errors of a sum of nine, as a variance.

    In one dimension output i is the sum over points t of A[i, t] * (G[t] w) * (B[t] d), which has
    errors of the size of these terms; the direct sum is of three terms. Toom and Cook's matrices,
    for the points t: 1, t, t^2, ..., and for B the product of x - s over the other points s.
    """
    points = np.sqrt(0.5) * np.array([0, 1, -1, 2, -2])
    others = [np.delete(points, t) for t in range(5)]
    g = np.array([t ** np.arange(3) / np.prod(t - s) for t, s in zip(points, others)])
    b = np.array([np.poly(s)[::-1] for s in others])
    a = points ** np.arange(4)[:, None]
    terms = a**2 * (g**2).sum(1) * (b**2).sum(1)
    infinite = [0, 0, 0, (np.poly(points) ** 2).sum()]
    return ((terms.sum(1) + infinite).max() / 3) ** 2


def in_tiles(pixels: np.ndarray, padding: tuple[int, ...], out_size: tuple[int, int]) -> np.ndarray:
    """Return which pixels of the output are in tiles of 4x4 that read any of those of x."""
    reach = np.zeros((*pixels.shape[:-2], *out_size), bool)
    padded = np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(padding[0], 6), (padding[2], 6)])
    for y in range(0, out_size[0], 4):
        for x in range(0, out_size[1], 4):
            read = padded[..., y : y + 6, x : x + 6].any((-1, -2), keepdims=True)
            reach[..., y : y + 4, x : x + 4] = read
    return reach
