"""Builds the emulated kernel library and runs jobs on it, with numpy alone.

As a program (``python -m ... LIBRARY IN OUT``) it runs the jobs pickled in a file: under a
sanitizer, whose runtime is loaded first and would watch all of Paddle otherwise.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import subprocess
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cuda_kernels import (
    DTYPES,
    SOURCES,
    BackwardTensors,
    ForwardTensors,
    Library,
    Problem,
)

HERE = Path(__file__).resolve().parent
FLAGS = "-std=c++17 -fPIC -fno-strict-aliasing -pthread -Wall -Wextra -Wno-unknown-pragmas"
VARIANTS = {
    "fibers": "-O1",
    "address": "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined",
    "thread": "-O1 -g -fsanitize=thread -DDCN_EMULATION_THREADS",
}


def build(variant: str, folder: Path, sources: Path = SOURCES) -> Path:
    """Compile the kernels in `sources` against the shim, unless an equal build is in `folder`."""
    shim = HERE / "emulation.h"
    files = sorted(sources.glob("*.cu"))
    everything = [*files, *sources.glob("*.cuh"), *sources.parent.glob("*.h"), shim]
    digest = hashlib.sha256((FLAGS + VARIANTS[variant]).encode())
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


@dataclass
class Job:
    """A problem, its tensors as float64 NCHW arrays, and how to run it."""

    options: dict  # of Problem.create
    arrays: dict[str, np.ndarray]  # x, offset, mask, weight, bias, grad
    wanted: tuple[str, ...] = ("x", "offset", "mask", "weight", "bias")
    flags: int = 0
    processors: int = 4  # of the emulated device: tile sizes depend on it
    shift: int = 0  # bytes by which tensors miss 256-byte alignment


def run(library: Library, job: Job) -> dict[str, np.ndarray]:
    """Output and wanted gradients of a job, as float64 NCHW arrays."""
    p = Problem.create(**job.options)
    set_processors = ctypes.CDLL(str(library.path)).dcn_emulation_set_processors
    set_processors(job.processors)
    dtype, offset_dtype = DTYPES[p.dtype], DTYPES[p.offset_dtype]
    shapes = {name: s for name, s in p.shapes().items() if name != "mask" or p.modulated}

    def memory(name: str, like: str) -> np.ndarray:
        """Room for a tensor, filled with NaN patterns, or with the job's values."""
        values = job.arrays.get(name)
        among = offset_dtype if like in ("offset", "mask") else dtype
        array = aligned_empty(shapes[like], to_memory(np.zeros(0), among).dtype, job.shift)
        array.view(np.uint8)[...] = 0xFF
        if values is not None:
            if p.channels_last and like in ("x", "out"):
                values = values.transpose(0, 2, 3, 1)
            array[...] = to_memory(values, among)
        return array

    def call(tensors, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        workspace = aligned_empty((library.workspace(p, tensors, job.flags),), np.dtype(np.uint8))
        workspace[...] = 0xFF
        library.run(p, tensors, workspace.ctypes.data, flags=job.flags)
        results = {name: from_memory(array) for name, array in outputs.items()}
        for name in ("out", "x"):
            if p.channels_last and name in results:
                results[name] = results[name].transpose(0, 3, 1, 2)
        return results

    inputs = {name: memory(name, name) for name in shapes if name != "out"}
    out = memory("out", "out")
    pointers = {name: array.ctypes.data for name, array in inputs.items()}
    results = call(ForwardTensors({**pointers, "out": out.ctypes.data}), {"out": out})
    if job.wanted:
        inputs["grad"] = memory("grad", "out")
        gradients = {name: memory("", name) for name in job.wanted if name in shapes}
        pointers["grad_out"] = inputs["grad"].ctypes.data
        pointers |= {f"grad_{name}": array.ctypes.data for name, array in gradients.items()}
        results |= call(BackwardTensors(pointers), gradients)
    return results


def run_sanitized(variant: str, library: Path, jobs: list[Job], folder: Path) -> tuple[list, str]:
    """Run jobs in a process of their own; results, and the variant's sanitizer's report or ""."""
    runtimes = {"address": ["libasan.so"], "thread": ["libtsan.so"]}.get(variant, [])
    compiler = os.environ.get("CXX", "g++")
    preloaded = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in (*runtimes, "libstdc++.so")
    ]
    source, target = folder / "jobs.pickle", folder / "results.pickle"
    source.write_bytes(pickle.dumps(jobs))
    target.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0:exitcode=66",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(library), str(source), str(target)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=HERE.parents[2],
        check=False,
    )
    if done.returncode:
        return [], done.stderr or f"exit status {done.returncode}"
    return pickle.loads(target.read_bytes()), ""


def main() -> None:
    """Run the jobs of one file and write their results to another."""
    library = Library(sys.argv[1])
    jobs = pickle.loads(Path(sys.argv[2]).read_bytes())
    Path(sys.argv[3]).write_bytes(pickle.dumps([run(library, job) for job in jobs]))


if __name__ == "__main__":
    main()
