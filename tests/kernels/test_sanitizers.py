"""The CPU kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

`make test` runs one emulated engine on a few cases; `make sanitize` all engines, emulated and of
this processor, on the whole table. Buffers end where their tensors do, and tensors are aligned no
more than their elements need.
"""

import shutil

import pytest

from tests.kernels import test_inference
from tests.kernels.cpu_emulation.harness import build
from tests.support.cases import COMPACT, TABLE
from tests.support.engines import EMULATED, FULL, NATIVE
from tests.support.kernel_jobs import Job, run_sanitized
from tests.support.operators import check_results
from tests.support.problems import DTYPES

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")

FEW = [case for case in COMPACT if case.products < 300_000]
ENGINES, NAMES = [("avx2", True)], ["address and undefined", "thread"]
if FULL:
    NAMES = ["address", "undefined", "thread"]
    ENGINES = [(engine, False) for engine in NATIVE] + [(engine, True) for engine in EMULATED]


# The engines that compute what these do not, other types and values.
TAKE_OVER = {"avx512_bf16": ("avx512",), "amx": ("avx512", "avx512_bf16")}


def jobs(engine: str, threads: int, cases, dtypes, **how) -> list[Job]:
    sizes = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
    return [
        Job(c, d, ("cpu", engine, threads), shift=max(sizes[dtype] for dtype in d), **how)
        for c in cases
        for d in dtypes
    ]


def inference_jobs(device: tuple) -> list[Job]:
    """What forward does for inference, plain convolutions too."""
    plain, others = test_inference.PLAIN, test_inference.JOBS
    few = [case for case in plain if case.products < 400_000]
    packed = [(case, form) for case, form in others if case in FEW and form.packed]
    return [
        *(
            test_inference.plain_job(case, form, device, 4)
            for case in (plain if FULL else few)
            for form in test_inference.PLAIN_FORMS[0 if FULL else 2 :]
        ),
        *(
            test_inference.job_of(case, form, DTYPES[0], device, 4)
            for case, form in (others if FULL else packed[::6])
        ),
    ]


@pytest.mark.parametrize("sanitizer", NAMES)
@pytest.mark.parametrize(("engine", "emulated"), ENGINES)
def test_finds_nothing(sanitizer, engine, emulated, tmp_path):
    # ThreadSanitizer must see the barriers of all engines that run.
    library = build(emulated, sanitizer, (engine, *TAKE_OVER.get(engine, ())))
    threads = 3 if sanitizer == "thread" else 1
    tasks = jobs(engine, threads, TABLE if FULL else FEW, DTYPES if FULL else DTYPES[:4])
    tasks += inference_jobs(tasks[0].device)
    some = [case for case in (TABLE if FULL else FEW[::4]) if case.modulated]
    for dtypes, padding in zip(DTYPES, (1, None)):
        tasks += jobs(engine, threads, some, [dtypes], planes_last=True, padding=padding)
    results, report = run_sanitized(sanitizer, library, tasks, tmp_path)
    assert not report, report[:4000]
    for task, result in zip(tasks, results):
        if task.wanted:
            check_results(result, task.case, task.dtypes)
        else:
            test_inference.check(task, result["out"])
