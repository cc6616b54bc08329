"""What the numeric tests share: devices, dtypes, random problems, tolerances, comparison."""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass

import numpy as np
import paddle
import pytest
from oracle import deform_conv2d_loop

import paddle_dcn

DEVICES = ["cpu"]
if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
    DEVICES.append("gpu")

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

EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}

FULL_BITS = ("tensor_float32", "float32", "float64")  # what random values keep 24 bits for

# An empty batch needs matrix products without rows, which Paddle 2.6 refuses in the reference.
EMPTY_REFERENCE = not paddle.__version__.startswith("2.")

TENSORS = ("x", "offset", "mask", "weight", "bias")


@pytest.fixture(params=DEVICES)
def device(request):
    """Make each device there is the current one."""
    before = paddle.device.get_device()
    paddle.device.set_device(request.param)
    yield request.param
    paddle.device.set_device(before)


@pytest.fixture(params=["deform_conv2d", "deform_conv2d_reference"])
def implementation(request):
    """Return the operator, then the reference: for the rules that both must obey."""
    return getattr(paddle_dcn, request.param)


def pair(value):
    """Return (v, v) for an int, the value itself otherwise."""
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Case:
    """One problem: the sizes and attributes, and the kind of offsets."""

    batch: int
    channels: int
    size: tuple[int, int]
    outputs: int
    kernel: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    deformable_groups: int = 1
    modulated: bool = True
    bias: bool = True
    offsets: str = "random"  # a key of _OFFSETS
    im2col_step: int | None = None
    data_format: str = "NCHW"

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Padding as (top, bottom, left, right)."""
        pads = pair(self.padding)
        return pads if len(pads) == 4 else (pads[0], pads[0], pads[1], pads[1])

    @property
    def out_size(self) -> tuple[int, int]:
        """(Ho, Wo)."""
        ends = (self.pads[:2], self.pads[2:])
        reach = [d * (k - 1) + 1 for d, k in zip(pair(self.dilation), pair(self.kernel))]
        return tuple(
            (size + sum(pads) - span) // step + 1
            for size, pads, span, step in zip(self.size, ends, reach, pair(self.stride))
        )

    @property
    def depth(self) -> dict[str, int]:
        """How many rounded terms are summed into an element of the output and of each gradient."""
        taps = math.prod(pair(self.kernel))
        pixels = math.prod(self.out_size)
        group_outputs = self.outputs // self.groups
        coordinate = group_outputs * self.channels // self.deformable_groups
        return {
            "out": self.channels // self.groups * taps,
            "x": group_outputs * taps * pixels,  # all samples may fall on one pixel
            "offset": 4 * coordinate,
            "mask": 4 * coordinate,
            "weight": max(1, self.batch * pixels),
            "bias": max(1, self.batch * pixels),
        }

    def attributes(self) -> dict:
        """Keyword arguments of deform_conv2d."""
        names = ("stride", "padding", "dilation", "groups", "deformable_groups")
        names += ("im2col_step", "data_format")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """Return a short test id: what differs from the defaults."""
        parts = [f"{self.batch}x{self.channels}x{self.size[0]}x{self.size[1]}-{self.outputs}"]
        for field, short in _SHORT.items():
            value = getattr(self, field)
            if value != self.__dataclass_fields__[field].default:
                parts.append(short + "x".join(map(str, np.atleast_1d(value))))
        return "-".join(parts)


_SHORT = {
    "kernel": "k",
    "stride": "s",
    "padding": "p",
    "dilation": "d",
    "groups": "g",
    "deformable_groups": "dg",
    "modulated": "modulated",
    "bias": "bias",
    "offsets": "",
    "im2col_step": "step",
    "data_format": "",
}


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


def to_tensor(array: np.ndarray, dtype: str, wanted: bool = False) -> paddle.Tensor:
    """Make a leaf tensor of any dtype, bfloat16 included."""
    tensor = paddle.to_tensor(array).astype(dtype).detach()
    tensor.stop_gradient = not wanted
    return tensor


def to_array(tensor: paddle.Tensor) -> np.ndarray:
    """Return a tensor of any dtype as a float64 array."""
    return tensor.detach().astype("float64").numpy()


def run(function, case, arrays, dtypes=("float64", "float64"), wanted=TENSORS, backward=True):
    """Return output and gradients (by tensor name) of a deform_conv2d, as NCHW float64 arrays.

    `function` is called with tensors of `dtypes` = (x's, offset's); a gradient that backward left
    out is missing from the result.
    """
    nhwc = case.data_format == "NHWC"

    def tensor(name, want):
        array = arrays[name]
        if nhwc and name in ("x", "grad"):
            array = array.transpose(0, 2, 3, 1)
        return to_tensor(array, dtypes[name in ("offset", "mask")], want)

    tensors = {n: tensor(n, backward and n in wanted) for n in TENSORS if arrays[n] is not None}
    out = function(**tensors, **case.attributes())
    assert str(out.dtype).endswith(dtypes[0])
    results = {"out": out}
    if backward:
        out.backward(tensor("grad", False))
        results |= {n: t.grad for n, t in tensors.items() if t.grad is not None}
        for name, t in tensors.items():
            assert t.grad is None or t.grad.dtype == t.dtype, name
    results = {name: to_array(t) for name, t in results.items()}
    for name in ("out", "x"):
        if nhwc and name in results:
            results[name] = results[name].transpose(0, 3, 1, 2)
    return results


def loop(case: Case, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the output by the numpy loop."""
    return deform_conv2d_loop(
        *(arrays[name] for name in TENSORS),
        stride=pair(case.stride),
        padding=case.pads,
        dilation=pair(case.dilation),
        groups=case.groups,
        deformable_groups=case.deformable_groups,
    )


