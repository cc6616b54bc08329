"""Shows that the emulation's tests find faults: seeds one at a time and says what found it.

Run it from the repository's root: ``python -m tests.kernels.cuda_emulation.faults``. It takes
some minutes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.kernels.cuda_emulation.harness import SOURCES, build, run_sanitized
from tests.kernels.test_cuda_emulation import compare, sanitizer_jobs

# What is broken, the file, its text, the text in its place, and the variant that must find it.
FAULTS = [
    (
        "no barrier between sampling and the product",
        "forward.cuh",
        "wait_copies<1>();\n    __syncthreads();",
        "wait_copies<1>();",
        "thread",
    ),
    (
        "no barrier between the column gradients' product and their readers",
        "backward_data.cuh",
        "= sum; });\n    __syncthreads();",
        "= sum; });",
        "thread",
    ),
    (
        "a barrier that only some threads reach",
        "backward_weight.cuh",
        "    wait_copies<1>();\n    __syncthreads();",
        "    wait_copies<1>();\n    if (valid(0)) __syncthreads();",
        "fibers",
    ),
    (
        "a copy that is used before it arrives",
        "forward.cuh",
        "wait_copies<1>();",
        "wait_copies<2>();",
        "fibers",
    ),
    (
        "a corner beyond the last column",
        "sampler.cuh",
        "x + 1 < g.width",
        "x + 1 <= g.width",
        "address",
    ),
    (
        "a corner beyond the last row",
        "sampler.cuh",
        "y + 1 < g.height",
        "y + 1 <= g.height",
        "address",
    ),
    (
        "a plain add in place of an atomic one",
        "backward_data.cuh",
        "atomic_add_vector(a.grad_x + corners.offset(g, corner) + c, part_sum);",
        "for (int e = 0; e < kSumVector; ++e) a.grad_x[corners.offset(g, corner) + c + e] += "
        "part_sum[e];",
        "thread",
    ),
    (
        "a plain count in place of an atomic one",
        "gather.cuh",
        "atomicAdd(a.counts + cell, 1);",
        "++a.counts[cell];",
        "thread",
    ),
]


def found_by(variant: str, folder: Path, sources: Path) -> str:
    """What the variant says about these sources, or "" when it finds nothing."""
    library = build(variant, folder, sources)
    jobs, cases = sanitizer_jobs()
    results, report = run_sanitized(variant, library, jobs, folder)
    for line in report.splitlines():
        if any(word in line for word in ("ERROR: ", "WARNING: Thread", "emulation: ", "error: ")):
            return line.strip()
    if report:
        return report.splitlines()[-1]
    try:
        for job, case, result in zip(jobs, cases, results):
            compare(result, case, (job.options["dtype"], job.options["offset_dtype"]))
    except AssertionError as error:
        return f"wrong result: {error}".splitlines()[0]
    return ""


def main() -> int:
    """Seed every fault and print what found it; the status is the number of faults not found."""
    missed = 0
    for what, name, text, replacement, variant in FAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            kernels = Path(scratch) / "kernels"
            shutil.copytree(SOURCES.parent, kernels)
            path = kernels / "cuda" / name
            before = path.read_text()
            assert text in before, f"{name} has changed: {text!r} is not in it"
            path.write_text(before.replace(text, replacement))
            report = found_by(variant, Path(scratch), kernels / "cuda")
        missed += not report
        print(f"{what} ({name}): {variant}: {report or 'NOT FOUND'}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
