"""Builds the emulated kernel library and runs it on numpy arrays beside a float64 loop."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "benchmarks"))

from cuda_kernels import (  # noqa: E402
    DTYPES,
    SOURCES,
    TENSOR_FLOAT32,
    BackwardTensors,
    ForwardTensors,
    Library,
    Problem,
)

# Unit roundoff of the operands of the products, by dtype.
EPSILON = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
GRADIENTS = ("x", "offset", "mask", "weight", "bias")

FLAGS = "-std=c++17 -g -fPIC -fno-strict-aliasing -pthread -Wall -Wextra -Wno-unknown-pragmas"
VARIANTS = {
    "fibers": "-O2",
    "address": "-O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined",
    "thread": "-O1 -fsanitize=thread -DDCN_EMULATION_THREADS",
}


def build(variant: str, folder: Path, sources: Path = SOURCES) -> Path:
    """Compile the kernels in `sources` against the shim, unless an equal build is in `folder`."""
    shim = HERE / "emulation.h"
    files = sorted(sources.glob("*.cu"))
    everything = [*files, *sources.glob("*.cuh"), *sources.parent.glob("*.h"), shim]
    digest = hashlib.sha256(VARIANTS[variant].encode())
    for path in sorted(everything):
        digest.update(path.read_bytes())
    library = folder / f"{variant}-{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    compiler = [os.environ.get("CXX", "g++"), *FLAGS.split(), *VARIANTS[variant].split()]
    define = f'-DDCN_CUDA_EMULATION="{shim}"'
    objects, jobs = [], []
    for source in files:
        objects.append(folder / f"{library.stem}-{source.stem}.o")
        command = [*compiler, "-c", "-x", "c++", define, str(source), "-o", str(objects[-1])]
        jobs.append(subprocess.Popen(command))
    if any([job.wait() for job in jobs]):
        raise RuntimeError(f"the emulated kernels do not compile ({variant})")
    link = [*compiler, "-shared", *map(str, objects), "-o", f"{library}.part"]
    subprocess.run(link, check=True)
    os.replace(f"{library}.part", library)
    for path in objects:
        path.unlink()
    return library


# --------------------------------------------------------------------------- numbers in memory


def to_memory(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float64 to `dtype`; bfloat16 becomes its bits in uint16."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def from_memory(array: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_memory`, to float64."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype, shift: int = 0) -> np.ndarray:
    """An array whose address is a multiple of 256 plus `shift`, with no slack at its end."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 256 + shift, np.uint8)
    start = -raw.ctypes.data % 256 + shift
    return raw[start : start + size].view(dtype).reshape(shape)


# ----------------------------------------------------------------------------------- the oracle


