"""Problems with more than 2^31 elements: `python -m tests.large`, with 8 GiB of memory.

One has that many column elements, C * kh * kw * Ho * Wo of an image, the other an x so large.
Patches of the results, at the ends too, are compared with the formula. Gradients are also held
together as a whole: the output is linear in x, mask and weight each, so the product of the
output (without bias) and its gradient is that of each of these and its gradient.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import paddle

from paddle_dcn import deform_conv2d
from tests.support.cases import Case
from tests.support.comparison import assert_close
from tests.support.formula import formula

REACH = 3  # pixels by which offsets move a tap, at most
PATCH = 4  # rows and columns of output that are compared at a place
MARGIN = REACH + 2


def random_array(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Fill a large array with a random part of it, again and again."""
    part = np.random.default_rng(seed).normal(0, 1, 1_000_003)
    return np.resize(part.astype(dtype), shape)


def random_offsets(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Odd multiples of 1/128: coordinates are exact, and none is an integer, where kinks are."""
    part = np.random.default_rng(1).integers(-64 * REACH, 64 * REACH, 1_000_003)
    return np.resize(((2 * part + 1) / 128).astype(dtype), shape)


def borrow(array: np.ndarray) -> paddle.Tensor:
    """Return a tensor on the array's own memory."""
    return paddle.utils.dlpack.from_dlpack(array)


def places(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Where patches begin: in all corners, and in the middle."""
    (height, width), ends = size, []
    for row in (0, height // 2, height - PATCH):
        ends += [(row, column) for column in (0, width // 2, width - PATCH)]
    return ends


def around(images: np.ndarray, row: int, column: int, margin: int) -> np.ndarray:
    """Cut [..., H, W] around a patch, zeros outside, in float64."""
    size = PATCH + 2 * margin
    cut = np.zeros((*images.shape[:-2], size, size))
    top, left = row - margin, column - margin
    inside = tuple(
        slice(max(0, first), min(end, first + size))
        for first, end in zip((top, left), images.shape[-2:])
    )
    target = tuple(slice(s.start - first, s.stop - first) for s, first in zip(inside, (top, left)))
    cut[(..., *target)] = images[(..., *inside)]
    return cut


def check_patch(arrays, results, image: int, place: tuple[int, int], dtype: str) -> None:
    """Compare what is known of a patch with the formula; the kernel is 3x3, padding and stride 1.

    Around the patch all is as in the whole problem but for gradients of outputs, which end there.
    """
    channels, outputs = arrays["x"].shape[1], arrays["weight"].shape[0]
    side = PATCH + 2 * MARGIN + 2
    case = Case(1, channels, (side, side), outputs, modulated="mask" in arrays)
    few = {n: a[image : image + 1] for n, a in arrays.items() if n not in ("weight", "bias")}
    cut = {"x": around(few["x"], *place, MARGIN + 1)}
    for name in ("offset", "mask", "grad"):
        cut[name] = around(few[name], *place, MARGIN) if name in few else None
    cut |= {n: arrays[n].astype("float64") for n in ("weight", "bias")}
    outside = np.ones((1, 1, *few["offset"].shape[-2:]))
    cut["grad"] = cut["grad"] * around(outside, *place, MARGIN)
    wanted = formula(case, cut)
    inner = slice(MARGIN, MARGIN + PATCH)
    spots = {"out": inner, "offset": inner, "mask": inner}
    rows, columns = (slice(first, first + PATCH) for first in place)
    for name, spot in spots.items():
        if name in results:
            found = results[name][image : image + 1, :, rows, columns].astype("float64")
            assert_close(found, wanted[name][..., spot, spot], dtype, case.depth[name], name)
    if "x" in results:  # of which the patch gets gradients from outputs up to MARGIN away
        found = results["x"][image : image + 1, :, rows, columns].astype("float64")
        spot = slice(MARGIN + 1, MARGIN + 1 + PATCH)
        assert_close(found, wanted["x"][..., spot, spot], dtype, case.depth["x"], "x")


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of products in float64, without copies in it."""
    a, b = a.ravel(), b.ravel()
    step = 1 << 24
    return sum(
        float(np.dot(a[i : i + step].astype("float64"), b[i : i + step].astype("float64")))
        for i in range(0, a.size, step)
    )


def many_columns() -> str:
    """Forward and backward of one large image."""
    channels, side, outputs = 64, 1936, 8
    columns = channels * 9 * side**2
    assert columns > 2**31
    arrays = {
        "x": random_array((1, channels, side, side), "float32", 0),
        "offset": random_offsets((1, 18, side, side), "float32"),
        "mask": random_array((1, 9, side, side), "float32", 2),
        "weight": random_array((outputs, channels, 3, 3), "float32", 3),
        "bias": random_array((outputs,), "float32", 4),
    }
    tensors = {name: borrow(array) for name, array in arrays.items()}
    for tensor in tensors.values():
        tensor.stop_gradient = False
    arrays["grad"] = random_array((1, outputs, side, side), "float32", 5)
    out = deform_conv2d(**tensors, padding=1)
    gradients = paddle.grad([out], list(tensors.values()), [borrow(arrays["grad"])])
    results = {"out": out.numpy()} | {n: g.numpy() for n, g in zip(tensors, gradients)}
    for place in places((side, side)):
        check_patch(arrays, results, 0, place, "float32")
    bias = arrays["bias"].reshape(1, -1, 1, 1)
    whole = dot(arrays["grad"], results["out"] - bias)
    size = dot(np.abs(arrays["grad"]), np.abs(results["out"] - bias))
    for name in ("x", "mask", "weight"):
        found = dot(arrays[name], results[name])
        assert abs(found - whole) < 1e-6 * size, f"{name}: {found}, expected {whole} of {size}"
    sums = arrays["grad"].sum((0, 2, 3), dtype="float64")
    np.testing.assert_allclose(results["bias"], sums, rtol=1e-5, atol=1e-2)
    return f"{columns} column elements, forward and backward"


def many_pixels() -> str:
    """Forward of more images than 32 bits can number the values of."""
    images, channels, side, outputs = 129, 64, 512, 2
    arrays = {
        "x": random_array((images, channels, side, side), "float16", 0),
        "offset": random_offsets((images, 18, side, side), "float16"),
        "weight": random_array((outputs, channels, 3, 3), "float16", 3),
        "bias": random_array((outputs,), "float16", 4),
    }
    assert arrays["x"].size > 2**31
    out = deform_conv2d(**{name: borrow(array) for name, array in arrays.items()}, padding=1)
    results = {"out": out.numpy()}
    arrays["grad"] = np.broadcast_to(0.0, results["out"].shape)
    for image in (0, 1, images // 2, images - 2, images - 1):
        for place in places((side, side)):
            check_patch(arrays, results, image, place, "float16")
    return f"x of {arrays['x'].size} values, forward"


def peak() -> float:
    """Return the most memory that the process had since it was asked to count anew, in GiB."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) / 2**20


def main() -> None:
    """Run both; print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    for problem in (many_columns, many_pixels):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory
        begin = time.monotonic()
        said = problem()
        print(f"{said}: right; {time.monotonic() - begin:.0f} s, {peak():.1f} GiB at most")


if __name__ == "__main__":
    main()
