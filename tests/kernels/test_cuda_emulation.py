"""The CUDA kernels' sources, run on the CPU, against the float64 reference."""

import ctypes
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.kernel_library import (
    DETERMINISTIC,
    KERNELS,
    SMALL_CHUNKS,
    TENSOR_FLOAT32,
    WIDE_INDEX,
    BackwardTensors,
    ForwardTensors,
    Library,
    Problem,
)
from paddle_dcn import deform_conv2d_reference
from tests.kernels.cuda_emulation.harness import build
from tests.support.cases import COMPACT, TABLE, Case
from tests.support.comparison import assert_results_close
from tests.support.formula import without_weight
from tests.support.kernel_jobs import Job, run, run_sanitized
from tests.support.operators import check_job, check_results
from tests.support.operators import run as run_operator
from tests.support.problems import DTYPE_IDS, DTYPES, grid, random_problem

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")


@pytest.fixture(scope="module")
def library():
    """The kernels with blocks as fibers."""
    return Library(build("fibers"))


@pytest.fixture(scope="module")
def volta():
    """The same, with what replaces the instructions that Volta and Turing lack."""
    return Library(build("volta"))


def job(case: Case, dtypes=("float32", "float32"), flags: int = 0, **how) -> Job:
    """A case on the emulated device."""
    return Job(case, dtypes, ("cuda", flags), **how)


def check(library: Library, *arguments, **how) -> None:
    check_job(library, job(*arguments, **how))


# `make cuda-check` takes the time for all tables.
CHECK = "PADDLE_DCN_CUDA_CHECK" in os.environ

# Of the tables what can be emulated in a second.
EMULATED = [case for case in (TABLE if CHECK else COMPACT) if case.products < 2_500_000]
EMULATED_COMPACT = [case for case in COMPACT if case.products < 1_200_000]


