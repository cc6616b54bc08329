"""Random arrays for a case, exact in the dtypes that they are tested in."""

from __future__ import annotations

import math
import zlib

import numpy as np

from tests.support.cases import Case, pair

# (dtype of x, weight, bias and out; dtype of offset and mask)
DTYPES = [
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float64", "float32"),
    ("float16", "float32"),
    ("bfloat16", "float32"),
]
DTYPE_IDS = [main if main == other else f"{main}+{other}" for main, other in DTYPES]
FULL_BITS = ("tensor_float32", "float32", "float64")  # what random values keep 24 bits for
TENSORS = ("x", "offset", "mask", "weight", "bias")


def grid(case: Case) -> np.ndarray:
    """Return where each tap samples without offset: [kh * kw, 2, Ho, Wo], y and x."""
    axes = []
    for axis in (0, 1):
        tap = np.arange(pair(case.kernel)[axis]) * pair(case.dilation)[axis]
        out = np.arange(case.out_size[axis]) * pair(case.stride)[axis] - case.pads[2 * axis]
        axes.append(tap[:, None] + out)
    taps_and_size = (len(axes[0]), len(axes[1]), *case.out_size)
    y = np.broadcast_to(axes[0][:, None, :, None], taps_and_size)
    x = np.broadcast_to(axes[1][None, :, None, :], taps_and_size)
    return np.stack([y, x], 2).reshape(-1, 2, *case.out_size).astype(np.float64)


def _border(rng, at, size):
    """Aim at coordinates on and 1/8 beside the edges of the image and of its zero border."""
    last = np.array(size, np.float64)[:, None, None]
    edges = np.stack(np.broadcast_arrays(-1.0, 0.0, last - 1, last, at * 0)[:4])
    edge = np.take_along_axis(edges, rng.integers(0, 4, (1, *at.shape)), 0)[0]
    return edge + rng.choice([-0.125, 0.0, 0.125], at.shape) - at


def _sprinkle(rng, values, odd, share=0.1):
    chosen = rng.random(values.shape) < share
    return np.where(chosen, rng.choice(odd, values.shape), values)


# Offsets [N, dg, kh * kw, 2, Ho, Wo] from a generator, the unmoved grid of that shape, and (H, W).
_OFFSETS = {
    "zero": lambda rng, at, size: np.zeros_like(at),
    "random": lambda rng, at, size: rng.normal(0, 2, at.shape),
    "integer": lambda rng, at, size: np.round(rng.normal(0, 2, at.shape)),
    "huge": lambda rng, at, size: _sprinkle(
        rng, rng.normal(0, 2, at.shape), [-6e4, -300.0, 300.0, 6e4], 0.4
    ),
    "border": _border,
    "nonfinite": lambda rng, at, size: _sprinkle(
        rng, rng.normal(0, 2, at.shape), [np.nan, np.inf, -np.inf]
    ),
}


def representable(values: np.ndarray, step: float, bits: int) -> np.ndarray:
    """Round to multiples of `step` and `bits` significant bits, of which every dtype has 8."""
    finite = np.isfinite(values)
    mantissa, exponent = np.frexp(np.where(finite, np.round(values / step) * step, 0))
    rounded = np.round(np.ldexp(mantissa, bits))
    return np.where(finite, np.ldexp(rounded, exponent - bits), values)


def random_problem(case: Case, dtype: str = "bfloat16") -> dict[str, np.ndarray]:
    """Draw float64 arrays x, offset, mask, weight, bias and grad (of the output), all NCHW.

    All values exist in `dtype`, so that a float64 result is the expected one: with as many bits as
    float32 has for it and float64, else as few as every dtype has. Offsets are multiples of 1/64:
    coordinates are exact, so no rounding can move a sample across an integer, where the offset
    gradient jumps.
    """
    rng = np.random.default_rng(zlib.crc32(repr(case).encode()))
    taps = math.prod(pair(case.kernel))
    depth = case.channels // case.groups * taps
    masks = (case.deformable_groups * taps, *case.out_size)
    at = np.tile(grid(case), (case.batch, case.deformable_groups, 1, 1, 1, 1))
    offset = _OFFSETS[case.offsets](rng, at, case.size)
    mask = _sprinkle(rng, rng.uniform(-0.5, 1.5, (case.batch, *masks)), [0.0])
    arrays = {
        "x": rng.normal(0, 1, (case.batch, case.channels, *case.size)),
        "mask": mask if case.modulated else None,
        "weight": rng.normal(0, depth**-0.5, (case.outputs, depth // taps, *pair(case.kernel))),
        "bias": rng.normal(0, 1, case.outputs) if case.bias else None,
        "grad": rng.normal(0, 1, (case.batch, case.outputs, *case.out_size)),
    }
    form = (2.0**-40, 24) if dtype in FULL_BITS else (2.0**-12, 8)
    arrays = {name: None if a is None else representable(a, *form) for name, a in arrays.items()}
    offset = offset.reshape(case.batch, 2 * masks[0], *case.out_size)
    arrays["offset"] = representable(offset, 2.0**-6, 8)
    return arrays


def inside_problem(case: Case) -> dict[str, np.ndarray]:
    """Return a random problem of an unpadded case, all samples inside, 1/8 from any kink."""
    arrays = random_problem(case)
    rng = np.random.default_rng(0)
    shape = arrays["offset"].shape
    arrays["offset"] = rng.integers(-1, 1, shape) + rng.integers(8, 57, shape) / 64
    return arrays
