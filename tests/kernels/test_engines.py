"""Every engine of the CPU against the reference, in one process: those of this processor as they
are shipped, the others emulated.
"""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks import kernel_library
from benchmarks.kernel_library import COLUMNS, FASTEST, Library
from benchmarks.kernel_library import DIRECT as WITHOUT_COLUMNS
from tests.kernels.cpu_emulation.harness import build, build_parts, build_program
from tests.support.cases import COMPACT, DIRECT, TABLE, Case, choose
from tests.support.comparison import assert_close, assert_results_close
from tests.support.engines import EMULATED, FULL, NATIVE, SHIPPED
from tests.support.formula import formula, without_weight
from tests.support.kernel_jobs import Job, run
from tests.support.operators import check_job
from tests.support.problems import DTYPE_IDS, DTYPES, random_problem
from tests.support.process import ROOT, run_python

# The slow ones: emulated, one data type will do for them.
BANDS = choose(COMPACT, "bands of tiles")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")


@pytest.fixture(scope="module")
def emulated():
    """A library whose engines all run on any processor."""
    library = Library(build(emulated=True))
    assert all(map(library.runs, library.engines()))
    return library


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", NATIVE)
def test_table(engine, dtypes):
    for case in COMPACT:
        check_job(SHIPPED, Job(case, dtypes, ("cpu", engine, 2)))


@needs_compiler
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", EMULATED)
def test_table_emulated(emulated, engine, dtypes):
    cases = [case for case in COMPACT if case not in BANDS or dtypes == DTYPES[0]]
    for case in TABLE if FULL else cases:
        check_job(emulated, Job(case, dtypes, ("cpu", engine, 2)))


# Of integer positions, at the edges, outside, one channel a group, a few, a whole vector.
INFINITE = [
    Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, offsets="integer"),
    Case(2, 64, (5, 6), 40, padding=1, deformable_groups=2, offsets="border"),
    Case(1, 32, (5, 6), 32, padding=1, groups=32, deformable_groups=4, offsets="nonfinite"),
    Case(1, 22, (5, 6), 22, padding=1, groups=11, offsets="integer"),
]


@needs_compiler
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinite_masks(emulated, dtypes):
    """They are factors of the sample: NaN where that is 0 or infinities differ, else infinite."""
    for case in INFINITE:
        arrays = dict(random_problem(case, dtypes[0]))
        rng = np.random.default_rng(0)
        chances = [0.02, 0.005, 0.975]
        arrays["mask"] = rng.choice([np.inf, -np.inf, 1.0], arrays["mask"].shape, p=chances)
        for name in ("x", "weight"):  # no infinities of two signs in a sum but by the mask
            arrays[name] = np.abs(arrays[name]) + 2.0**-6
        wanted = formula(case, arrays)
        assert np.isinf(wanted["out"]).any() and np.isfinite(wanted["out"]).any()
        for engine in emulated.engines():
            results = run(emulated, Job(case, dtypes, ("cpu", engine, 2), arrays=arrays))
            for name in ("out", "weight"):
                assert_close(results[name], wanted[name], dtypes[0], case.depth[name], name)


@needs_compiler
@pytest.mark.parametrize("outputs", [1, 2, 3, 7, 15])
def test_weights_of_few_outputs_are_packed_as_they_are(emulated, outputs):
    """Not padded to a vector of outputs, which can be 16 times as much."""
    case = Case(1, 64, (40, 40), 64 * outputs, 31, groups=64)
    problem = Job(case, DTYPES[0], ("cpu",), path=COLUMNS).problem()
    for engine in emulated.engines():
        weight = 64 * outputs * 31 * 31 * 4
        limit = weight if outputs < 4 else 2 * weight
        assert emulated.cpu(engine).packed_bytes(problem) <= limit + 1024, engine


# What the kernels without columns compute where they are asked to, and what only some of them.
FEW_CHANNELS = [*DIRECT, *choose(COMPACT, "one channel a group, one output, several slabs")]


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", NATIVE)
def test_with_and_without_columns(engine, dtypes):
    for case in FEW_CHANNELS:
        for path in (COLUMNS, WITHOUT_COLUMNS):
            check_job(SHIPPED, Job(case, dtypes, ("cpu", engine, 2), path=path))


