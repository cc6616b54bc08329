"""What forward does for inference, on every engine, against the reference and plain numpy."""

import functools
import shutil

import numpy as np
import pytest

from benchmarks.kernel_library import Library
from paddle_dcn import deform_conv2d_reference
from tests.kernels.cpu_emulation.harness import build
from tests.support import operators
from tests.support.cases import COMPACT, Case
from tests.support.comparison import assert_close
from tests.support.engines import EMULATED, NATIVE, SHIPPED
from tests.support.kernel_jobs import (
    Inference,
    Job,
    prepared,
    random_flow,
    rounded_positions,
    run,
)
from tests.support.problems import DTYPE_IDS, DTYPES, FULL_BITS, random_problem
from tests.support.winograd import amplification

FORMS = [
    Inference(joined=True, negative_slope=0.0),
    Inference(joined=True, packed=True),
    Inference(negative_slope=0.1, packed=True, x_channels_last=True),
    Inference(negative_slope=0.0, upper_bound=0.5, packed=True),
]
# Whose images are not copied, but taken a few at a time where the mask is computed.
CHUNKED = Case(3, 4, (5, 6), 6, padding=1, data_format="NHWC", im2col_step=2)
FLOWING = [Inference(flows=1), Inference(joined=True, offset_bound=2.5, flows=-1)]


def fitting(case: Case, forms: list[Inference]) -> list[tuple[Case, Inference]]:
    """A case with the forms that it can have; -1 flows are one for each deformable group."""
    return [
        (case, form._replace(flows=form.flows if form.flows >= 0 else case.deformable_groups))
        for form in forms
        if case.modulated or not form.joined
    ]


JOBS = [job for case in [*COMPACT, CHUNKED] for job in fitting(case, FORMS)]
JOBS += [job for case in COMPACT[::4] for job in fitting(case, FLOWING)]


@functools.cache
def convolution(case: Case, dtype: str, form: Inference) -> np.ndarray:
    arrays = dict(random_problem(case, dtype))
    if form.flows:
        arrays["flow"] = random_flow(case, form.flows)
    arrays = prepared(case, arrays, form)
    return operators.run(deform_conv2d_reference, case, arrays, backward=False)["out"]


def job_of(
    case: Case, form: Inference, dtypes: tuple[str, str], device: tuple, shift: int = 0
) -> Job:
    arrays = {"flow": random_flow(case, form.flows)} if form.flows else {}
    return Job(case, dtypes, device, (), shift=shift, arrays=arrays, inference=form)


def check(job: Job, out: np.ndarray) -> None:
    """Hold what a job has given against the reference."""
    case, dtype, form = job.case, job.dtypes[0], job.inference
    key = Inference(form.joined, offset_bound=form.offset_bound, flows=form.flows)
    wanted = convolution(case, "float32" if dtype in FULL_BITS else "bfloat16", key)
    wanted = wanted + job.arrays.get("addend", 0)
    wanted = np.minimum(
        np.where(wanted < 0, form.negative_slope * wanted, wanted), form.upper_bound
    )
    depth = case.depth["out"] * (amplification() if form.plain else 1)
    depth *= rounded_positions(case, form)
    assert_close(out, wanted, dtype, depth, f"{job}")


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("engine", NATIVE)
def test_table(engine, dtypes):
    for case, form in JOBS:
        job = job_of(case, form, dtypes, ("cpu", engine, 2))
        check(job, run(SHIPPED, job)["out"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")
@pytest.mark.parametrize("engine", EMULATED)
def test_table_emulated(engine):
    """One form and one data type for each case, each of them for several."""
    library = Library(build(emulated=True))
    for i, (case, form) in enumerate(JOBS[::3]):
        job = job_of(case, form, DTYPES[i % 7], ("cpu", engine, 2))
        check(job, run(library, job)["out"])


# Plain convolutions: one tile and less, parts of tiles, several tasks, outputs that are no multiple
# of a vector, images a few at a time, any padding.
PLAIN = [
    Case(channels=c, size=size, outputs=m, modulated=False, offsets="zero", batch=n, **more)
    for n, c, size, m, more in (
        (1, 1, (3, 3), 1, {}),
        (2, 20, (4, 6), 16, {"padding": 1}),
        (1, 16, (13, 18), 27, {"padding": (0, 3, 2, 1)}),
        (3, 35, (34, 21), 70, {"padding": 1, "im2col_step": 2}),
        (2, 24, (33, 50), 40, {"padding": 1, "bias": False}),
        (2, 13, (9, 7), 18, {"padding": 1, "data_format": "NHWC"}),
    )
]
PLAIN_FORMS = [
    Inference(plain=True),
    Inference(plain=True, packed=True, negative_slope=0.0),
    Inference(plain=True, packed=True, negative_slope=0.1, upper_bound=1.5, x_channels_last=True),
]


def plain_job(case: Case, form: Inference, device: tuple, shift: int = 0) -> Job:
    """A plain convolution; of packed weights one with an addend."""
    addend = np.random.default_rng(0).standard_normal((case.batch, case.outputs, *case.out_size))
    arrays = {"addend": addend.astype("float32").astype("float64")} if form.packed else {}
    return Job(case, DTYPES[0], device, (), shift=shift, arrays=arrays, inference=form)


@pytest.mark.parametrize("engine", NATIVE)
def test_plain_convolutions(engine):
    for case in PLAIN:
        for form in PLAIN_FORMS:
            job = plain_job(case, form, ("cpu", engine, 2))
            check(job, run(SHIPPED, job)["out"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")
@pytest.mark.parametrize("engine", EMULATED)
def test_plain_convolutions_emulated(engine):
    library = Library(build(emulated=True))
    for i, case in enumerate(PLAIN):
        job = plain_job(case, PLAIN_FORMS[i % 3], ("cpu", engine, 2))
        check(job, run(library, job)["out"])


@pytest.mark.parametrize("engine", NATIVE)
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_do_not_change_results(engine, threads):
    case = Case(3, 64, (40, 41), 72, padding=1, deformable_groups=2, im2col_step=2)
    for form in [*FORMS, *PLAIN_FORMS]:
        one, many = (
            run(SHIPPED, Job(case, DTYPES[0], ("cpu", engine, n), (), inference=form))["out"]
            for n in (1, threads)
        )
        assert np.array_equal(one, many)


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("bound", [6.0, np.inf])
def test_activation_of_nonfinite_values(slope, bound):
    """NaN stays NaN, as in Paddle's relu; a slope of 0 makes 0 of minus infinity."""
    values = np.array([np.nan, np.inf, -np.inf, -2.0, 0.0, 3.0, 7.0])
    case = Case(1, 1, (1, 1), len(values), kernel=1, modulated=False, offsets="zero")
    arrays = {"x": np.zeros((1, 1, 1, 1)), "bias": values}
    form = Inference(negative_slope=slope, upper_bound=bound)
    job = Job(case, DTYPES[0], ("cpu", NATIVE[-1], 1), (), arrays=arrays, inference=form)
    below = np.zeros(()) if slope == 0 else slope * values
    wanted = np.where(values < 0, below, values)
    wanted = np.where(wanted > bound, bound, wanted)
    np.testing.assert_allclose(run(SHIPPED, job)["out"].ravel(), wanted, rtol=1e-6)