def oracle(p: Problem, t: dict[str, np.ndarray], grad_out: np.ndarray | None = None) -> dict:
    """Forward, and backward where `grad_out` is given, as float64 loops over taps and corners.

    Tensors are float64 and NCHW. For each result `k` there is `k + "_scale"`, the largest sum of
    the absolute values of the terms an element of it is made of.
    """
    n, c, h, w = p.batch, p.channels, p.height, p.width
    groups, dgs, ho, wo = p.groups, p.deformable_groups, p.out_height, p.out_width
    taps = p.kernel_h * p.kernel_w
    offset = t["offset"].reshape(n, dgs, taps, 2, ho, wo)
    mask = t["mask"].reshape(n, dgs, taps, ho, wo) if p.modulated else np.ones((n, dgs, taps, 1, 1))
    weight = t["weight"].reshape(groups, -1, c // groups, taps)
    x = t["x"].reshape(n, dgs, c // dgs, h * w)
    rows = np.arange(ho)[:, None] * p.stride_h - p.pad_top
    columns = np.arange(wo)[None, :] * p.stride_w - p.pad_left
    out = np.zeros((n, groups, weight.shape[1], ho, wo)) + t["bias"].reshape(groups, -1, 1, 1)
    absolute = np.zeros_like(out)
    r = {}
    if grad_out is not None:
        grad_out = grad_out.reshape(out.shape)
        for name in ("x", "offset", "mask", "weight"):
            like = {"x": x, "offset": offset, "weight": weight}.get(name, offset[:, :, :, 0])
            r[name], r[name + "_abs"] = np.zeros_like(like), np.zeros_like(like)
    for tap in range(taps):
        y = rows + tap // p.kernel_w * p.dilation_h + offset[:, :, tap, 0]
        z = columns + tap % p.kernel_w * p.dilation_w + offset[:, :, tap, 1]
        inside = (y > -1) & (y < h) & (z > -1) & (z < w)
        y, z = np.where(inside, y, -2.0), np.where(inside, z, -2.0)
        y0, z0 = np.floor(y).astype(int), np.floor(z).astype(int)
        ly, lx = y - y0, z - z0
        m = np.broadcast_to(mask[:, :, tap], y.shape)
        sampled, sampled_abs, corners = 0.0, 0.0, []
        for a in (0, 1):
            for b in (0, 1):
                yy, zz = y0 + a, z0 + b
                ok = inside & (yy >= 0) & (yy < h) & (zz >= 0) & (zz < w)
                index = np.where(ok, yy * w + zz, 0)[:, :, None].reshape(n, dgs, 1, -1)
                value = np.take_along_axis(x, np.broadcast_to(index, (*x.shape[:3], ho * wo)), 3)
                value = np.where(ok[:, :, None], value.reshape(n, dgs, -1, ho, wo), 0.0)
                wy, wx = (ly if a else 1 - ly), (lx if b else 1 - lx)
                sampled = sampled + (wy * wx)[:, :, None] * value
                sampled_abs = sampled_abs + (wy * wx)[:, :, None] * abs(value)
                sign_y, sign_x = (1 if a else -1), (1 if b else -1)
                corners.append((ok, index, value, wy * wx, sign_y * wx, sign_x * wy))
        column = (m[:, :, None] * sampled).reshape(n, groups, -1, ho, wo)
        column = np.where(np.isnan(m[:, :, None]) & ~inside[:, :, None], 0, m[:, :, None] * sampled)
        column = column.reshape(n, groups, -1, ho, wo)
        column_abs = (abs(m[:, :, None]) * sampled_abs).reshape(column.shape)
        out += np.einsum("gmc,ngchw->ngmhw", weight[..., tap], column)
        absolute += np.einsum("gmc,ngchw->ngmhw", abs(weight[..., tap]), column_abs)
        if grad_out is None:
            continue
        r["weight"][..., tap] = np.einsum("ngmhw,ngchw->gmc", grad_out, column)
        r["weight_abs"][..., tap] = np.einsum("ngmhw,ngchw->gmc", abs(grad_out), column_abs)
        for suffix, f in (("", lambda v: v), ("_abs", abs)):
            g = np.einsum("gmc,ngmhw->ngchw", f(weight[..., tap]), f(grad_out))
            g = g.reshape(n, dgs, -1, ho, wo)
            for ok, index, value, corner_weight, by_y, by_x in corners:
                d = (g * f(value)).sum(2)
                r["mask" + suffix][:, :, tap] += f(corner_weight) * d
                r["offset" + suffix][:, :, tap, 0] += f(m) * f(by_y) * d
                r["offset" + suffix][:, :, tap, 1] += f(m) * f(by_x) * d
                part = np.where(ok[:, :, None], g * f(m * corner_weight)[:, :, None], 0.0)
                flat, where = part.reshape(n, dgs, -1, ho * wo), index[:, :, 0]
                for i in range(n):
                    for d_ in range(dgs):
                        np.add.at(r["x" + suffix][i, d_], (slice(None), where[i, d_]), flat[i, d_])
    r["out"], r["out_abs"] = out.reshape(n, -1, ho, wo), absolute.reshape(n, -1, ho, wo)
    if grad_out is not None:
        r["bias"] = grad_out.sum((0, 3, 4)).reshape(-1)
        r["bias_abs"] = abs(grad_out).sum((0, 3, 4)).reshape(-1)
        for name in ("x", "offset", "mask", "weight"):
            for key in (name, name + "_abs"):
                r[key] = r[key].reshape(t[name].shape)
    for name in ("out", *(GRADIENTS if grad_out is not None else ())):
        terms = r.pop(name + "_abs")
        r[name + "_scale"] = float(np.nanmax(terms)) if terms.size else 0.0
    return r


# -------------------------------------------------------------------------------------- a case


@dataclass
class Case:
    """One problem with its data; `wanted` are the gradients backward computes."""

    name: str
    x: tuple[int, int, int, int]
    out_channels: int
    options: dict = field(default_factory=dict)  # of Problem.create
    flags: int = 0
    processors: int = 4  # of the emulated device: it decides on tile sizes
    spread: float = 2.0  # standard deviation of the offsets, in pixels
    wanted: tuple[str, ...] = GRADIENTS
    shift: int = 0  # bytes by which tensors miss 256-byte alignment
    not_finite: bool = False  # put NaN and infinite offsets in

    def problem(self) -> Problem:
        """The case's sizes."""
        return Problem.create(self.x, self.out_channels, **self.options)


def _nchw(p: Problem, array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 3, 1, 2) if p.channels_last and array.ndim == 4 else array


def check(library: Library, case: Case, backward: bool = True) -> None:
    """Run a case and assert that every result is within its rounding bound of the oracle's."""
    p = case.problem()
    rng = np.random.default_rng(sum(case.name.encode()))
    dtype, offset_dtype = DTYPES[p.dtype], DTYPES[p.offset_dtype]
    memory, exact = {}, {}
    shapes = p.shapes() | {"grad_out": p.shapes()["out"]}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if name == "offset":
            values *= case.spread
            if case.not_finite:
                values.flat[::7], values.flat[1::11], values.flat[2::13] = np.nan, np.inf, -1e30
        if name == "mask":
            values = 1 / (1 + np.exp(-values))
        rounded = to_memory(values, offset_dtype if name in ("offset", "mask") else dtype)
        memory[name] = aligned_empty(shape, rounded.dtype, case.shift)
        memory[name][...] = rounded
        layout = _nchw if name in ("x", "out", "grad_out") else lambda _, a: a
        exact[name] = layout(p, from_memory(rounded))
    grad_out = exact.pop("grad_out")
    expected = oracle(p, exact, grad_out if backward else None)

    def run(tensors, outputs: dict[str, np.ndarray]) -> None:
        for array in outputs.values():
            array.view(np.uint8)[...] = 0xFF
        size = library.workspace(p, tensors, case.flags)
        assert p.batch < 2 or size < 64 << 20
        workspace = aligned_empty((size,), np.uint8)
        workspace[...] = 0xFF
        library.run(p, tensors, workspace.ctypes.data, flags=case.flags)

    def compare(name: str, array: np.ndarray, terms: int) -> None:
        low = EPSILON[dtype]
        if case.flags & TENSOR_FLOAT32 and dtype == "float32":
            low = 2.0**-10  # an operand that is not rounded first is truncated
        result_dtype = dtype if name in ("out", "x", "weight", "bias") else offset_dtype
        high = EPSILON["float64" if dtype == "float64" else "float32"]
        # Operands are rounded once each; sums grow like a random walk; coordinates are of the
        # size of the image, and their error moves a sample by at most twice as much of a term.
        position = 8 * high * (max(p.height, p.width) + 4 * case.spread)
        bound = 4 * low + 4 * high * terms**0.5 + position
        bound = bound * expected[name + "_scale"] + 2 * EPSILON[result_dtype] * np.nanmax(
            abs(expected[name]), initial=0
        )
        actual = from_memory(array)
        actual = _nchw(p, actual) if name in ("out", "x") else actual
        assert actual.shape == expected[name].shape, name
        wrong = ~(abs(actual - expected[name]) <= bound + 1e-30)
        wrong &= ~(np.isnan(actual) & np.isnan(expected[name]))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise AssertionError(
                f"{case.name}: {name}{at} is {actual[at]}, expected {expected[name][at]} "
                f"+- {bound:.3g}; {wrong.sum()} of {wrong.size} elements differ"
            )

    library._library.dcn_emulation_set_processors(case.processors)
    if not p.modulated:
        del memory["mask"]
    pointers = {name: array.ctypes.data for name, array in memory.items()}
    run(ForwardTensors(pointers), {"out": memory["out"]})
    depth = p.channels // p.groups * p.kernel_h * p.kernel_w
    compare("out", memory["out"], depth)
    if not backward:
        return
    names = [n for n in case.wanted if n in memory]
    grads = {n: aligned_empty(memory[n].shape, memory[n].dtype, case.shift) for n in names}
    pointers |= {f"grad_{n}": array.ctypes.data for n, array in grads.items()}
    run(BackwardTensors(pointers), grads)
    pixels = p.batch * p.out_height * p.out_width
    for name in names:
        compare(name, grads[name], max(depth, pixels, p.out_channels))
