"""The reference against a numpy loop, numeric gradients and Paddle's builtin."""

import numpy as np
import paddle
import pytest

from paddle_dcn import deform_conv2d_reference
from tests.support.cases import COMPACT, TABLE, Case, pair
from tests.support.comparison import assert_close, assert_results_close
from tests.support.operators import expected, loss, run
from tests.support.oracle import loop
from tests.support.problems import DTYPE_IDS, DTYPES, TENSORS, inside_problem, random_problem
from tests.support.programs import PADDLE_3_1, needs_paddle_3, static_program

DOUBLE = ("float64", "float64")
REFERENCE_TABLE = [case for case in TABLE if case.batch or PADDLE_3_1]


# Without those that are large for the sake of the kernels' blocks, which the reference has none of.
@pytest.mark.parametrize(
    "case", [case for case in REFERENCE_TABLE if "bands of tiles" not in case.paths], ids=str
)
def test_numpy_loop(case, device):
    wanted = loop(case, random_problem(case))
    assert_close(expected(case)["out"], wanted, "float64", case.depth["out"], "out")


def builtin_is_right(case):
    """Say whether paddle.vision.ops computes this case, and correctly."""
    return (
        case.batch > 0
        and case.im2col_step is None
        and case.data_format == "NCHW"
        and case.offsets != "nonfinite"
        and len(pair(case.padding)) == 2
        and case.outputs % case.deformable_groups == 0
    )


@pytest.mark.parametrize("case", [case for case in TABLE if builtin_is_right(case)], ids=str)
def test_builtin(case):
    """Values and gradients, at kinks and borders too."""

    def builtin(im2col_step, data_format, **arguments):
        return paddle.vision.ops.deform_conv2d(**arguments)

    assert_results_close(run(builtin, case, random_problem(case)), expected(case), case, DOUBLE)


SMOOTH = Case(
    batch=2,
    channels=4,
    size=(4, 5),
    outputs=4,
    kernel=2,
    stride=(2, 1),
    padding=(1, 0, 1, 1),
    dilation=(1, 2),
    groups=2,
    deformable_groups=2,
)


@pytest.mark.parametrize("name", TENSORS)
def test_numeric_gradients(name):
    """Central differences, every sample further from a kink than their step."""
    arrays = inside_problem(SMOOTH)
    gradient = run(deform_conv2d_reference, SMOOTH, arrays)[name]
    step = 0.0625
    for index in np.ndindex(gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = arrays[name].copy()
            moved[index] += sign * step
            ends.append(loss(deform_conv2d_reference, SMOOTH, {**arrays, name: moved}))
        # The loss is linear in any one value until a kink, so only rounding separates the two.
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert numeric == pytest.approx(gradient[index], rel=1e-10, abs=1e-10), index


@pytest.mark.parametrize("case", [c for c in COMPACT if c.products < 5_000_000], ids=str)
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_dtypes(case, dtypes, device):
    actual = run(deform_conv2d_reference, case, random_problem(case, dtypes[0]), dtypes)
    assert_results_close(actual, expected(case, dtypes[0]), case, dtypes)


@needs_paddle_3
@pytest.mark.parametrize("modulated", [True, False])
def test_static_program(modulated):
    """The same numbers from a program that does not know the batch size."""
    case = Case(2, 6, (7, 5), 12, padding=1, groups=2, deformable_groups=3, modulated=modulated)
    arrays = random_problem(case)
    names = [name for name in TENSORS if arrays[name] is not None]
    paddle.enable_static()
    try:
        program = paddle.static.Program()
        with paddle.static.program_guard(program):
            variables = {}
            for name in names:
                shape = list(arrays[name].shape)
                if name in ("x", "offset", "mask"):
                    shape[0] = -1
                variables[name] = paddle.static.data(name, shape, "float64")
                variables[name].stop_gradient = False
            out = deform_conv2d_reference(**variables, **case.attributes())
            total = (out * paddle.to_tensor(arrays["grad"])).sum()
            gradients = paddle.static.gradients(total, list(variables.values()))
        values = paddle.static.Executor().run(
            program, feed={n: arrays[n] for n in names}, fetch_list=[out, *gradients]
        )
    finally:
        paddle.disable_static()
    assert_results_close(dict(zip(["out", *names], values)), expected(case), case, DOUBLE)


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static(full_graph):
    def call(x, offset, weight, mask):
        return deform_conv2d_reference(x, offset, weight, padding=1, mask=mask)

    shapes = ([2, 4, 6, 5], [2, 18, 6, 5], [4, 4, 3, 3], [2, 9, 6, 5])
    tensors = [paddle.randn(shape, "float64") for shape in shapes]
    traced = paddle.jit.to_static(call, full_graph=full_graph)
    np.testing.assert_allclose(traced(*tensors).numpy(), call(*tensors).numpy(), rtol=1e-12)


@needs_paddle_3
@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_open_sizes(data_format):
    """A program that leaves N, H and W open computes what dynamic mode does, at two sizes."""
    axes = [0, 1, 2, 3] if data_format == "NCHW" else [0, 2, 3, 1]

    def call(x, offset, mask, weight):
        return deform_conv2d_reference(
            x.transpose(axes),
            offset,
            weight,
            mask=mask,
            deformable_groups=2,
            data_format=data_format,
        )

    weight = paddle.randn([6, 4, 3, 3], "float64")
    with static_program() as main:
        names = {"x": 4, "offset": 36, "mask": 18}
        tensors = [paddle.static.data(n, [-1, c, -1, -1], "float64") for n, c in names.items()]
        out = call(*tensors, paddle.static.data("weight", [6, 4, 3, 3], "float64"))
        executor = paddle.static.Executor()
        feeds, found = [], []
        rng = np.random.default_rng(8)
        for n, h, w in ((1, 7, 9), (3, 8, 5)):
            feed = {"x": rng.normal(size=(n, 4, h, w)), "weight": weight.numpy()}
            for name in ("offset", "mask"):
                feed[name] = rng.normal(size=(n, names[name], h - 2, w - 2))
            feeds.append(feed)
            found += executor.run(main, feed=feed, fetch_list=[out])
    for feed, one in zip(feeds, found):
        tensors = (paddle.to_tensor(feed[name]) for name in (*names, "weight"))
        np.testing.assert_allclose(one, call(*tensors).numpy(), rtol=1e-12, atol=1e-12)


@needs_paddle_3
def test_open_channels():
    with static_program():
        x = paddle.static.data("x", [2, -1, 8, 8])
        offset = paddle.static.data("offset", [2, 18, 6, 6])
        weight = paddle.static.data("weight", [4, 3, 3, 3])
        with pytest.raises(ValueError, match=r"x: expected known channels and kernel, got \[-1\]"):
            deform_conv2d_reference(x, offset, weight)
