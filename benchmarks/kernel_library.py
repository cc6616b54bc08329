"""The kernel library alone, without Paddle: how it is compiled, and its C interface in ctypes.

Used by ``benchmarks/gpu_rows.py`` on device pointers, and by the tests on every engine of the CPU
and on emulations.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import runpy
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "custom_ops" / "kernels"
DTYPES = ("float16", "bfloat16", "float32", "float64")  # in the order of dcn::DataType
DETERMINISTIC, TENSOR_FLOAT32, WIDE_INDEX, SMALL_CHUNKS = 1, 2, 4, 8  # the bits of `flags`
FASTEST, COLUMNS, DIRECT = range(3)  # in the order of dcn::Path

_SIZES = (
    "batch channels height width out_channels out_height out_width kernel_h kernel_w "
    "stride_h stride_w pad_top pad_bottom pad_left pad_right dilation_h dilation_w "
    "groups deformable_groups im2col_step"
).split()


class Problem(ctypes.Structure):
    """``dcn::Problem``: all sizes of one deformable convolution."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("dtype", ctypes.c_int),
        ("offset_dtype", ctypes.c_int),
        ("channels_last", ctypes.c_bool),
        ("modulated", ctypes.c_bool),
        ("joined", ctypes.c_bool),
        ("negative_slope", ctypes.c_double),
        ("upper_bound", ctypes.c_double),
        ("plain", ctypes.c_bool),
        ("offset_bound", ctypes.c_double),
        ("flows", ctypes.c_int64),
        ("x_channels_last", ctypes.c_bool),
        ("weighted", ctypes.c_bool),
        ("planes_last", ctypes.c_bool),
        ("packed_planes", ctypes.c_int64),
        ("path", ctypes.c_int),
    ]

    @classmethod
    def create(
        cls,
        x_shape: tuple[int, int, int, int],
        out_channels: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (1, 1, 1, 1),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        deformable_groups: int = 1,
        im2col_step: int = 0,
        dtype: str = "float32",
        offset_dtype: str | None = None,
        channels_last: bool = False,
        modulated: bool = True,
        joined: bool = False,
        negative_slope: float = 1.0,
        upper_bound: float = float("inf"),
        plain: bool = False,
        offset_bound: float = 0.0,
        flows: int = 0,
        x_channels_last: bool = False,
        weighted: bool = True,
        planes_last: bool = False,
        packed_planes: int = 0,
        path: int = FASTEST,
    ) -> Problem:
        """Fill in the output size; ``x_shape`` is NCHW whatever the layout in memory."""
        n, c, h, w = x_shape
        top, bottom, left, right = padding
        out_h = (h + top + bottom - (dilation[0] * (kernel[0] - 1) + 1)) // stride[0] + 1
        out_w = (w + left + right - (dilation[1] * (kernel[1] - 1) + 1)) // stride[1] + 1
        sizes = (n, c, h, w, out_channels, out_h, out_w, *kernel, *stride, *padding, *dilation)
        return cls(
            *sizes,
            groups,
            deformable_groups,
            im2col_step,
            DTYPES.index(dtype),
            DTYPES.index(offset_dtype or dtype),
            channels_last,
            modulated,
            joined,
            negative_slope,
            upper_bound,
            plain,
            offset_bound,
            flows,
            x_channels_last,
            weighted,
            planes_last,
            packed_planes,
            path,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes in memory of all tensors, by name."""
        n, taps = self.batch, self.kernel_h * self.kernel_w
        planes = self.deformable_groups * taps
        image, out_image = (self.height, self.width), (self.out_height, self.out_width)
        x, out = (n, self.channels, *image), (n, self.out_channels, *out_image)
        if self.channels_last or self.x_channels_last:
            x = n, *image, self.channels
        if self.channels_last:
            out = n, *out_image, self.out_channels
        kernel = (self.kernel_h, self.kernel_w)

        def field(planes: int) -> tuple[int, ...]:
            return (n, *out_image, planes) if self.planes_last else (n, planes, *out_image)

        return {
            "x": x,
            "offset": field(self.packed_planes or (3 if self.joined else 2) * planes),
            "mask": field(planes),
            "flow": (n, 2 * self.flows, *out_image),
            "weight": (self.out_channels, self.channels // self.groups, *kernel),
            "bias": (self.out_channels,),
            "out": out,
        }


class _Tensors(ctypes.Structure):
    def __init__(self, pointers: dict[str, int | None]) -> None:
        super().__init__(**{name: pointers.get(name) for name, _ in self._fields_})


class ForwardTensors(_Tensors):
    """``dcn::ForwardTensors``: addresses, null where absent."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in "x offset mask weight bias out packed".split()),
        ("packs", ctypes.c_bool),
        *((n, ctypes.c_void_p) for n in ("addend", "flow")),
    ]


