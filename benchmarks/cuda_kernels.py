"""The CUDA kernel library alone: how it is compiled, and its C interface through ctypes.

Used by ``benchmarks/gpu.py`` on device pointers and by the tests on the CPU emulation.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "custom_ops" / "kernels" / "cuda"
DTYPES = ("float16", "bfloat16", "float32", "float64")  # in the order of dcn::DataType
DETERMINISTIC, TENSOR_FLOAT32, WIDE_INDEX = 1, 2, 4  # the bits of `flags`

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
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes in memory of all tensors, by name."""
        n, taps = self.batch, self.kernel_h * self.kernel_w
        planes = self.deformable_groups * taps
        image, out_image = (self.height, self.width), (self.out_height, self.out_width)
        if self.channels_last:
            x, out = (n, *image, self.channels), (n, *out_image, self.out_channels)
        else:
            x, out = (n, self.channels, *image), (n, self.out_channels, *out_image)
        kernel = (self.kernel_h, self.kernel_w)
        return {
            "x": x,
            "offset": (n, 2 * planes, *out_image),
            "mask": (n, planes, *out_image),
            "weight": (self.out_channels, self.channels // self.groups, *kernel),
            "bias": (self.out_channels,),
            "out": out,
        }


class _Tensors(ctypes.Structure):
    def __init__(self, pointers: dict[str, int | None]) -> None:
        super().__init__(**{name: pointers.get(name) for name, _ in self._fields_})


class ForwardTensors(_Tensors):
    """``dcn::ForwardTensors``: addresses, null where absent."""

    _fields_ = [(n, ctypes.c_void_p) for n in "x offset mask weight bias out".split()]


class BackwardTensors(_Tensors):
    """``dcn::BackwardTensors``: addresses, null where absent or not wanted."""

    _fields_ = [
        (n, ctypes.c_void_p)
        for n in (
            "x offset mask weight grad_out grad_x grad_offset grad_mask grad_weight grad_bias"
        ).split()
    ]


class Library:
    """The kernel library's four functions, with errors raised as ``RuntimeError``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._library = ctypes.CDLL(str(path))
        for name in ("forward", "backward"):
            size = getattr(self._library, f"dcn_cuda_{name}_workspace")
            size.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
            size.restype = ctypes.c_size_t
            run = getattr(self._library, f"dcn_cuda_{name}")
            run.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int]
            run.restype = ctypes.c_int
        self._library.dcn_cuda_error_name.argtypes = [ctypes.c_int]
        self._library.dcn_cuda_error_name.restype = ctypes.c_char_p

    def workspace(self, problem: Problem, tensors: _Tensors, flags: int = 0) -> int:
        """Bytes of device memory that :meth:`run` needs for these arguments."""
        size = getattr(self._library, f"dcn_cuda_{self._direction(tensors)}_workspace")
        return size(ctypes.byref(problem), ctypes.byref(tensors), flags)

    def run(
        self, problem: Problem, tensors: _Tensors, workspace: int, stream: int = 0, flags: int = 0
    ) -> None:
        """Enqueue forward or backward, by the type of ``tensors``."""
        function = getattr(self._library, f"dcn_cuda_{self._direction(tensors)}")
        error = function(ctypes.byref(problem), ctypes.byref(tensors), workspace, stream, flags)
        if error:
            name = self._library.dcn_cuda_error_name(error).decode()
            raise RuntimeError(f"dcn_cuda_{self._direction(tensors)}: {name} ({error})")

    @staticmethod
    def _direction(tensors: _Tensors) -> str:
        return "forward" if isinstance(tensors, ForwardTensors) else "backward"


def find_nvcc() -> Path | None:
    """Nvcc of ``CUDA_HOME``, else of the search path, else of /usr/local/cuda*, else None."""
    home = os.environ.get("CUDA_HOME")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
        return nvcc if nvcc.exists() else None
    usual = sorted(Path("/usr/local").glob("cuda*/bin/nvcc"), reverse=True)
    found = shutil.which("nvcc")
    return usual[0] if usual else Path(found) if found else None


def nvcc_command(nvcc: Path, output: Path, architectures: tuple[int, ...] = (80, 90)) -> list[str]:
    """The command that builds the kernel library; the newest architecture also as PTX."""
    codes = [f"arch=compute_{a},code=sm_{a}" for a in architectures]
    codes.append(f"arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    return [
        str(nvcc),
        *"-std=c++17 -O3 -shared -Xcompiler -fPIC -cudart static".split(),
        *(part for code in codes for part in ("-gencode", code)),
        *"-t 2 -Xptxas -v -Werror all-warnings".split(),
        *(str(source) for source in sorted(SOURCES.glob("*.cu"))),
        "-o",
        str(output),
    ]


def build(output: Path, architectures: tuple[int, ...] = (80, 90)) -> str:
    """Compile the kernel library with nvcc and return ptxas' report.

    Raises ``RuntimeError`` with the compiler's first lines when there is no nvcc or it fails.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc was not found: set CUDA_HOME to a CUDA toolkit")
    done = subprocess.run(
        nvcc_command(nvcc, output, architectures), capture_output=True, text=True, check=False
    )
    report = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in report.splitlines() if "ptxas info" not in line]
        raise RuntimeError("nvcc failed:\n" + "\n".join(lines[:40]))
    return report
