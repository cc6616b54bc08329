"""Problems for the kernel library alone, as jobs, with numpy but without Paddle.

As a program (``python -m ... LIBRARY IN OUT``) it runs the jobs pickled in a file: under a
sanitizer, whose runtime is loaded first and would watch all of Paddle otherwise.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import pickle
import subprocess
import sys
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.kernel_library import (
    FASTEST,
    BackwardTensors,
    ForwardTensors,
    Library,
    Problem,
)
from tests.support.cases import Case, pair
from tests.support.problems import TENSORS, random_problem
from tests.support.process import run_python

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


_C = ctypes.CDLL(None)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype, shift: int = 0) -> np.ndarray:
    """An array at `shift` bytes beyond a multiple of 256, in an allocation that ends with it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    address = ctypes.c_void_p()
    if _C.posix_memalign(
        ctypes.byref(address), ctypes.c_size_t(256), ctypes.c_size_t(size + shift)
    ):
        raise MemoryError(f"{size} bytes")
    raw = (ctypes.c_uint8 * (size + shift)).from_address(address.value)
    weakref.finalize(raw, _C.free, ctypes.c_void_p(address.value))
    return np.frombuffer(raw, np.uint8)[shift:].view(dtype).reshape(shape)


# --------------------------------------------------------------------------------------- jobs


class Inference(NamedTuple):
    """What a forward call on the CPU does for inference: see ``dcn::Problem``."""

    joined: bool = False  # the case's mask are logits, behind the offsets
    negative_slope: float = 1.0
    upper_bound: float = float("inf")
    plain: bool = False  # without the case's offsets and mask
    offset_bound: float = 0.0
    flows: int = 0  # of the job's array "flow"
    x_channels_last: bool = False
    packed: bool = False  # a first call packs the weight, whose memory is NaN in the second


def prepared(case: Case, arrays: dict[str, np.ndarray], form: Inference) -> dict[str, np.ndarray]:
    """The offsets and the mask that a form makes of what it is given, to convolve with."""
    prepared = dict(arrays)
    offset, mask = arrays["offset"], arrays["mask"]
    if form.joined:
        prepared["mask"] = 1 / (1 + np.exp(-mask))
    if form.offset_bound:
        offset = form.offset_bound * np.tanh(offset)
    if form.flows:
        apart = [
            each.reshape(
                case.batch, form.flows, each.shape[1] // (2 * form.flows), 2, *case.out_size
            )
            for each in (offset, arrays["flow"])
        ]
        offset = (apart[0] + apart[1]).reshape(offset.shape)
    return prepared | {"offset": offset}


def rounded_positions(case: Case, form: Inference) -> float:
    """How many times more terms the rounding of positions is worth, to `comparison.tolerance`.

    A sample changes by up to twice the largest pixel from one pixel to the next.
    """
    if not form.offset_bound:
        return 1.0  # what is added is a multiple of 1/64, and exact
    return (2 * (max(case.size) + form.offset_bound + LARGEST_FLOW)) ** 2


LARGEST_FLOW = 3.0


def random_flow(case: Case, flows: int) -> np.ndarray:
    """Multiples of 1/8, which every dtype has."""
    bound, shape = int(8 * LARGEST_FLOW), (case.batch, 2 * flows, *case.out_size)
    return np.random.default_rng(1).integers(-bound, bound, shape, endpoint=True) / 8


@dataclass
class Job:
    """A case, and where and how to run it."""

    case: Case
    dtypes: tuple[str, str]  # of x, of offset
    device: tuple  # ("cpu", engine, threads) or ("cuda", flags)
    wanted: tuple[str, ...] = TENSORS
    processors: int = 4  # of the emulated GPU: tile sizes depend on it
    hopper: bool = False  # whether it is one
    shift: int = 0  # bytes by which tensors miss 256-byte alignment
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # in place of the case's
    inference: Inference = Inference()
    # Else without weight and bias, which the case must not need. CUDA is given a weight of ones.
    weighted: bool = True
    planes_last: bool = False  # offset and mask are as in DCNv3; on the CPU only
    padding: int | None = None  # or in one as in DCNv4, with so many planes of NaN behind them
    path: int = FASTEST  # of the CPU's kernels

    def problem(self) -> Problem:
        """The case as the kernels take it."""
        case = self.case
        planes = case.deformable_groups * math.prod(pair(case.kernel))
        return Problem.create(
            (case.batch, case.channels, *case.size),
            case.outputs,
            pair(case.kernel),
            pair(case.stride),
            case.pads,
            pair(case.dilation),
            case.groups,
            case.deformable_groups,
            case.im2col_step or 0,
            *self.dtypes,
            case.data_format == "NHWC",
            case.modulated,
            *self.inference[:-1],
            self.weighted,
            self.planes_last,
            0 if self.padding is None else 3 * planes + self.padding,
            self.path,
        )