@needs_compiler
@pytest.mark.parametrize("engine", EMULATED)
def test_without_columns_emulated(emulated, engine):
    for dtypes in DTYPES[:4]:
        for case in FEW_CHANNELS:
            check_job(emulated, Job(case, dtypes, ("cpu", engine, 2), path=WITHOUT_COLUMNS))


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", NATIVE)
def test_without_weight(engine, dtypes):
    for case in FEW_CHANNELS:
        if case.channels == case.groups == case.outputs:
            job = Job(case, dtypes, ("cpu", engine, 2), weighted=False)
            assert_results_close(run(SHIPPED, job), without_weight(case, dtypes), case, dtypes)


# With and without columns, of several slabs, with partial sums.
AS_DCNV3 = [*FEW_CHANNELS[::2], *COMPACT[::5]]


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", NATIVE)
def test_planes_last(engine, dtypes):
    for case in AS_DCNV3:
        check_job(SHIPPED, Job(case, dtypes, ("cpu", engine, 2), planes_last=True))
        if case.modulated:
            job = Job(case, dtypes, ("cpu", engine, 2), planes_last=True, padding=case.channels % 3)
            check_job(SHIPPED, job)


# Many tiles of pixels in several images, blocks of channels and outputs.
WIDE = [
    Case(3, 64, (40, 41), 72, padding=1, deformable_groups=2, im2col_step=2),
    Case(2, 48, (33, 50), 24, padding=1, groups=3, deformable_groups=4, modulated=False),
]


# Whose work is cut into tasks, and sums into slabs; one data type will do for very many outputs.
CUT = choose(TABLE, "several tasks", "threads share the outputs", "a narrower last slab")
MANY = [case for case in CUT if case.outputs * case.pixels > 4_000_000]


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", NATIVE)
def test_threads_do_not_change_results(engine, dtypes):
    """Nor does another run: the same bits. The highest engine has the long table."""
    cases = [*COMPACT, *CUT, *WIDE] if engine == NATIVE[-1] else CUT
    paths = {**dict.fromkeys(cases, FASTEST), **dict.fromkeys(FEW_CHANNELS, WITHOUT_COLUMNS)}
    for case, path in paths.items():
        if case in [*BANDS, *MANY] and dtypes != DTYPES[0]:
            continue
        alone, *others = (
            run(SHIPPED, Job(case, dtypes, ("cpu", engine, threads), path=path))
            for threads in (1, 2, 3, 5, 2)
        )
        for results in others:
            for name, array in alone.items():
                assert np.array_equal(results[name], array, equal_nan=True), f"{case}: {name}"


PARTS = [(engine, False) for engine in NATIVE] + [(engine, True) for engine in EMULATED]


@needs_compiler
@pytest.mark.parametrize(("engine", "emulated"), PARTS)
def test_parts(engine, emulated):
    program = build_parts(engine, emulated)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok") >= 6


@needs_compiler
def test_a_program_without_paddle():
    program = build_program(ROOT / "examples" / "without_paddle.cc")
    lines = subprocess.check_output([program], text=True).splitlines()
    x = np.arange(20.0).reshape(4, 5)
    right = np.pad(x[:, 1:], ((0, 0), (0, 1)))
    assert lines[0] == f"on the engine {SHIPPED.engines()[-1]}:"
    out = [list(map(float, line.split())) for line in lines[1:]]
    np.testing.assert_array_equal(out, x + right + 1)


def test_another_commits_structs(monkeypatch):
    grown = type("Problem", (kernel_library.Problem,), {"_fields_": [("more", ctypes.c_int64)]})
    monkeypatch.setattr(kernel_library, "Problem", grown)
    with pytest.raises(RuntimeError, match="it was built from another commit"):
        Library(SHIPPED.handle._name)


def test_empty_name_is_no_limit():
    done = run_python("-c", "import paddle_dcn", PADDLE_DCN_INSTRUCTION_SET="")
    assert done.returncode == 0, done.stderr


def test_wrong_name():
    done = run_python("-c", "import paddle_dcn", PADDLE_DCN_INSTRUCTION_SET="AVX2")
    names = ", ".join(SHIPPED.engines())
    assert f"PADDLE_DCN_INSTRUCTION_SET: expected one of {names}, got 'AVX2'" in done.stderr