def loss(function, case: Case, arrays: dict[str, np.ndarray]) -> float:
    """Return the number whose gradients `run` gives, in float64."""
    return (run(function, case, arrays, backward=False)["out"] * arrays["grad"]).sum()


def expected(case: Case, dtype: str = "bfloat16") -> dict[str, np.ndarray]:
    """Return output and gradients of `random_problem(case, dtype)`, by the reference in float64."""
    return _expected(case, "float32" if dtype in FULL_BITS else "bfloat16")


@functools.cache
def _expected(case: Case, dtype: str) -> dict[str, np.ndarray]:
    if case.batch == 0 and not EMPTY_REFERENCE:
        pytest.skip("operations of Paddle 2.6 refuse empty tensors")
    return run(paddle_dcn.deform_conv2d_reference, case, random_problem(case, dtype))


def tolerance(dtype: str, depth: int, scale: float, k: float = 4.0) -> float:
    """Return the largest error to expect of a sum of `depth` rounded terms up to `scale`.

    Rounding errors of a sum behave like a random walk: k * eps * sqrt(depth) * scale. Half types
    are summed in float32, and round the samples that enter the sum and its result once each.
    """
    summed = EPSILON["float64" if dtype == "float64" else "float32"]
    rounded = 2 * EPSILON[dtype] if EPSILON[dtype] > summed else 0.0
    return (k * summed * math.sqrt(depth) + rounded) * scale


def assert_close(actual: np.ndarray, wanted: np.ndarray, dtype: str, depth: int, what: str):
    """Assert equal shapes and non-finite values, the rest within tolerance() of `depth` terms."""
    assert actual.shape == wanted.shape, f"{what}: shape {actual.shape}, expected {wanted.shape}"
    finite = np.isfinite(wanted)
    limit = tolerance(dtype, depth, np.abs(wanted[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        wrong = np.where(finite, ~(np.abs(actual - wanted) <= limit), actual != wanted)
    wrong &= ~(np.isnan(actual) & np.isnan(wanted))
    if wrong.any():
        first = tuple(map(int, np.argwhere(wrong)[0]))
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} differ, first at {first}: "
            f"{actual[first]!r}, expected {wanted[first]!r} within {limit:.3g}"
        )


def assert_results_close(actual: dict, wanted: dict, case: Case, dtypes: tuple[str, str]):
    """Assert the output and every gradient to be close, each with its own dtype and depth."""
    assert actual.keys() == wanted.keys()
    for name, array in wanted.items():
        among = dtypes if name in ("offset", "mask") else dtypes[:1]
        coarsest = max(among, key=EPSILON.__getitem__)
        assert_close(actual[name], array, coarsest, case.depth[name], name)
