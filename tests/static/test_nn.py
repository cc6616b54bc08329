"""The layer of static programs in both its spellings: results, parameters, refusals."""

import math

import numpy as np
import paddle
import pytest
from paddle.utils import unique_name

import paddle_dcn.fluid
import paddle_dcn.static
from tests.support.cases import Case
from tests.support.comparison import assert_close, assert_results_close
from tests.support.operators import expected
from tests.support.problems import random_problem
from tests.support.programs import fresh_program, initialize, needs_paddle_3, parameters, value

DYNAMIC_AFTER_IMPORT = paddle.in_dynamic_mode()

# What each spelling calls x and weight_attr, and where it is.
SPELLINGS = {
    "static": (paddle_dcn.static.nn.deform_conv2d, "x", "weight_attr", "paddle_dcn.static.nn"),
    "fluid": (
        paddle_dcn.fluid.layers.deformable_conv,
        "input",
        "param_attr",
        "paddle_dcn.fluid.layers",
    ),
}


@pytest.fixture(params=SPELLINGS)
def spelling(request):
    """The function, what it calls x and weight_attr, and where it is."""
    return SPELLINGS[request.param]


@pytest.fixture
def layer(spelling):
    """The function, called with the names that static.nn.deform_conv2d has."""
    function, x_name, attr_name, _ = spelling

    def call(x, offset, mask, num_filters, filter_size, weight_attr=None, **others):
        if mask is None and function is paddle_dcn.fluid.layers.deformable_conv:
            others["modulated"] = False
        others |= {x_name: x, attr_name: weight_attr}
        return function(
            offset=offset, mask=mask, num_filters=num_filters, filter_size=filter_size, **others
        )

    return call


def inputs(batch=None, dtype="float32", channels=3, size=8, planes=(18, 9)):
    """Declare x, offset and mask of a 3x3 kernel with padding 1."""
    return [
        paddle.static.data(name, [batch, count, size, size], dtype)
        for name, count in zip(("x", "offset", "mask"), (channels, *planes))
    ]