def in_types(cases: list[Case], dtypes: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Each case in each of the types or, outside `make cuda-check`, in one, taken in turn."""
    pairs = [(case, dtypes[i % len(dtypes)]) for i, case in enumerate(cases)]
    if CHECK:
        pairs = [(case, types) for case in cases for types in dtypes]
    names = [f"{case}-{DTYPE_IDS[DTYPES.index(types)]}" for case, types in pairs]
    return pytest.mark.parametrize(("case", "dtypes"), pairs, ids=names)


# Deformable groups that are cut by a group's border.
STRADDLING = Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3)


@pytest.mark.parametrize("case", EMULATED, ids=str)
def test_float32(library, case):
    check(library, case)


@in_types(EMULATED_COMPACT, DTYPES[1:])
def test_other_dtypes(library, case, dtypes):
    check(library, case, dtypes)


@pytest.mark.parametrize("case", EMULATED_COMPACT, ids=str)
def test_tensor_float32(library, case):
    results = run(library, job(case, flags=TENSOR_FLOAT32))
    check_results(results, case, ("tensor_float32", "float32"))


# Few channels and outputs per group: what the direct kernels compute. Channels that fill a vector,
# or a part of one; several tiles of 64 pixels; taps in several steps; deformable groups of one
# channel, of one vector, and of more.
DIRECT = [
    Case(0, 8, (5, 5), 8, padding=1, groups=8),
    Case(1, 1, (1, 1), 1, kernel=1),
    Case(2, 16, (9, 7), 16, padding=1, groups=16),
    Case(2, 40, (9, 17), 40, padding=1, groups=40, data_format="NHWC"),
    Case(2, 72, (6, 9), 72, padding=1, groups=72, deformable_groups=9, stride=2),
    Case(1, 6, (6, 9), 6, padding=1, groups=6, deformable_groups=6),
    Case(1, 16, (6, 9), 48, padding=1, groups=16, deformable_groups=2, modulated=False),
    Case(1, 7, (6, 9), 28, kernel=(2, 5), groups=7, data_format="NHWC", offsets="border"),
    Case(2, 24, (6, 9), 24, kernel=(1, 2), groups=12, deformable_groups=3, offsets="integer"),
    Case(2, 24, (6, 9), 24, kernel=4, groups=6, deformable_groups=3, offsets="nonfinite"),
    Case(3, 10, (6, 20), 10, padding=1, groups=10, offsets="huge", im2col_step=2),
    Case(1, 264, (3, 4), 264, kernel=(2, 1), groups=264, data_format="NHWC"),
]


@in_types(DIRECT, [*DTYPES[:4], DTYPES[5]])
def test_few_channels_per_group(library, case, dtypes):
    """The same bits in whatever order blocks and threads run."""
    first, second = run_both_ways(library, job(case, dtypes, DETERMINISTIC))
    check_results(first, case, dtypes)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


def test_without_weight(library):
    """Given ones, with which it computes; they have no gradient."""
    for case in DIRECT[2:6]:
        found = run(library, job(case, weighted=False, wanted=("x", "offset", "mask")))
        wanted = without_weight(case, ("float32", "float32"))
        assert_results_close(found, wanted, case, ("float32", "float32"))


@pytest.mark.parametrize("shift", [0, 4])
def test_few_channels_per_group_unaligned(library, shift):
    for case in DIRECT[3:5]:
        check(library, case, shift=shift)
        check(library, case, ("float16", "float16"), shift=shift // 2)


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
def test_tiles(library, case, dtype, flags):
    stored = "float32" if dtype == "tensor_float32" else dtype
    flags |= TENSOR_FLOAT32 if dtype == "tensor_float32" else 0
    results = run(library, job(case, (stored, stored), flags=flags, processors=1))
    check_results(results, case, (dtype, stored))


# Several tiles of the packing kernels, whole and cut off; rows that are read 16 bytes at a time and
# rows that are not; padded segments in either layout; a weight without neighbours.
PACKING = [
    Case(2, 80, (8, 16), 24, kernel=1),
    Case(2, 68, (7, 13), 9, kernel=(1, 2)),
    Case(1, 18, (9, 10), 20, kernel=(2, 1), groups=2),
    Case(1, 18, (9, 10), 20, kernel=(2, 1), groups=2, data_format="NHWC"),
    Case(2, 9, (5, 60), 70, kernel=1, data_format="NHWC"),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("case", PACKING, ids=str)
def test_packing(library, case, dtype):
    check(library, case, (dtype, dtype))


@pytest.mark.skipif(not CHECK, reason="run by make cuda-check")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "tensor_float32", "float32"])
@pytest.mark.parametrize("case", TILES, ids=str)
def test_volta(volta, case, dtype):
    test_tiles(volta, case, dtype, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [0, 1])
def test_origins_beyond_32_bits(library, axis, dtype):
    """Offsets bring samples back that start at 2**30 and 2**31."""
    stride, padding = [1, 1], [0, 0, 0, 0]
    stride[axis], padding[2 * axis + 1] = 2**30, 2**31 - 1
    case = Case(1, 4, (5, 4), 6, 1, tuple(stride), tuple(padding))
    arrays = dict(random_problem(case, dtype))
    offset = arrays["offset"].copy()
    offset[:, axis] = -stride[axis] * np.indices(case.out_size)[axis]
    arrays["offset"] = offset
    results = run(library, job(case, (dtype, dtype), arrays={"offset": offset}))
    wanted = run_operator(deform_conv2d_reference, case, arrays)
    assert_results_close(results, wanted, case, (dtype, dtype))


@pytest.mark.parametrize("name", ["x", "grad"])
@pytest.mark.parametrize("value", [np.inf, np.nan, np.finfo(np.float32).max], ids=str)
def test_float32_that_has_no_parts_in_tensor_float32(library, name, value):
    """Infinities stay infinite, and finite values finite, through products in three parts."""
    case = Case(1, 8, (5, 4), 9, padding=1)
    arrays = random_problem(case, "float32")
    for scaled in ("weight", "grad"):
        arrays[scaled] = np.ldexp(arrays[scaled], -8)
    arrays[name][0, 1, 2, 2] = value if name == "x" else np.ldexp(value, -8)
    results = run(library, job(case, arrays=arrays))
    expected = run_operator(deform_conv2d_reference, case, arrays)
    assert_results_close(results, expected, case, ("float32", "float32"))


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float16", "tensor_float32", "float32"])
def test_split_reduction(library, dtype, data_format):
    """Few tiles on many processors: other sums than on one, in the same order every time."""
    case = Case(2, 60, (5, 6), 20, padding=1, groups=2, data_format=data_format)
    stored = "float32" if dtype == "tensor_float32" else dtype
    flags = TENSOR_FLOAT32 if dtype == "tensor_float32" else 0
    task = job(case, (stored, stored), flags=flags, processors=32)
    results, others = run_both_ways(library, task)
    check_results(results, case, (dtype, stored))
    np.testing.assert_array_equal(others["out"], results["out"])
    if dtype != "float16":  # whose rounding hides it
        assert not np.array_equal(run(library, replace(task, processors=1))["out"], results["out"])


def run_both_ways(library: Library, task: Job) -> list[dict[str, np.ndarray]]:
    """Results with the first block and thread first, and with the last ones first."""
    run_backwards = library.handle.dcn_emulation_run_backwards
    try:
        results = []
        for backwards in (False, True):
            run_backwards(backwards)
            results.append(run(library, task))
    finally:
        run_backwards(False)
    return results


@in_types(EMULATED_COMPACT, DTYPES[:4])
def test_deterministic(library, case, dtypes):
    """The same bits in whatever order blocks and threads run."""
    task = job(case, dtypes, flags=DETERMINISTIC)
    first, second = run_both_ways(library, task)
    check_results(first, case, dtypes)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


def test_deterministic_with_all_samples_in_one_cell(library):
    """Where sums in the order of arrival, as they are by default, do depend on it."""
    case = Case(1, 5, (8, 8), 4, padding=1)
    offset = (3.25 - grid(case)).reshape(1, 2 * case.taps, *case.out_size)
    task = job(case, flags=DETERMINISTIC, arrays={"offset": offset})
    plain, other = run_both_ways(library, replace(task, device=("cuda", 0)))
    assert not np.array_equal(plain["x"], other["x"])
    results, others = run_both_ways(library, task)
    for name, array in results.items():
        np.testing.assert_array_equal(others[name], array, err_msg=name)
        np.testing.assert_allclose(array, plain[name], rtol=1e-4, atol=1e-4, err_msg=name)


# What Hopper's forward kernel takes: rests of tiles, of 128-byte chunks of channels and of strips
# of pixels; several deformable groups in a chunk, cut by groups; more taps than fit at a time.
HOPPER = [
    Case(1, 64, (9, 11), 66, padding=1),
    Case(1, 64, (9, 11), 40, padding=1),  # in TF32
    Case(1, 72, (7, 20), 130, padding=1, bias=False),
    Case(1, 64, (9, 40), 96, padding=1, stride=2, data_format="NHWC", offsets="border"),
    Case(1, 128, (6, 7), 136, padding=1, groups=2, deformable_groups=2, data_format="NHWC"),
    Case(1, 64, (6, 20), 80, padding=1, deformable_groups=8),
    Case(1, 192, (5, 6), 140, padding=1, groups=2, deformable_groups=3, modulated=False),
    Case(1, 40, (8, 9), 72, kernel=5, padding=2, offsets="huge"),
    Case(2, 64, (9, 12), 64, padding=1, deformable_groups=8, offsets="nonfinite"),
    Case(0, 64, (8, 9), 72),
]


@pytest.mark.parametrize(
    "dtypes, processors",
    [
        (("float16", "float16"), 1),
        (("float16", "float16"), 16),
        (("tensor_float32", "float32"), 1),
        *([(("tensor_float32", "float32"), 16), (("bfloat16", "float32"), 1)] if CHECK else []),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else f"{value} processors",
)
@pytest.mark.parametrize("case", HOPPER, ids=str)
def test_hopper(library, case, dtypes, processors):
    """The reduction in one piece where there is one processor, else split."""
    tensor_float32 = dtypes[0] == "tensor_float32"
    task = job(
        case,
        ("float32" if tensor_float32 else dtypes[0], dtypes[1]),
        TENSOR_FLOAT32 if tensor_float32 else 0,
        wanted=(),
        processors=processors,
        hopper=True,
    )
    for results in run_both_ways(library, task):
        check_results(results, case, dtypes)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "case",
    [
        STRADDLING,
        Case(3, 140, (4, 5), 9, padding=1, im2col_step=2),  # parts of a deformable group
        Case(2, 48, (5, 4), 12, kernel=(1, 2), deformable_groups=6, data_format="NHWC"),
    ],
    ids=str,
)
def test_deterministic_a_few_channels_at_a_time(library, case, dtype):
    """As column gradients of large images have to be."""
    check(library, case, (dtype, dtype), flags=DETERMINISTIC | SMALL_CHUNKS)


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


@pytest.mark.parametrize(
    "field",
    [
        *("joined", "plain", "x_channels_last", "planes_last", "packed_planes", "flows"),
        *("offset_bound", "negative_slope", "upper_bound", "addend"),
    ],
)
def test_refuses_what_only_cpus_compute(library, field):
    addend = field == "addend"
    problem = Problem.create((0, 4, 5, 5), 4, **({} if addend else {field: 2}))
    for tensors in (
        (ForwardTensors({"addend": 256}),)
        if addend
        else (
            ForwardTensors({}),
            BackwardTensors({}),
        )
    ):
        with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
            library.cuda().run(problem, tensors, 0)


@pytest.mark.parametrize("hopper", [False, True], ids=["ampere", "hopper"])
@pytest.mark.parametrize("groups", [1, 256])
@pytest.mark.parametrize("batch", [1, 4, 64, 1 << 20])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_workspace_does_not_grow_with_the_batch(library, groups, batch, dtype, hopper):
    library.handle.dcn_emulation_set_hopper(hopper)
    problem = Problem.create((batch, 256, 100, 100), 256, dtype=dtype, groups=groups)
    limit = (64 if dtype != "float64" else 100) << 20  # an image is what goes through at least
    for tensors in (ForwardTensors, BackwardTensors):
        pointers = {name: 256 for name, _ in tensors._fields_}
        for flags in (0, DETERMINISTIC, TENSOR_FLOAT32):
            assert library.cuda(flags).workspace(problem, tensors(pointers)) < limit


# A row each: images whose copies leave little of the workspace to partial sums, in some type.
LARGE = [
    ((1, 128, 180, 320), 64, 16),
    ((1, 256, 128, 128), 256, 1),
    ((2, 256, 128, 128), 256, 1),
    ((1, 256, 200, 200), 256, 1),
]


@pytest.mark.parametrize("flags", [0, DETERMINISTIC, TENSOR_FLOAT32])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape, outputs, deformable_groups", LARGE, ids=str)
def test_large_images_leave_room_to_fill_the_machine(
    library, shape, outputs, deformable_groups, dtype, flags
):
    """However large an image is, the weight gradient's blocks have two thirds of 132 processors."""
    problem = Problem.create(shape, outputs, dtype=dtype, deformable_groups=deformable_groups)
    tensors = BackwardTensors({name: 256 for name, _ in BackwardTensors._fields_})
    library.handle.dcn_emulation_set_processors(132)
    launches = library.handle.dcn_emulation_launches
    launches.restype = ctypes.c_char_p
    launches(1)
    try:
        library.cuda(flags).run(problem, tensors, 256)
    finally:
        lines = launches(0).decode().splitlines()
    blocks = [int(line.split()[-1]) for line in lines if "WeightArguments" in line]
    assert blocks and min(blocks) >= 88


def test_every_kernel_awaits_earlier_ones():
    """It may be launched before they end, which no emulation does."""
    sources = [path.read_text() for path in sorted((KERNELS / "cuda").glob("*.cuh"))]
    kernels = [part for text in sources for part in text.split("__global__")[1:]]
    assert kernels and all("await_earlier_kernels();" in kernel for kernel in kernels)


# Every kernel, on as little as it can run on: a thousand threads share two cores here.
PACKED = Case(1, 16, (3, 4), 24, kernel=(1, 2), padding=1, data_format="NHWC")
SPREAD = Case(2, 6, (3, 3), 4, kernel=(2, 1), padding=1, groups=2, deformable_groups=3)
SINGLE = Case(1, 16, (3, 18), 16, kernel=(1, 2), padding=1, groups=16, deformable_groups=2)
SPLIT = Case(1, 36, (3, 4), 8, padding=1)  # into more parts than are added as they are unpacked
SANITIZED = [
    job(PACKED, ("float16", "float32")),
    job(PACKED, ("float32", "float32")),
    job(SPREAD, ("float32", "float32"), DETERMINISTIC),
    job(SPREAD, ("float64", "float64"), WIDE_INDEX),
    job(SINGLE, ("float16", "float16")),
    job(SPLIT, ("float32", "float32"), wanted=("bias",), processors=32),
    job(Case(1, 64, (3, 5), 66, padding=1), ("float16", "float16"), wanted=(), hopper=True),
]


@pytest.mark.skipif(not CHECK, reason="run by make cuda-check")
@pytest.mark.parametrize("variant", ["address", "thread"])
def test_sanitizers_find_nothing(variant, tmp_path):
    results, report = run_sanitized(variant, build(variant), SANITIZED, tmp_path)
    assert not report, report[:4000]
    for task, result in zip(SANITIZED, results):
        check_results(result, task.case, task.dtypes)
