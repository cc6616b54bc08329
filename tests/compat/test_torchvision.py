"""compat.torchvision: its documented example, inferred groups, defaults and errors."""

import inspect
import math

import numpy as np
import paddle
import pytest

from paddle_dcn.compat.torchvision import DeformConv2d, deform_conv2d
from tests.support.cases import Case
from tests.support.comparison import assert_results_close
from tests.support.operators import expected, run, to_array
from tests.support.oracle import loop
from tests.support.problems import random_problem
from tests.support.programs import needs_paddle_3, static_program

# Among them: groups, offset groups, both, pairs, v1 and v2, a kernel that is not square.
GROUPED = Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3)
STRIDED = Case(2, 8, (6, 7), 6, kernel=(2, 3), stride=(2, 1), padding=(1, 0), deformable_groups=4)
TABLE = [
    GROUPED,
    STRIDED,
    Case(1, 6, (9, 8), 12, dilation=(1, 2), groups=6, modulated=False),
    Case(3, 3, (4, 5), 2, kernel=1, bias=False, modulated=False),
]


def adapter(x, offset, weight, bias=None, mask=None, **attributes):
    """Call as operators.run calls, without the arguments that torchvision infers or lacks."""
    attributes = {name: attributes[name] for name in ("stride", "padding", "dilation")}
    return deform_conv2d(x, offset, weight, bias, mask=mask, **attributes)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_values_and_gradients(case):
    actual = run(adapter, case, random_problem(case))
    assert_results_close(actual, expected(case), case, ("float64", "float64"))


def test_documented_example():
    """The docstring's example, torch.rand being paddle.rand; its values by the numpy loop."""
    input = paddle.rand([4, 3, 10, 10], dtype="float64")
    kh, kw = 3, 3
    weight = paddle.rand([5, 3, kh, kw], dtype="float64")
    offset = paddle.rand([4, 2 * kh * kw, 8, 8], dtype="float64")
    mask = paddle.rand([4, kh * kw, 8, 8], dtype="float64")
    out = deform_conv2d(input, offset, weight, mask=mask)
    assert list(out.shape) == [4, 5, 8, 8]
    arrays = {"x": input, "offset": offset, "mask": mask, "weight": weight}
    arrays = {name: to_array(tensor) for name, tensor in arrays.items()} | {"bias": None}
    np.testing.assert_allclose(to_array(out), loop(Case(4, 3, (10, 10), 5), arrays), rtol=1e-12)


def test_signatures():
    names = "input offset weight bias stride padding dilation mask"
    parameters = inspect.signature(deform_conv2d).parameters
    assert list(parameters) == names.split()
    defaults = [p.default for p in parameters.values()][3:]
    assert defaults == [None, (1, 1), (0, 0), (1, 1), None]
    names = "in_channels out_channels kernel_size stride padding dilation groups bias"
    parameters = inspect.signature(DeformConv2d).parameters
    assert list(parameters) == names.split()
    assert [p.default for p in parameters.values()][3:] == [1, 0, 1, 1, True]


def test_layer():
    layer = DeformConv2d(6, 4, (2, 3), stride=2, padding=(1, 0), dilation=1, groups=2)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    attributes = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    values = [getattr(layer, name) for name in attributes]
    assert values == [6, 4, (2, 3), (2, 2), (1, 0), (1, 1)]
    assert list(layer.weight.shape) == [4, 3, 2, 3] and list(layer.bias.shape) == [4]
    x, offset, mask = (
        paddle.rand([2, n, *s]) for n, s in ((6, (5, 6)), (24, (3, 2)), (12, (3, 2)))
    )
    np.testing.assert_array_equal(
        layer(x, offset, mask).numpy(),
        deform_conv2d(x, offset, layer.weight, layer.bias, 2, (1, 0), 1, mask).numpy(),
    )
    np.testing.assert_array_equal(
        layer(x, offset).numpy(),
        deform_conv2d(x, offset, layer.weight, layer.bias, (2, 2), (1, 0)).numpy(),
    )
    assert DeformConv2d(6, 4, 3, bias=False).bias is None


def test_repr():
    assert repr(DeformConv2d(4, 6, 3, 2, (1, 0), 2, 2, False)) == (
        "DeformConv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 0), dilation=(2, 2), "
        "groups=2, bias=False)"
    )
    assert repr(DeformConv2d(4, 6, 3)) == ("DeformConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1))")


