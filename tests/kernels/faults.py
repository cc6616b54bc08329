"""Shows that the sanitizers and the emulations find faults: seeds one at a time, and runs them.

``python -m tests.kernels.faults`` seeds all and prints what found each. It takes some minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.kernel_library import KERNELS
from tests.kernels.cpu_emulation import harness as cpu_emulation
from tests.kernels.cuda_emulation import harness as cuda_emulation
from tests.kernels.test_cuda_emulation import SANITIZED
from tests.support.kernel_jobs import run_sanitized
from tests.support.operators import check_results


def _headline(report: str) -> str:
    """Return the line of a report that says what was found."""
    marks = ("ERROR: ", "WARNING: Thread", "runtime error", "emulation: ", "error: ")
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return next((line for line in lines if any(m in line for m in marks)), lines[0])


def cuda(variant: str, kernels: Path, scratch: Path) -> str:
    """Run the emulated CUDA kernels; return what is said of them, or ""."""
    library = cuda_emulation.build(variant, kernels, scratch)
    results, report = run_sanitized(variant, library, SANITIZED, scratch)
    if report:
        return _headline(report)
    try:
        for job, result in zip(SANITIZED, results):
            check_results(result, job.case, job.dtypes)
    except AssertionError as error:
        return f"wrong result: {error}".splitlines()[0]
    return ""


def parts(sanitizer: str, kernels: Path, scratch: Path) -> str:
    """Run the tests of the CPU kernels' parts; return what is said of them, or ""."""
    program = cpu_emulation.build_parts("baseline", False, sanitizer, kernels, scratch)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    return _headline(done.stderr or done.stdout) if done.returncode else ""


class Fault(NamedTuple):
    """A change of the sources, and the check that must find it."""

    what: str
    file: str  # in custom_ops/kernels
    text: str
    replacement: str
    check: Callable[[Path, Path], str]


FAULTS = [
    Fault(
        "no barrier at the end of a phase",
        "cpu/team-inl.h",
        "    barrier();\n    if",
        "    ++phase_;\n    if",
        partial(parts, "thread"),
    ),
    Fault(
        "a plain count of tasks in place of an atomic one",
        "cpu/team-inl.h",
        "__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED)",
        "(*counter)++",
        partial(parts, "thread"),
    ),
    Fault(
        "a column beyond the last",
        "cpu/layout-inl.h",
        "for (; c + 4 <= c1; c += 4)",
        "for (; c + 3 <= c1; c += 4)",
        partial(parts, "address"),
    ),
    Fault(
        "a row beyond the last",
        "cpu/layout-inl.h",
        "for (; r + 4 <= r1; r += 4)",
        "for (; r + 3 <= r1; r += 4)",
        partial(parts, "address and undefined"),
    ),
    Fault(
        "vectors that must be aligned as a whole",
        "cpu/isa-inl.h",
        "aligned(alignof(T)), ",
        "",
        partial(parts, "address and undefined"),
    ),
    Fault(
        "float16 that rounds up half way",
        "cpu/half-inl.h",
        "0xfffu + ((magnitude >> 13) & 1u)",
        "0x1000u",
        partial(parts, ""),
    ),
    Fault(
        "no barrier between sampling and the product",
        "cuda/forward.cuh",
        "wait_copies<1>();\n      __syncthreads();",
        "wait_copies<1>();",
        partial(cuda, "thread"),
    ),
    Fault(
        "no barrier between the column gradients' product and their readers",
        "cuda/backward_data.cuh",
        "        pixels[i] = p;\n      }\n      __syncthreads();",
        "        pixels[i] = p;\n      }",
        partial(cuda, "thread"),
    ),
    Fault(
        "a barrier that only some threads reach",
        "cuda/backward_weight.cuh",
        "      wait_copies<1>();\n      __syncthreads();",
        "      wait_copies<1>();\n      if (thread < 32) __syncthreads();",
        partial(cuda, "fibers"),
    ),
    Fault(
        "a copy that is used before it arrives",
        "cuda/forward.cuh",
        "wait_copies<1>();",
        "wait_copies<2>();",
        partial(cuda, "fibers"),
    ),
    Fault(
        "a corner beyond the last column",
        "cuda/sampler.cuh",
        "x + 1 < g.width",
        "x + 1 <= g.width",
        partial(cuda, "address"),
    ),
    Fault(
        "a corner beyond the last row",
        "cuda/sampler.cuh",
        "y + 1 < g.height",
        "y + 1 <= g.height",
        partial(cuda, "address"),
    ),
    Fault(
        "a plain add in place of an atomic one",
        "cuda/backward_data.cuh",
        "atomic_add_vector(a.grad_x + corners.offset(g, corner) + to, share);",
        "for (int e = 0; e < kSumVector; ++e) "
        "a.grad_x[corners.offset(g, corner) + to + e] += share[e];",
        partial(cuda, "thread"),
    ),
    Fault(
        "a plain count in place of an atomic one",
        "cuda/bins.cuh",
        "atomicAdd(b.start(s.plane, s.cell_y, s.cell_x), 1);",
        "(*b.start(s.plane, s.cell_y, s.cell_x))++;",
        partial(cuda, "thread"),
    ),
]


def found(fault: Fault) -> str:
    """Seed a fault and return what is said of it, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels"
        shutil.copytree(KERNELS, kernels)
        path = kernels / fault.file
        before = path.read_text()
        assert before.count(fault.text) == 1, f"{fault.file} has changed: {fault.text!r}"
        path.write_text(before.replace(fault.text, fault.replacement))
        return fault.check(kernels, Path(folder))


def main() -> int:
    """Seed every fault and print what found it; the status is the number of faults not found."""
    missed = 0
    for fault in FAULTS:
        report = found(fault)
        missed += not report
        print(f"{fault.what} ({fault.file}): {report or 'NOT FOUND'}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