class BackwardTensors(_Tensors):
    """``dcn::BackwardTensors``: addresses, null where absent or not wanted."""

    _fields_ = [
        (n, ctypes.c_void_p)
        for n in (
            "x offset mask weight grad_out grad_x grad_offset grad_mask grad_weight grad_bias"
        ).split()
    ]


@dataclass(frozen=True)
class Device:
    """Forward and backward on one engine of the CPU, or on the GPU."""

    library: Library
    name: str  # what its functions' names begin with
    workspace_arguments: tuple
    run_arguments: tuple

    def workspace(self, problem: Problem, tensors: _Tensors) -> int:
        """Bytes of memory that :meth:`run` needs for these arguments."""
        size = self._function(tensors, "_workspace")
        size.restype = ctypes.c_size_t
        return size(ctypes.byref(problem), ctypes.byref(tensors), *self.workspace_arguments)

    def packed_bytes(self, problem: Problem) -> int:
        """Bytes of ``ForwardTensors.packed``; of the CPU only."""
        size = self.library.handle.dcn_cpu_packed_bytes
        size.restype = ctypes.c_size_t
        return size(ctypes.byref(problem), self.run_arguments[0])

    def run(self, problem: Problem, tensors: _Tensors, workspace: int) -> None:
        """Run (on the GPU: enqueue) forward or backward, by the type of ``tensors``.

        Raises ``RuntimeError`` with the error's name where the GPU refuses.
        """
        run = self._function(tensors)
        run.restype = ctypes.c_int if self.name == "dcn_cuda" else None
        memory = ctypes.c_void_p(workspace)
        error = run(ctypes.byref(problem), ctypes.byref(tensors), memory, *self.run_arguments)
        if error:
            name = self.library.handle.dcn_cuda_error_name(error).decode()
            raise RuntimeError(f"{run.__name__}: {name} ({error})")

    def _function(self, tensors: _Tensors, what: str = ""):
        direction = "forward" if isinstance(tensors, ForwardTensors) else "backward"
        return getattr(self.library.handle, f"{self.name}_{direction}{what}")


class Library:
    """A kernel library, with the CPU's engines, the CUDA kernels, or both.

    Raises ``RuntimeError`` where its structs are not those of this file.
    """

    def __init__(self, path: str | os.PathLike[str], mode: int = ctypes.DEFAULT_MODE) -> None:
        self.handle = ctypes.CDLL(str(path), mode=mode)
        for name in ("dcn_cpu_engine_name", "dcn_cuda_error_name"):
            if hasattr(self.handle, name):
                getattr(self.handle, name).restype = ctypes.c_char_p
        for device in ("cpu", "cuda"):
            if hasattr(self.handle, f"dcn_{device}_forward"):
                self._check_structs(path, f"dcn_{device}_struct_bytes")

    def _check_structs(self, path: Any, function: str) -> None:
        if not hasattr(self.handle, function):
            text = f"{path} does not tell the sizes of its structs and may misread these"
            warnings.warn(text, stacklevel=3)
            return
        ours = [ctypes.sizeof(each) for each in (Problem, ForwardTensors, BackwardTensors)]
        theirs = (ctypes.c_size_t * len(ours))()
        getattr(self.handle, function)(theirs)
        if [*theirs] != ours:
            raise RuntimeError(
                f"{path}: expected Problem, ForwardTensors and BackwardTensors of {ours} bytes, "
                f"got {[*theirs]}: it was built from another commit"
            )

    def engines(self) -> list[str]:
        """Names of the CPU's engines, lowest first."""
        name = self.handle.dcn_cpu_engine_name
        return [name(i).decode() for i in range(self.handle.dcn_cpu_engines())]

    def runs(self, engine: str) -> bool:
        """Whether this processor runs an engine."""
        return bool(self.handle.dcn_cpu_engine_runs(self.engines().index(engine)))

    def cpu(self, engine: str, threads: int = 1) -> Device:
        """Return an engine of the CPU, which must be one that runs."""
        if not self.runs(engine):
            raise RuntimeError(f"this processor does not run {engine}")
        arguments = (self.engines().index(engine), threads)
        return Device(self, "dcn_cpu", arguments, arguments)

    def cuda(self, flags: int = 0, stream: int = 0) -> Device:
        """Return the current GPU, or its emulation."""
        return Device(self, "dcn_cuda", (flags,), (ctypes.c_void_p(stream), flags))


