"""How far a result may be from the expected one, and the assertions that say where it is not."""

from __future__ import annotations

import math

import numpy as np

from tests.support.cases import Case

# Of tensor_float32, in which GPUs multiply float32, it is that of the factors.
EPSILON = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "tensor_float32": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def tolerance(dtype: str, depth: int, scale, k: float = 4.0):
    """Return the largest error to expect of a sum of `depth` rounded terms up to `scale`.

    Rounding errors of a sum behave like a random walk: k * eps * sqrt(depth) * scale. Half types
    are summed in float32, and round the samples that enter the sum and its result once each.
    """
    summed = EPSILON["float64" if dtype == "float64" else "float32"]
    rounded = 2 * EPSILON[dtype] if EPSILON[dtype] > summed else 0.0
    return (k * summed * math.sqrt(depth) + rounded) * scale


def assert_close(
    actual: np.ndarray,
    wanted: np.ndarray,
    dtype: str,
    depth: int,
    what: str,
    scale: np.ndarray | None = None,
):
    """Assert equal shapes and non-finite values, the rest within tolerance() of `depth` terms.

    `scale` is that of each number; without it, the largest of them.
    """
    assert actual.shape == wanted.shape, f"{what}: shape {actual.shape}, expected {wanted.shape}"
    finite = np.isfinite(wanted)
    scale = np.abs(wanted[finite]).max(initial=0.0) if scale is None else scale
    limit = np.broadcast_to(tolerance(dtype, depth, scale), wanted.shape)
    with np.errstate(invalid="ignore"):
        wrong = np.where(finite, ~(np.abs(actual - wanted) <= limit), actual != wanted)
    wrong &= ~(np.isnan(actual) & np.isnan(wanted))
    if wrong.any():
        first = tuple(map(int, np.argwhere(wrong)[0]))
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} differ, first at {first}: "
            f"{actual[first]!r}, expected {wanted[first]!r} within {limit[first]:.3g}"
        )


def assert_results_close(actual: dict, wanted: dict, case: Case, dtypes: tuple[str, str]):
    """Assert the output and every gradient to be close, each with its own dtype and depth."""
    assert actual.keys() == wanted.keys()
    for name, array in wanted.items():
        among = dtypes if name in ("offset", "mask") else dtypes[:1]
        coarsest = max(among, key=EPSILON.__getitem__)
        assert_close(actual[name], array, coarsest, case.depth[name], name)