def test_initial_values():
    layer = DeformConv2d(20, 500, 3, groups=2)
    bound = 1 / math.sqrt(10 * 9)
    for parameter in (layer.weight, layer.bias):
        values = parameter.numpy()
        assert 0.95 * bound < np.abs(values).max() <= bound
        assert abs(values.std() - bound / math.sqrt(3)) < 0.1 * bound


SHAPES = {"input": (2, 6, 5, 5), "offset": (2, 36, 5, 5), "weight": (4, 3, 3, 3)}
ERRORS = [
    ("offset: expected 18 channels (2 * deformable_groups 1 * kernel 3x3), got 17", {"offset": 17}),
    ("offset: expected 18 channels (2 * deformable_groups 1 * kernel 3x3), got 20", {"offset": 20}),
    ("weight: expected 6 input channels (channels 6 of input / groups 1), got 4", {"weight": 4}),
    ("weight: expected 6 input channels (channels 6 of input / groups 1), got 7", {"weight": 7}),
    ("weight: expected 6 input channels (channels 6 of input / groups 1), got 0", {"weight": 0}),
    ("groups: expected a divisor of 4 (output channels of weight), got 3", {"weight": 2}),
    ("input: expected 4-D [N, C, H, W], got 3-D [6, 5, 5]", {"input": (6, 5, 5)}),
    ("weight: expected 4-D [M, C / groups, kh, kw], got 1-D [4]", {"weight": (4,)}),
    (
        "offset: expected 4-D [N, 2 * offset_groups * kh * kw, Ho, Wo], got 1-D [2]",
        {"offset": (2,)},
    ),
    (
        "mask: expected 18 channels (deformable_groups 2 * kernel 3x3), got 9",
        {"mask": (2, 9, 5, 5)},
    ),
]


@pytest.mark.parametrize("message, changed", ERRORS, ids=[message for message, _ in ERRORS])
def test_errors(message, changed):
    shapes = dict(SHAPES)
    for name, new in changed.items():  # an int is the second size
        shapes[name] = new if isinstance(new, tuple) else (shapes[name][0], new, *shapes[name][2:])
    with pytest.raises(ValueError) as caught:
        deform_conv2d(**{n: paddle.zeros(shape) for n, shape in shapes.items()}, padding=1)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "kind, message, call",
    [
        (TypeError, "input: expected a paddle.Tensor, got list", lambda t: ([1.0], t, t)),
        (TypeError, "weight: expected a paddle.Tensor, got None", lambda t: (t, t, None)),
    ],
    ids=["input", "weight"],
)
def test_wrong_kinds(kind, message, call):
    with pytest.raises(kind, match=message.split(" got")[0]):
        deform_conv2d(*call(paddle.zeros([1, 1, 1, 1])))


@pytest.mark.parametrize("arguments", [(5, 4, 3, 1, 0, 1, 2), (4, 5, 3, 1, 0, 1, 2)])
def test_layers_groups_must_divide(arguments):
    with pytest.raises(ValueError, match="groups: expected a divisor of 5"):
        DeformConv2d(*arguments)


@needs_paddle_3
def test_static_program():
    """Batch and size may be left open, the channels that give the groups may not."""
    case = GROUPED
    arrays = {n: a for n, a in random_problem(case).items() if n != "grad"}
    with static_program() as program:
        fed = {
            n: paddle.static.data(n, [-1, a.shape[1], -1, -1])
            for n, a in arrays.items()
            if n in ("x", "offset", "mask")
        }
        fed |= {n: paddle.static.data(n, arrays[n].shape) for n in ("weight", "bias")}
        out = adapter(**fed, **case.attributes())
        with pytest.raises(ValueError, match="known numbers of channels"):
            adapter(**fed | {"x": paddle.static.data("open", [-1] * 4)}, **case.attributes())
        feed = {name: array.astype("float32") for name, array in arrays.items()}
        (out,) = paddle.static.Executor(paddle.CPUPlace()).run(
            program, feed=feed | {"open": feed["x"]}, fetch_list=[out]
        )
    np.testing.assert_allclose(out, expected(case)["out"], rtol=1e-4, atol=1e-4)


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static(full_graph):
    case = STRIDED

    def call(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, (2, 1), (1, 0), (1, 1), mask)

    arrays = {n: a for n, a in random_problem(case).items() if n != "grad"}
    tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    out = paddle.jit.to_static(call, full_graph=full_graph)(**tensors)
    np.testing.assert_array_equal(out.numpy(), call(**tensors).numpy())
    tensors["offset"] = tensors["offset"][:, :10]
    with pytest.raises(ValueError, match="offset: expected 12 channels"):
        paddle.jit.to_static(call, full_graph=full_graph)(**tensors)