# ---------------------------------------------------------------------------------- compilation


def build_rules() -> dict[str, Any]:
    """Return the names that ``paddle_dcn/_build.py`` defines."""
    # By its path, because the package cannot be imported without Paddle.
    return runpy.run_path(str(ROOT / "paddle_dcn" / "_build.py"))


def cpu_flags() -> list[str]:
    """Compiler flags of the CPU kernels, without any of Paddle."""
    return build_rules()["KERNEL_FLAGS"]


def cpu_sources() -> list[Path]:
    """Return all that g++ compiles into a library of the CPU's engines."""
    return sorted((KERNELS / "cpu").glob("*.cc"))


def compile_cached(
    folder: Path,
    name: str,
    units: Iterable[tuple[Path, Sequence[str]]],
    headers: Iterable[Path],
    link: Sequence[str] = ("-shared",),
) -> Path:
    """Compile sources, each with its flags, and link them, unless it has been done before.

    ``folder`` keeps objects and results under names made from all that went into them: flags,
    sources, and ``headers``, which are all that any source includes.

    Raises ``RuntimeError`` with the compiler's words.
    """
    compiler = os.environ.get("CXX", "g++")
    common = hashlib.sha256(compiler.encode())
    for header in sorted(headers):
        common.update(header.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)

    def make(target: Path, command: list[str]) -> Path:
        # Who comes second, a process or a thread, finds it done.
        with target.with_name(f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                part = target.with_name(f"{target.name}.part")
                done = subprocess.run(
                    [compiler, *command, "-o", str(part)],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise RuntimeError(f"{' '.join([compiler, *command])}\n{done.stderr[:4000]}")
                os.replace(part, target)
        return target

    def compile_one(unit: tuple[Path, Sequence[str]]) -> Path:
        source, flags = unit
        digest = common.copy()
        digest.update(repr(flags).encode() + source.read_bytes())
        target = folder / f"{source.stem}-{digest.hexdigest()[:16]}.o"
        return make(target, [*flags, "-c", str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compile_one, units)]
    digest = hashlib.sha256(repr((compiler, objects, link)).encode()).hexdigest()[:16]
    return make(folder / f"{name}-{digest}", [*objects, *link])


def find_nvcc() -> Path | None:
    """Nvcc of ``CUDA_HOME``, else of /usr/local/cuda*, else of the search path, else None."""
    home = os.environ.get("CUDA_HOME")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
        return nvcc if nvcc.exists() else None
    usual = sorted(Path("/usr/local").glob("cuda*/bin/nvcc"), reverse=True)
    found = shutil.which("nvcc")
    return usual[0] if usual else Path(found) if found else None


def build_cuda(
    output: Path, architectures: tuple[int, ...], options: Sequence[str] = ("-O3",)
) -> str:
    """Compile the kernel library with nvcc and return ptxas' report.

    Code for these architectures is all that is in it; -O3 is the host's, nvcc's own default for
    the GPU.

    Raises ``RuntimeError`` with the compiler's first lines when there is no nvcc or it fails.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc was not found: set CUDA_HOME to a CUDA toolkit")
    command = [
        str(nvcc),
        *"-std=c++17 -shared -Xcompiler -fPIC -cudart static".split(),
        *(flag for number in architectures for flag in build_rules()["gencode"](number)),
        *"-t 2 -Xptxas -v -Werror all-warnings".split(),
        *options,
        *(str(source) for source in sorted((KERNELS / "cuda").glob("*.cu"))),
        "-o",
        str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in report.splitlines() if "ptxas info" not in line]
        raise RuntimeError("nvcc failed:\n" + "\n".join(lines[:40]))
    return report
