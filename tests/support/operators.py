"""Runs a deform_conv2d on the arrays of a case; what the reference gives for it."""

from __future__ import annotations

import functools

import numpy as np
import paddle
import pytest

import paddle_dcn
from benchmarks.kernel_library import Library
from tests.support import kernel_jobs
from tests.support.cases import Case
from tests.support.comparison import assert_results_close
from tests.support.problems import FULL_BITS, TENSORS, random_problem
from tests.support.programs import PADDLE_3_1


def to_tensor(array: np.ndarray, dtype: str, wanted: bool = False) -> paddle.Tensor:
    """Make a leaf tensor of any dtype, bfloat16 included."""
    tensor = paddle.to_tensor(array).astype(dtype).detach()
    tensor.stop_gradient = not wanted
    return tensor


def to_array(tensor: paddle.Tensor) -> np.ndarray:
    """Return a tensor of any dtype as a float64 array."""
    return tensor.detach().astype("float64").numpy()


def run(function, case, arrays, dtypes=("float64", "float64"), wanted=TENSORS, backward=True):
    """Return output and gradients (by tensor name) of a deform_conv2d, as NCHW float64 arrays.

    `function` is called with tensors of `dtypes` = (x's, offset's); a gradient that backward left
    out is missing from the result.
    """
    nhwc = case.data_format == "NHWC"

    def tensor(name, want):
        array = arrays[name]
        if nhwc and name in ("x", "grad"):
            array = array.transpose(0, 2, 3, 1)
        return to_tensor(array, dtypes[name in ("offset", "mask")], want)

    tensors = {n: tensor(n, backward and n in wanted) for n in TENSORS if arrays[n] is not None}
    out = function(**tensors, **case.attributes())
    assert str(out.dtype).endswith(dtypes[0])
    results = {"out": out}
    if backward:
        out.backward(tensor("grad", False))
        results |= {n: t.grad for n, t in tensors.items() if t.grad is not None}
        for name, t in tensors.items():
            assert t.grad is None or t.grad.dtype == t.dtype, name
    results = {name: to_array(t) for name, t in results.items()}
    for name in ("out", "x"):
        if nhwc and name in results:
            results[name] = results[name].transpose(0, 3, 1, 2)
    return results


def loss(function, case: Case, arrays: dict[str, np.ndarray]) -> float:
    """Return the number whose gradients `run` gives, in float64."""
    return (run(function, case, arrays, backward=False)["out"] * arrays["grad"]).sum()


def expected(case: Case, dtype: str = "bfloat16") -> dict[str, np.ndarray]:
    """Return output and gradients of `random_problem(case, dtype)`, by the reference in float64."""
    return _expected(case, "float32" if dtype in FULL_BITS else "bfloat16")


@functools.cache
def _expected(case: Case, dtype: str) -> dict[str, np.ndarray]:
    if case.batch == 0 and not PADDLE_3_1:
        pytest.skip("operations of Paddle before 3.1 refuse empty tensors")
    return run(paddle_dcn.deform_conv2d_reference, case, random_problem(case, dtype))


def require_precision(device: str, *values: float) -> None:
    """Skip a test whose values, or products of them, a GPU does not hold to the last bit.

    Tensor cores round the parts of float32 to multiples of 2**-136 and sums to normal numbers.
    """
    if device == "gpu" and min(values) < 2.0**-115:
        pytest.skip("tensor cores do not hold the low parts of such values")


def check_results(results: dict, case: Case, dtypes: tuple[str, str]) -> None:
    """Hold what a job gave against the reference."""
    wanted = {n: array for n, array in expected(case, dtypes[0]).items() if n in results}
    # A case without bias is run with one of zeros, whose gradient the reference has not.
    assert_results_close({n: results[n] for n in wanted}, wanted, case, dtypes)


def check_job(library: Library, job: kernel_jobs.Job) -> None:
    """Run a job on a kernel library and hold its results against the reference."""
    check_results(kernel_jobs.run(library, job), job.case, job.dtypes)
