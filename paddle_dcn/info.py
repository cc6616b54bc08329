"""Print versions, the instruction set and threads in use, and where the library comes from."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform

import numpy
import paddle

from . import __version__, _library


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: none."""


def _for_bfloat16(library) -> str:
    """Name the instruction set for bfloat16 and, where there was a choice, its reason."""
    name = library.paddle_dcn_bfloat16_instruction_set().decode()
    time = library.dcn_cpu_bfloat16_time()
    if not time or name not in ("avx512", "avx512_bf16"):
        return name
    pays = "pays" if name == "avx512_bf16" else "does not pay"
    return f"{name} (vdpbf16ps takes {time:.1f} times as long as vfmadd231ps, which {pays})"


def main(arguments: argparse.Namespace) -> int:
    """Print the table."""
    library, engines = _library.HANDLE, _library.engines()
    used = library.paddle_dcn_instruction_set().decode()
    limit = os.environ.get("PADDLE_DCN_INSTRUCTION_SET")
    library.paddle_dcn_cuda_capabilities.restype = ctypes.c_char_p
    capabilities = library.paddle_dcn_cuda_capabilities().decode()
    available = ", ".join(engines[: engines.index(used) + 1])
    rows = {
        "paddle_dcn": __version__,
        "Paddle": paddle.__version__,
        "NumPy": numpy.__version__,
        "Python": f"{platform.python_version()} on {platform.machine()}",
        "instruction set": used,
        "  chosen by": f"PADDLE_DCN_INSTRUCTION_SET={limit}" if limit else f"best of {available}",
        "  for bfloat16": _for_bfloat16(library),
        "threads": f"{library.paddle_dcn_threads()} (environment variable OMP_NUM_THREADS)",
        "CUDA kernels": f"for compute capability {capabilities}" if capabilities else "no",
        "library": _library.PATH,
        "  from": _library.ORIGIN,
        "  built for": f"Paddle {library.paddle_dcn_built_for().decode()}",
    }
    for name, value in rows.items():
        print(f"{name:16} {value}")
    return 0