GROUPED = Case(4, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3)
CASES = [
    GROUPED,
    Case(4, 6, (7, 5), 4, padding=(1, 0), stride=(2, 1), modulated=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("im2col_step", [None, 1, 2, 4, 64])
@pytest.mark.parametrize("batch", [4, None], ids=["known", "unknown"])
def test_results_and_gradients(layer, case, dtype, im2col_step, batch):
    wanted, arrays = expected(case), random_problem(case)
    arrays = {name: array.astype(dtype) for name, array in arrays.items() if array is not None}
    feed = {name: arrays[name] for name in ("x", "offset", "mask", "grad") if name in arrays}
    with fresh_program() as executor:
        tensors = {n: paddle.static.data(n, [batch, *a.shape[1:]], dtype) for n, a in feed.items()}
        for tensor in tensors.values():
            tensor.stop_gradient = False
        out = layer(
            *(tensors.get(name) for name in ("x", "offset", "mask")),
            case.outputs,
            case.kernel,
            stride=case.stride,
            padding=case.padding,
            groups=case.groups,
            deformable_groups=case.deformable_groups,
            im2col_step=im2col_step,
            weight_attr=paddle.nn.initializer.Assign(arrays["weight"]),
            bias_attr=paddle.nn.initializer.Assign(arrays["bias"]),
        )
        found = paddle.static.default_main_program().global_block().all_parameters()
        ours = {"w": "weight", "b": "bias"}
        tensors |= {ours[p.name.rpartition(".")[2][0]]: p for p in found}
        grad = tensors.pop("grad")
        gradients = paddle.static.gradients([out], [*tensors.values()], [grad])
        initialize(executor)
        results = executor.run(feed=feed, fetch_list=[out, *gradients])
    results = dict(zip(("out", *tensors), results))
    assert results["out"].dtype == dtype
    assert_results_close(results, wanted, case, (dtype, dtype))


@pytest.mark.parametrize(("im2col_step", "batch"), [(3, 4), (2, 3), (4, 6), (None, 65)])
@pytest.mark.parametrize("known", [True, False])
def test_batch_that_the_step_does_not_divide(layer, spelling, im2col_step, batch, known):
    step = 64 if im2col_step is None else im2col_step
    shown = f"{batch} (batch of {spelling[1]})" if known else f"the batch of {spelling[1]}"
    message = f"im2col_step: expected a divisor of {shown} or a number above it, got {step}"
    with fresh_program() as executor:
        tensors = inputs(batch if known else None, size=3)
        arrays = [np.zeros((batch, *tensor.shape[1:]), "float32") for tensor in tensors]
        feed = dict(zip(("x", "offset", "mask"), arrays))
        with pytest.raises(ValueError) as caught:
            out = layer(*tensors, 2, 3, padding=1, im2col_step=im2col_step)
            initialize(executor)
            executor.run(feed=feed, fetch_list=[out])
        assert message in str(caught.value)
        if known:
            assert str(caught.value) == message
            assert not parameters()
        else:  # the program still runs with a batch that fits
            feed = {name: array[:1] for name, array in feed.items()}
            assert executor.run(feed=feed, fetch_list=[out])[0].shape == (1, 2, 3, 3)


def test_one_step_of_training(layer):
    """Plain descent moves both parameters by the reference's gradients."""
    case = GROUPED
    wanted, arrays = expected(case), random_problem(case)
    arrays = {name: array.astype("float64") for name, array in arrays.items()}
    with fresh_program() as executor:
        feed = {name: arrays[name] for name in ("x", "offset", "mask", "grad")}
        tensors = [paddle.static.data(n, [None, *a.shape[1:]], "float64") for n, a in feed.items()]
        out = layer(
            *tensors[:3],
            case.outputs,
            3,
            padding=1,
            groups=2,
            deformable_groups=3,
            weight_attr=paddle.nn.initializer.Assign(arrays["weight"]),
            bias_attr=paddle.nn.initializer.Assign(arrays["bias"]),
        )
        paddle.optimizer.SGD(0.5).minimize(paddle.sum(out * tensors[3]))
        initialize(executor)
        executor.run(feed=feed)
        for name, parameter in (("w_0", "weight"), ("b_0", "bias")):
            moved = value(f"deformable_conv_0.{name}")
            step = (arrays[parameter] - moved) / 0.5
            assert_close(step, wanted[parameter], "float64", case.depth[parameter], parameter)


# --- parameters ----------------------------------------------------------------------------------


def test_names_and_shapes(layer):
    with fresh_program():
        x, offset, mask = inputs(channels=4)
        layer(x, offset, mask, 6, 3, padding=1, groups=2)
        layer(x, offset, None, 2, (3, 3), padding=1, bias_attr=False)
        layer(x, offset, mask, 2, 3, padding=1, name="block", weight_attr="filter")
        assert parameters() == {
            "deformable_conv_0.w_0": [6, 2, 3, 3],
            "deformable_conv_0.b_0": [6],
            "deformable_conv_1.w_0": [2, 4, 3, 3],
            "filter": [2, 4, 3, 3],
            "block.b_0": [2],
        }


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "dtype",
    [
        *(pytest.param(half, marks=needs_paddle_3) for half in ("float16", "bfloat16")),
        "float32",
        "float64",
    ],
)
def test_initial_values(layer, groups, dtype):
    with fresh_program() as executor:
        x = paddle.static.data("x", [None, 64, 5, 5], dtype)
        offset = paddle.static.data("offset", [None, 2 * 2 * 3, 4, 3], dtype)
        layer(x, offset, None, 128, (2, 3), groups=groups)
        initialize(executor)
        weight, bias = value("deformable_conv_0.w_0"), value("deformable_conv_0.b_0")
        assert not bias.any()
        # The relative error of a standard deviation of n samples is 1 / sqrt(2 n).
        std = math.sqrt(2 / (2 * 3 * 64))
        assert abs(weight.std() / std - 1) < 5 / math.sqrt(2 * weight.size)
        assert abs(weight.mean()) < 5 * std / math.sqrt(weight.size)


def test_parameters_outlive_runs_and_programs(layer):
    """A run leaves them as they are, and a program built under a fresh guard has the same ones."""
    with fresh_program() as executor:
        rng = np.random.default_rng(0)
        tensors = inputs()
        feed = {t.name: rng.normal(size=(2, *t.shape[1:])).astype("float32") for t in tensors}
        out = layer(*tensors, 2, 3, padding=1)
        initialize(executor)
        first = executor.run(feed=feed, fetch_list=[out])[0]
        again = paddle.static.Program()
        with paddle.static.program_guard(again, paddle.static.Program()), unique_name.guard():
            same = layer(*inputs(), 2, 3, padding=1)
        np.testing.assert_array_equal(executor.run(feed=feed, fetch_list=[out])[0], first)
        np.testing.assert_array_equal(executor.run(again, feed=feed, fetch_list=[same])[0], first)


def test_layers_share_a_parameter_by_its_name(layer):
    """One Adam step moves it once: by the learning rate, to the sign of the summed gradient."""
    attr = paddle.ParamAttr(name="shared", initializer=paddle.nn.initializer.Constant(0.25))
    with fresh_program() as executor:
        x, offset, mask = inputs(channels=1)
        out = layer(x, offset, mask, 1, 3, padding=1, weight_attr=attr, bias_attr=False)
        out = layer(out, offset, None, 1, 3, padding=1, weight_attr=attr, bias_attr=False)
        assert parameters() == {"shared": [1, 1, 3, 3]}
        with pytest.raises(ValueError) as caught:
            layer(x, offset, None, 2, 3, padding=1, weight_attr=attr)
        assert str(caught.value) == (
            "shared: expected shape [2, 1, 3, 3], but the program has a parameter of that name of "
            "shape [1, 1, 3, 3]"
        )
        paddle.optimizer.Adam(0.125).minimize(paddle.mean(out))
        initialize(executor)
        feed = {t.name: np.ones((2, *t.shape[1:]), "float32") for t in (x, offset, mask)}
        executor.run(feed=feed)
        np.testing.assert_allclose(value("shared"), 0.125, rtol=1e-5)


# --- refusals ------------------------------------------------------------------------------------

# Each row: the error, its message with {x} and {attr} for what the spelling calls them, what to
# change in a valid call. A tuple in place of a tensor is its shape, a str its dtype.
REFUSED = [
    (TypeError, "{x}: expected a tensor of the static program, got None", {"x": None}),
    (
        TypeError,
        "{x}: expected a tensor of the static program, got numpy.ndarray",
        {"x": np.ones(1)},
    ),
    (
        TypeError,
        "{x}: expected dtype float16, bfloat16, float32 or float64, got int32",
        {"x": "int32"},
    ),
    (TypeError, "offset: expected a tensor of the static program, got None", {"offset": None}),
    (TypeError, "offset: expected dtype float32 ({x} is float32), got int64", {"offset": "int64"}),
    (TypeError, "mask: expected a tensor of the static program, got 1 (int)", {"mask": 1}),
    (ValueError, "{x}: expected 4-D [N, C, H, W], got 3-D [4, 8, 8]", {"x": (4, 8, 8)}),
    (
        ValueError,
        "{x}: expected a known, positive number of channels, got -1",
        {"x": (None, None, 8, 8)},
    ),
    (
        ValueError,
        "{x}: expected a known, positive number of channels, got 0",
        {"x": (None, 0, 8, 8)},
    ),
    (ValueError, "groups: expected positive, got 0", {"groups": 0}),
    (ValueError, "groups: expected a divisor of 4 (channels of {x}), got 3", {"groups": 3}),
    (
        ValueError,
        "groups: expected a divisor of 3 (num_filters), got 2",
        {"groups": 2, "num_filters": 3},
    ),
    (ValueError, "num_filters: expected positive, got 0", {"num_filters": 0}),
    (TypeError, "num_filters: expected an int, got 2.0 (float)", {"num_filters": 2.0}),
    (ValueError, "filter_size: expected positive, got 0", {"filter_size": 0}),
    (ValueError, "im2col_step: expected positive, got 0", {"im2col_step": 0}),
    (ValueError, "stride: expected positive, got 0", {"stride": 0}),
    (
        ValueError,
        "deformable_groups: expected a divisor of 4 (channels of {x}), got 3",
        {"deformable_groups": 3},
    ),
    (
        ValueError,
        "{x}: expected an output height of at least 1, got (1 + 0 + 0 - (1 * (3 - 1) + 1)) // 1 + "
        "1 = -1",
        {"x": (None, 4, 1, 8), "padding": 0},
    ),
    (
        ValueError,
        "offset: expected 18 channels (2 * deformable_groups 1 * kernel 3x3), got 9",
        {"offset": (None, 9, 8, 8)},
    ),
    (TypeError, "name: expected a str or None, got 3 (int)", {"name": 3}),
    (
        AssertionError,
        "{attr}: expected None, a ParamAttr, initializer or name, got False",
        {"weight_attr": False},
    ),
]


@pytest.mark.parametrize(("error", "message", "changed"), REFUSED, ids=lambda row: str(row)[:40])
def test_refusals(layer, spelling, error, message, changed):
    with fresh_program():
        names = ("x", "offset", "mask")
        call = dict(zip(names, inputs(channels=4)), num_filters=2, filter_size=3, padding=1)
        for name, value in changed.items():
            if name in names and isinstance(value, (tuple, str)):
                shape, dtype = call[name].shape, "float32"
                shape, dtype = (value, dtype) if isinstance(value, tuple) else (shape, value)
                value = paddle.static.data(f"other_{name}", shape, dtype)
            call[name] = value
        with pytest.raises(error) as caught:
            layer(**call)
    assert type(caught.value) is error
    assert str(caught.value) == message.format(x=spelling[1], attr=spelling[2])


def test_dynamic_mode(layer, spelling):
    assert DYNAMIC_AFTER_IMPORT
    function = spelling[0]
    with pytest.raises(RuntimeError) as caught:
        layer(paddle.ones([1, 3, 4, 4]), paddle.zeros([1, 18, 2, 2]), None, 2, 3)
    assert str(caught.value) == (
        f"{spelling[3]}.{function.__name__} adds to a static program: call "
        "paddle.enable_static() first, or use paddle_dcn.DeformConv2D in dynamic mode and to_static"
    )


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static(layer, full_graph):
    """It cannot trace what creates parameters, and says so before it is done."""

    def traced(x, offset):
        return layer(x, offset, None, 2, 3)

    traced = paddle.jit.to_static(traced, full_graph=full_graph)
    with pytest.raises(RuntimeError, match="use paddle_dcn.DeformConv2D in dynamic mode and to_s"):
        traced(paddle.ones([1, 3, 4, 4]), paddle.zeros([1, 18, 2, 2]))
