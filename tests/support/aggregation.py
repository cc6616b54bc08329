"""DCNv3 and DCNv4 from the papers' formula, in numpy and float64, and what is held against it.

Arrays have the layouts of the originals: channels last, x before y, taps down the columns.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

import numpy as np

import paddle_dcn
from tests.support.comparison import EPSILON, assert_close
from tests.support.operators import to_array, to_tensor
from tests.support.problems import representable

DOUBLE = ("float64", "float64")


@dataclass(frozen=True)
class Case:
    """One problem; pairs are (height, width)."""

    size: tuple[int, int] = (7, 6)
    channels: int = 8
    group: int = 2
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    offset_scale: float = 1.0
    remove_center: bool = False
    batch: int = 2
    nonfinite: bool = False  # some offsets are

    @property
    def out_size(self) -> tuple[int, int]:
        """(Ho, Wo)."""
        values = zip(self.size, self.kernel, self.stride, self.pad, self.dilation)
        return tuple((n + 2 * p - (d * (k - 1) + 1)) // s + 1 for n, k, s, p, d in values)

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Row and column in the kernel of each sample, down the columns."""
        height, width = self.kernel
        every = [(row, column) for column in range(width) for row in range(height)]
        middle = (height // 2, width // 2)
        return [tap for tap in every if not (self.remove_center and tap == middle)]

    @property
    def arguments(self) -> tuple:
        """What follows the tensors in a call of the originals."""
        pairs = (*self.kernel, *self.stride, *self.pad, *self.dilation)
        groups = (self.group, self.channels // self.group)
        return (*pairs, *groups, self.offset_scale, 256, self.remove_center)

    @property
    def depth(self) -> dict[str, int]:
        """How many rounded terms are summed into an element of each result."""
        taps = len(self.taps)
        pixels = max(1, self.batch * int(np.prod(self.out_size)))
        coordinate = 4 * (self.channels // self.group)
        return {"out": taps, "input": taps * pixels, "offset": coordinate, "mask": coordinate}


def problem(case: Case) -> dict[str, np.ndarray]:
    """Draw input, offset, mask and the gradient of the output, exact in every dtype."""
    rng = np.random.default_rng(zlib.crc32(repr(case).encode()))
    image = (case.batch, *case.size, case.channels)
    pixels, samples = (case.batch, *case.out_size), case.group * len(case.taps)
    offset = rng.normal(0, 2, (*pixels, 2 * samples))
    if case.nonfinite:
        odd = rng.choice([np.nan, np.inf, -np.inf], offset.shape)
        offset = np.where(rng.random(offset.shape) < 0.1, odd, offset)
    return {
        "input": representable(rng.normal(0, 1, image), 2.0**-12, 8),
        "offset": representable(offset, 2.0**-4, 8),
        "mask": representable(rng.uniform(-0.5, 1.5, (*pixels, samples)), 2.0**-12, 8),
        "grad": representable(rng.normal(0, 1, (*pixels, case.channels)), 2.0**-12, 8),
    }


def pack(case: Case, offset: np.ndarray, mask: np.ndarray, padding: int = 0) -> np.ndarray:
    """Return the offset_mask of DCNv4: by group its offsets, then its masks; NaN fills it up."""
    pixels, taps = offset.shape[:3], len(case.taps)
    by_group = [
        each.reshape(*pixels, case.group, planes * taps)
        for each, planes in ((offset, 2), (mask, 1))
    ]
    packed = np.concatenate(by_group, -1).reshape(*pixels, case.group * 3 * taps)
    return np.pad(packed, [(0, 0)] * 3 + [(0, padding)], constant_values=np.nan)


def _hats(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor of each of `size` pixels in a sample at a coordinate, and its slope."""
    low, pixels = np.floor(at)[..., None], np.arange(size)
    factor = np.where(pixels == low, 1 - (at[..., None] - low), 0.0)
    factor = np.where(pixels == low + 1, at[..., None] - low, factor)
    return factor, np.where(pixels == low + 1, 1.0, 0.0) - np.where(pixels == low, 1.0, 0.0)


def formula(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the output and the gradients of input, offset and mask.

    Axes: n images, i and j output pixels, g groups, k taps, c channels of a group, r and s rows and
    columns of the input.
    """
    n, g, taps = case.batch, case.group, np.array(case.taps, np.float64)
    height, width = case.out_size
    image = arrays["input"].reshape(n, *case.size, g, case.channels // g)
    offset = arrays["offset"].reshape(n, height, width, g, len(taps), 2)
    mask = arrays["mask"].reshape(n, height, width, g, len(taps))
    at = []
    for axis, moved in ((0, offset[..., 1]), (1, offset[..., 0])):
        center = case.dilation[axis] * (case.kernel[axis] - 1) // 2
        step = np.arange(case.out_size[axis]) * case.stride[axis] - case.pad[axis] + center
        step = step.reshape((1, -1, 1, 1, 1) if axis == 0 else (1, 1, -1, 1, 1))
        at.append(step + (taps[:, axis] * case.dilation[axis] - center + moved) * case.offset_scale)
    with np.errstate(invalid="ignore"):
        inside = (at[0] > -1) & (at[0] < case.size[0]) & (at[1] > -1) & (at[1] < case.size[1])
    by_row, slope_y = _hats(np.where(inside, at[0], -9), case.size[0])
    by_column, slope_x = _hats(np.where(inside, at[1], -9), case.size[1])

    def samples(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.einsum("nijgkr,nijgks,nrsgc->nijgkc", rows, columns, image, optimize=True)

    grad = arrays["grad"].reshape(n, height, width, g, case.channels // g)
    sampled = samples(by_row, by_column)
    out = (sampled * mask[..., None]).sum(-2)
    moves = [
        (samples(*hats) * grad[..., None, :]).sum(-1) * mask * case.offset_scale
        for hats in ((by_row, slope_x), (slope_y, by_column))
    ]
    by_image = np.einsum(
        "nijgkr,nijgks,nijgk,nijgc->nrsgc", by_row, by_column, mask, grad, optimize=True
    )
    return {
        "out": out.reshape(arrays["grad"].shape),
        "input": by_image.reshape(arrays["input"].shape),
        "offset": np.stack(moves, -1).reshape(arrays["offset"].shape),
        "mask": (sampled * grad[..., None, :]).sum(-1).reshape(arrays["mask"].shape),
    }


@functools.cache
def expected(case):
    """Return the formula's results for the case's problem."""
    return formula(case, problem(case))


def call(version, case, **tensors):
    """Call `dcnv3` or `dcnv4` as the originals are called."""
    return getattr(paddle_dcn, version)(*tensors.values(), *case.arguments)


def sampling_arrays(case, version):
    """Return what is sampled by, by name, in the layout of a version; v4's padded as there."""
    arrays = problem(case)
    if version == "dcnv3":
        return {name: arrays[name] for name in ("offset", "mask")}
    packed = pack(case, arrays["offset"], arrays["mask"])
    return {"offset_mask": np.pad(packed, [(0, 0)] * 3 + [(0, -packed.shape[-1] % 8)])}


def unpacked(case, results):
    """Return the results of v4 by the names of v3."""
    if "offset_mask" not in results:
        return results
    packed, taps = results.pop("offset_mask"), len(case.taps)
    assert not packed[..., 3 * case.group * taps :].any()  # what is not read has no gradient
    packed = packed[..., : 3 * case.group * taps]
    packed = packed.reshape(*packed.shape[:3], case.group, 3 * taps)
    pixels = (*case.out_size, -1) if case.batch else (*case.out_size, 0)
    results["offset"] = packed[..., : 2 * taps].reshape(case.batch, *pixels)
    results["mask"] = packed[..., 2 * taps :].reshape(case.batch, *pixels)
    return results


def run(case, version, dtypes=DOUBLE, function=call):
    """Return output and gradients by name, as float64 arrays."""
    arrays = problem(case)
    tensors = {"input": to_tensor(arrays["input"], dtypes[0], True)}
    for name, array in sampling_arrays(case, version).items():
        tensors[name] = to_tensor(array, dtypes[1], True)
    out = function(version, case, **tensors)
    assert str(out.dtype) == f"paddle.{dtypes[0]}"
    out.backward(to_tensor(arrays["grad"], dtypes[0]))
    for name, tensor in tensors.items():
        assert tensor.grad.dtype == tensor.dtype, name
    results = {"out": out} | {name: tensor.grad for name, tensor in tensors.items()}
    return unpacked(case, {name: to_array(tensor) for name, tensor in results.items()})


def check(case, results, dtypes=DOUBLE):
    """Hold what `run` has returned against the formula."""
    wanted = expected(case)
    assert results.keys() == wanted.keys()
    for name, array in wanted.items():
        if case.batch == 0:
            assert results[name].size == 0
            continue
        among = dtypes if name in ("offset", "mask") else dtypes[:1]
        coarsest = max(among, key=EPSILON.__getitem__)
        assert_close(results[name], array, coarsest, case.depth[name], name)
