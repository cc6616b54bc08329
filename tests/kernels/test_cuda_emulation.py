"""The CUDA kernels' sources, run on the CPU, against the float64 reference."""

import ctypes
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cuda_kernels import (
    DETERMINISTIC,
    SOURCES,
    TENSOR_FLOAT32,
    WIDE_INDEX,
    BackwardTensors,
    ForwardTensors,
    Library,
    Problem,
)
from tests.kernels.cuda_emulation.harness import Job, build, run, run_sanitized
from tests.support.cases import COMPACT, TABLE, Case, pair
from tests.support.comparison import EPSILON, assert_results_close
from tests.support.operators import expected
from tests.support.problems import DTYPE_IDS, DTYPES, grid, random_problem
from tests.support.process import ROOT

BUILDS = ROOT / "build" / "cuda_emulation"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")


@pytest.fixture(scope="module")
def library():
    """The kernels with blocks as fibers."""
    return Library(build("fibers", BUILDS))


def job(case: Case, dtypes=("float32", "float32"), **how) -> Job:
    """A case as the emulation takes it."""
    arrays = random_problem(case, dtypes[0])
    if arrays["bias"] is None:
        arrays["bias"] = np.zeros(case.outputs)
    options = {
        "x_shape": (case.batch, case.channels, *case.size),
        "out_channels": case.outputs,
        "kernel": pair(case.kernel),
        "stride": pair(case.stride),
        "padding": case.pads,
        "dilation": pair(case.dilation),
        "groups": case.groups,
        "deformable_groups": case.deformable_groups,
        "im2col_step": case.im2col_step or 0,
        "dtype": dtypes[0],
        "offset_dtype": dtypes[1],
        "channels_last": case.data_format == "NHWC",
        "modulated": case.modulated,
    }
    return Job(options, {n: a for n, a in arrays.items() if a is not None}, **how)


def compare(actual: dict, case: Case, dtypes=("float32", "float32")) -> None:
    """Every result of a job against the reference's."""
    wanted = {name: array for name, array in expected(case, dtypes[0]).items() if name in actual}
    actual = {name: array for name, array in actual.items() if name in wanted}
    assert_results_close(actual, wanted, case, dtypes)


def check(library: Library, case: Case, dtypes=("float32", "float32"), **how) -> None:
    compare(run(library, job(case, dtypes, **how)), case, dtypes)


# Of the tables what can be emulated in a second.
EMULATED = [case for case in TABLE if case.products < 2_500_000]
EMULATED_COMPACT = [case for case in COMPACT if case.products < 1_200_000]

# Deformable groups that are cut by a group's border.
STRADDLING = Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3)


@pytest.mark.parametrize("case", EMULATED, ids=str)
def test_float32(library, case):
    check(library, case)


@pytest.mark.parametrize("dtypes", DTYPES[1:], ids=DTYPE_IDS[1:])
@pytest.mark.parametrize("case", EMULATED_COMPACT, ids=str)
def test_other_dtypes(library, case, dtypes):
    check(library, case, dtypes)


@pytest.mark.parametrize("case", EMULATED_COMPACT, ids=str)
def test_tensor_float32(library, case, monkeypatch):
    monkeypatch.setitem(EPSILON, "tensor_float32", 2.0**-10)
    results = run(library, job(case, flags=TENSOR_FLOAT32))
    compare(results, case, ("tensor_float32", "float32"))


# Output channels and channels that lead to each tile size, on a device of one processor.
TILES = [
    Case(1, 8, (3, 5), 200, kernel=1),
    Case(1, 40, (3, 5), 100, kernel=(1, 2)),
    Case(1, 100, (4, 4), 40, kernel=(2, 1)),
    Case(1, 70, (5, 4), 16, kernel=1, groups=2),
]


@pytest.mark.parametrize("flags", [0, WIDE_INDEX], ids=["int32", "int64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tensor_float32", "float32", "float64"])
@pytest.mark.parametrize("case", TILES, ids=str)
def test_tiles(library, case, dtype, flags, monkeypatch):
    monkeypatch.setitem(EPSILON, "tensor_float32", 2.0**-10)
    stored = "float32" if dtype == "tensor_float32" else dtype
    flags |= TENSOR_FLOAT32 if dtype == "tensor_float32" else 0
    results = run(library, job(case, (stored, stored), flags=flags, processors=1))
    compare(results, case, (dtype, stored))


