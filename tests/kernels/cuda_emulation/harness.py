"""Builds the CUDA kernels for the CPU."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kernel_library import KERNELS, compile_cached
from tests.support.kernel_jobs import SANITIZERS
from tests.support.process import ROOT

HERE = Path(__file__).resolve().parent
BUILDS = ROOT / "build" / "cuda_emulation"
# Where it is fortified, longjmp takes a jump to another stack for an attack.
FLAGS = (
    "-O1 -std=c++17 -fPIC -fno-strict-aliasing -pthread -Wall -Wextra -Wno-unknown-pragmas "
    "-U_FORTIFY_SOURCE"
)
VARIANTS = {
    "fibers": [],
    "volta": ["-O0", "-DDCN_EMULATION_VOLTA"],  # of which little is run
    # Optimised, what sanitizers add would take minutes to compile. What is undefined traps:
    # AddressSanitizer says where, and half as much is compiled.
    "address": [
        *("-g1", "-O0", "-fsanitize-undefined-trap-on-error"),
        *SANITIZERS["address"].flags,
        *SANITIZERS["undefined"].flags,
    ],
    "thread": ["-g1", "-O0", *SANITIZERS["thread"].flags, "-DDCN_EMULATION_THREADS"],
}


def build(variant: str, kernels: Path = KERNELS, folder: Path = BUILDS) -> Path:
    """Compile the CUDA kernels of the folder `kernels` against the shim."""
    shim = HERE / "emulation.h"
    extra = VARIANTS[variant]
    flags = [*FLAGS.split(), *extra, "-x", "c++", f'-DDCN_CUDA_EMULATION="{shim}"']
    sources = sorted((kernels / "cuda").glob("*.cu"))
    headers = [*(kernels / "cuda").glob("*.cuh"), *kernels.glob("*.h"), shim]
    return compile_cached(
        folder, variant, [(s, flags) for s in sources], headers, ["-shared", *extra]
    )
