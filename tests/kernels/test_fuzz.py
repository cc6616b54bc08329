"""Random small problems: the operator against the numpy loop and the reference's gradients."""

import pytest

from paddle_dcn import deform_conv2d, deform_conv2d_reference
from tests.support.cases import Case
from tests.support.comparison import assert_close, assert_results_close
from tests.support.operators import run
from tests.support.oracle import loop
from tests.support.problems import TENSORS, random_problem

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")
st = hypothesis.strategies

DOUBLE = ("float64", "float64")


@st.composite
def cases(draw):
    """Draw any valid problem of small sizes."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    least = [
        max(1, span - sum(padding[2 * axis : 2 * axis + 2])) for axis, span in enumerate(reach)
    ]
    channels = draw(st.integers(1, 9))
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = draw(st.sampled_from(divisors))
    return Case(
        batch=draw(st.integers(1, 3)),
        channels=channels,
        size=tuple(size + draw(st.integers(0, 5)) for size in least),
        outputs=groups * draw(st.integers(1, 5)),
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        deformable_groups=draw(st.sampled_from(divisors)),
        modulated=draw(st.booleans()),
        bias=draw(st.booleans()),
        offsets=draw(st.sampled_from(["zero", "random", "integer", "border", "huge", "nonfinite"])),
        im2col_step=draw(st.sampled_from([None, 1, 2, 64])),
        data_format=draw(st.sampled_from(["NCHW", "NHWC"])),
    )


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(case=cases(), wanted=st.sets(st.sampled_from(TENSORS), min_size=1))
def test_any_problem(case, wanted):
    arrays = random_problem(case, "float64")
    names = {name for name in wanted if arrays[name] is not None}
    results = run(deform_conv2d, case, arrays, DOUBLE, names, backward=bool(names))
    assert_close(results["out"], loop(case, arrays), "float64", case.depth["out"], "out")
    reference = run(deform_conv2d_reference, case, arrays)
    reference = {name: reference[name] for name in results}
    assert results.keys() == {"out", *names}
    assert_results_close(results, reference, case, DOUBLE)