def planes_last(p: Problem, planes: np.ndarray, of_tap: int) -> np.ndarray:
    """Offset (2 planes of a tap) or mask (1) as in DCNv3, but [N, Ho, Wo, groups, planes]."""
    n, _, *size = planes.shape
    parts = planes.reshape(n, p.deformable_groups, p.kernel_h, p.kernel_w, of_tap, *size)
    ordered = parts[:, :, :, :, ::-1].transpose(0, 5, 6, 1, 3, 2, 4)
    return ordered.reshape(n, *size, p.deformable_groups, of_tap * p.kernel_h * p.kernel_w)


def planes_first(p: Problem, last: np.ndarray, of_tap: int) -> np.ndarray:
    """The inverse of `planes_last`."""
    n, *size = last.shape[:3]
    parts = last.reshape(n, *size, p.deformable_groups, p.kernel_w, p.kernel_h, of_tap)
    ordered = parts[..., ::-1].transpose(0, 3, 5, 4, 6, 1, 2)
    return ordered.reshape(n, of_tap * p.deformable_groups * p.kernel_h * p.kernel_w, *size)


def pack(p: Problem, offset: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Both as in DCNv4."""
    parts = np.concatenate([planes_last(p, offset, 2), planes_last(p, mask, 1)], -1)
    packed = parts.reshape(*parts.shape[:3], parts.shape[3] * parts.shape[4])
    padding = [(0, 0)] * 3 + [(0, p.packed_planes - packed.shape[-1])]
    return np.pad(packed, padding, constant_values=np.nan)


def unpack(p: Problem, packed: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of `pack`, of gradients, which padding has none of."""
    taps = p.kernel_h * p.kernel_w
    used = 3 * taps * p.deformable_groups
    assert not packed[..., used:].any()
    parts = packed[..., :used].reshape(*packed.shape[:3], p.deformable_groups, 3 * taps)
    offset, mask = parts[..., : 2 * taps], parts[..., 2 * taps :]
    return {"offset": planes_first(p, offset, 2), "mask": planes_first(p, mask, 1)}


remembered_problem = functools.lru_cache(maxsize=2)(random_problem)  # one case may run many times


def run(library: Library, job: Job) -> dict[str, np.ndarray]:
    """Output and wanted gradients of a job, as float64 NCHW arrays."""
    p = job.problem()
    kind, *arguments = job.device
    device = getattr(library, kind)(*arguments)
    if kind == "cuda":
        library.handle.dcn_emulation_set_processors(job.processors)
        library.handle.dcn_emulation_set_hopper(job.hopper)
    shapes = p.shapes()
    if p.joined or p.packed_planes or not p.modulated:
        del shapes["mask"]
    if p.plain:
        del shapes["offset"]
    if not p.flows:
        del shapes["flow"]
    if not p.weighted and kind == "cpu":
        del shapes["weight"], shapes["bias"]
    arrays = dict(remembered_problem(job.case, job.dtypes[0]))
    if not p.weighted:
        arrays |= {"weight": np.ones_like(arrays["weight"]), "bias": None}
    if arrays["bias"] is None:
        arrays["bias"] = np.zeros(job.case.outputs)
    arrays |= job.arrays
    if p.joined:
        arrays["offset"] = np.concatenate([arrays["offset"], arrays["mask"]], 1)
    elif p.packed_planes:
        arrays["offset"] = pack(p, arrays["offset"], arrays["mask"])
    elif p.planes_last:
        for name, of_tap in (("offset", 2), ("mask", 1)):
            if name in shapes:
                last = planes_last(p, arrays[name], of_tap)
                arrays[name] = last.reshape(shapes[name])

    def memory(name: str, like: str) -> np.ndarray:
        """Room for a tensor, filled with NaN patterns, or with the case's values."""
        values = arrays.get(name)
        dtype = job.dtypes[like in ("offset", "mask", "flow")]
        array = aligned_empty(shapes[like], to_memory(np.zeros(0), dtype).dtype, job.shift)
        array.view(np.uint8)[...] = 0xFF
        if values is not None:
            if (p.channels_last and like in ("x", "out")) or (p.x_channels_last and like == "x"):
                values = values.transpose(0, 2, 3, 1)
            array[...] = to_memory(values, dtype)
        return array

    def call(tensors, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        workspace = aligned_empty((device.workspace(p, tensors),), np.dtype(np.uint8))
        workspace[...] = 0xFF
        device.run(p, tensors, workspace.ctypes.data)
        results = {name: from_memory(array) for name, array in outputs.items()}
        for name in ("out", "x"):
            if p.channels_last and name in results:
                results[name] = results[name].transpose(0, 3, 1, 2)
        if p.packed_planes and "offset" in results:
            results |= unpack(p, results["offset"])
        elif p.planes_last:
            for name, of_tap in (("offset", 2), ("mask", 1)):
                if name in results:
                    results[name] = planes_first(p, results[name], of_tap)
        return results

    inputs = {name: memory(name, name) for name in shapes if name != "out"}
    out = memory("out", "out")
    if "addend" in arrays:
        inputs["addend"] = memory("addend", "out")
    pointers = {name: array.ctypes.data for name, array in inputs.items()}
    pointers["out"] = out.ctypes.data
    if job.inference.packed:
        packed = aligned_empty((device.packed_bytes(p),), np.dtype(np.uint8))
        pointers["packed"] = packed.ctypes.data
        first = call(ForwardTensors({**pointers, "packs": True}), {"out": out})
        inputs["weight"].view(np.uint8)[...] = 0xFF
    results = call(ForwardTensors(pointers), {"out": out})
    if job.inference.packed:
        assert np.array_equal(results["out"], first["out"], equal_nan=True)
    if job.wanted:
        inputs["grad"] = memory("grad", "out")
        gradients = {name: memory("", name) for name in job.wanted if name in shapes}
        pointers["grad_out"] = inputs["grad"].ctypes.data
        pointers |= {f"grad_{name}": array.ctypes.data for name, array in gradients.items()}
        results |= call(BackwardTensors(pointers), gradients)
    return results


class Sanitizer(NamedTuple):
    """What the compiler is told, and the runtime that a process must load first."""

    flags: list[str]
    runtime: str


SANITIZERS = {
    "address": Sanitizer(["-fsanitize=address"], "libasan.so"),
    "undefined": Sanitizer(
        # Those of `undefined` that these sources can break, others double the time to compile.
        [
            "-fsanitize=alignment,null,pointer-overflow,shift,signed-integer-overflow,bounds,"
            "float-cast-overflow,integer-divide-by-zero",
            "-fno-sanitize-recover=all",
        ],
        "libubsan.so",
    ),
    "thread": Sanitizer(["-fsanitize=thread"], "libtsan.so"),
}
# Two in one library, which saves half of compiling them.
SANITIZERS["address and undefined"] = Sanitizer(
    SANITIZERS["address"].flags + SANITIZERS["undefined"].flags, "libasan.so"
)


def run_sanitized(
    sanitizer: str, library: Path, jobs: list[Job], folder: Path
) -> tuple[list[dict], str]:
    """Run jobs in a process of their own; results, and what the sanitizer reports or ""."""
    compiler = os.environ.get("CXX", "g++")
    runtimes = [SANITIZERS[sanitizer].runtime] if sanitizer in SANITIZERS else []
    preloaded = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in (*runtimes, "libstdc++.so")
    ]
    source, target = folder / "jobs.pickle", folder / "results.pickle"
    source.write_bytes(pickle.dumps(jobs))
    target.unlink(missing_ok=True)
    done = run_python(
        "-m",
        "tests.support.kernel_jobs",
        library,
        source,
        target,
        LD_PRELOAD=":".join(preloaded),
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0:handle_sigill=1",
        TSAN_OPTIONS="halt_on_error=1:report_signal_unsafe=0:exitcode=66",
        OMP_NUM_THREADS=1,
        OPENBLAS_NUM_THREADS=1,
        timeout=1800,
    )
    if done.returncode:
        return [], done.stderr or f"exit status {done.returncode}"
    return pickle.loads(target.read_bytes()), ""


def main() -> None:
    """Run the jobs of one file and write their results to another."""
    # What else is in it is looked up by name: threads, where there is no OpenMP runtime.
    library = Library(sys.argv[1], ctypes.RTLD_GLOBAL)
    jobs = pickle.loads(Path(sys.argv[2]).read_bytes())
    Path(sys.argv[3]).write_bytes(pickle.dumps([run(library, job) for job in jobs]))


if __name__ == "__main__":
    # The pickles name this module.
    sys.modules["tests.support.kernel_jobs"] = sys.modules["__main__"]
    main()