def run_both_ways(library: Library, task: Job) -> list[dict[str, np.ndarray]]:
    """Results with the first block and thread first, and with the last ones first."""
    run_backwards = ctypes.CDLL(str(library.path)).dcn_emulation_run_backwards
    try:
        results = []
        for backwards in (False, True):
            run_backwards(backwards)
            results.append(run(library, task))
    finally:
        run_backwards(False)
    return results


@pytest.mark.parametrize("dtypes", DTYPES[:4], ids=DTYPE_IDS[:4])
@pytest.mark.parametrize("case", EMULATED_COMPACT, ids=str)
def test_deterministic(library, case, dtypes):
    """The same bits in whatever order blocks and threads run."""
    task = job(case, dtypes, flags=DETERMINISTIC)
    first, second = run_both_ways(library, task)
    compare(first, case, dtypes)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


def test_deterministic_with_all_samples_in_one_cell(library):
    """Where sums in the order of arrival, as they are by default, do depend on it."""
    case = Case(1, 4, (8, 8), 4, padding=1)
    task = job(case, flags=DETERMINISTIC)
    taps, out = 9, case.out_size
    at = grid(case)
    task.arrays["offset"] = (3.25 - at).reshape(1, 2 * taps, *out)
    plain, other = run_both_ways(library, replace(task, flags=0))
    assert not np.array_equal(plain["x"], other["x"])
    results, others = run_both_ways(library, task)
    for name, array in results.items():
        np.testing.assert_array_equal(others[name], array, err_msg=name)
        np.testing.assert_allclose(array, plain[name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("wanted", [("x",), ("offset",), ("mask",), ("weight",), ("bias",)])
@pytest.mark.parametrize("flags", [0, DETERMINISTIC], ids=["default", "deterministic"])
def test_single_gradients(library, wanted, flags):
    check(library, STRADDLING, wanted=wanted, flags=flags)


@pytest.mark.parametrize(
    "case",
    [
        STRADDLING,
        replace(STRADDLING, data_format="NHWC"),
        Case(1, 64, (14, 15), 64, padding=1, stride=2, data_format="NHWC", offsets="border"),
    ],
    ids=str,
)
def test_unaligned_tensors(library, case):
    check(library, case, shift=4)
    check(library, case, ("float16", "float16"), shift=2)


@pytest.mark.parametrize("batch", [1, 4, 64, 1 << 20])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_workspace_does_not_grow_with_the_batch(library, batch, dtype):
    problem = Problem.create((batch, 256, 100, 100), 256, dtype=dtype)
    limit = (64 if dtype != "float64" else 100) << 20  # an image is what goes through at least
    for tensors in (ForwardTensors, BackwardTensors):
        pointers = {name: 256 for name, _ in tensors._fields_}
        for flags in (0, DETERMINISTIC, TENSOR_FLOAT32):
            assert library.workspace(problem, tensors(pointers), flags) < limit


def test_seeded_faults_fit_the_sources():
    from tests.kernels.cuda_emulation.faults import FAULTS

    for what, name, text, _, _ in FAULTS:
        assert (SOURCES / name).read_text().count(text) == 1, what


@pytest.mark.skipif("PADDLE_DCN_CUDA_CHECK" not in os.environ, reason="run by make cuda-check")
@pytest.mark.parametrize("variant", ["address", "thread"])
def test_sanitizers_find_nothing(variant, tmp_path):
    jobs, cases = sanitizer_jobs()
    results, report = run_sanitized(variant, build(variant, BUILDS), jobs, tmp_path)
    assert not report, report[:4000]
    for task, case, result in zip(jobs, cases, results):
        compare(result, case, (task.options["dtype"], task.options["offset_dtype"]))


def sanitizer_jobs() -> tuple[list[Job], list[Case]]:
    """Every kernel, on as little as it can run on: a thousand threads share two cores here."""
    packed = Case(1, 16, (3, 4), 24, kernel=(1, 2), padding=1, data_format="NHWC")
    grouped = Case(2, 6, (3, 3), 4, kernel=(2, 1), padding=1, groups=2, deformable_groups=3)
    table = [
        (packed, ("float16", "float32"), 0),
        (packed, ("float32", "float32"), 0),
        (grouped, ("float32", "float32"), DETERMINISTIC),
        (grouped, ("float64", "float64"), WIDE_INDEX),
    ]
    return [job(case, dtypes, flags=flags) for case, dtypes, flags in table], [t[0] for t in table]
