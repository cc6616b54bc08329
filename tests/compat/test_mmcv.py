"""compat.mmcv: functions, layers and packs, errors, and the conversion of checkpoints."""

import inspect
import math

import numpy as np
import paddle
import pytest

from paddle_dcn.compat import mmcv
from tests.support.cases import Case
from tests.support.comparison import assert_close, assert_results_close
from tests.support.operators import expected, run, to_array
from tests.support.oracle import loop
from tests.support.problems import random_problem
from tests.support.programs import PADDLE_3_1, needs_paddle_3, static_program

# v1 has no bias in mmcv.
TABLE = [
    Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3, modulated=False, bias=False),
    Case(
        4, 4, (6, 7), 6, kernel=(2, 3), stride=(2, 1), dilation=(1, 2), modulated=False, bias=False
    ),
    Case(2, 6, (7, 5), 4, padding=(1, 0), groups=2, deformable_groups=3),
    Case(2, 4, (6, 7), 6, kernel=(2, 3), stride=(2, 1), dilation=(1, 2), bias=False),
]


def adapter(x, offset, weight, bias=None, mask=None, **attributes):
    """Call as operators.run calls, every argument by its position."""
    names = ("stride", "padding", "dilation", "groups", "deformable_groups")
    attributes = [attributes[name] for name in names]
    if mask is None:
        return mmcv.deform_conv2d(x, offset, weight, *attributes, False, 2)
    return mmcv.modulated_deform_conv2d(x, offset, mask, weight, bias, *attributes)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_values_and_gradients(case):
    actual = run(adapter, case, random_problem(case))
    assert_results_close(actual, expected(case), case, ("float64", "float64"))


SIGNATURES = {
    mmcv.deform_conv2d: "input offset weight stride=1 padding=0 dilation=1 groups=1 "
    "deform_groups=1 bias=False im2col_step=32",
    mmcv.modulated_deform_conv2d: "input offset mask weight bias=None stride=1 padding=0 "
    "dilation=1 groups=1 deform_groups=1",
    mmcv.DeformConv2d: "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 "
    "groups=1 deform_groups=1 bias=False im2col_step=32",
    mmcv.ModulatedDeformConv2d: "in_channels out_channels kernel_size stride=1 padding=0 "
    "dilation=1 groups=1 deform_groups=1 bias=True",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures(function):
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in positional]
    assert " ".join(shown) == SIGNATURES[function]


def test_computes_in_the_dtype_of_offset():
    """Autocast narrows the offsets that a convolution predicts, and mmcv follows them."""
    x, weight, bias = paddle.rand([1, 2, 5, 5]), paddle.rand([3, 2, 3, 3]), paddle.rand([3])
    for dtype in ("float16", "float64"):
        offset, mask = paddle.rand([1, 18, 3, 3]).astype(dtype), paddle.rand([1, 9, 3, 3])
        for out in (
            mmcv.deform_conv2d(x, offset, weight),
            mmcv.modulated_deform_conv2d(x, offset, mask, weight, bias),
        ):
            assert out.dtype == offset.dtype
    with pytest.raises(TypeError, match="offset: expected dtype float32"):
        mmcv.deform_conv2d(x, offset.astype("int64"), weight)


@pytest.mark.parametrize("batch, step", [(4, 2), (3, 3), (3, 32), (1, 2)])
def test_im2col_step_accepted(batch, step):
    x, offset = paddle.rand([batch, 2, 4, 4]), paddle.rand([batch, 18, 2, 2])
    layer = mmcv.DeformConv2d(2, 3, 3, im2col_step=step)
    assert list(layer(x, offset).shape) == [batch, 3, 2, 2]


# --- layers --------------------------------------------------------------------------------------


def test_layer_attributes():
    layer = mmcv.DeformConv2d(6, 4, (2, 3), 2, (1, 0), 1, 2, 3, False, 8)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    names += ("groups", "deform_groups", "im2col_step", "transposed", "output_padding")
    values = [getattr(layer, name) for name in names]
    assert values == [6, 4, (2, 3), (2, 2), (1, 0), (1, 1), 2, 3, 8, False, (0,)]
    assert list(layer.weight.shape) == [4, 3, 2, 3] and not hasattr(layer, "bias")
    layer = mmcv.ModulatedDeformConv2d(6, 4, (2, 3), 2, (1, 0), 1, 2, 3, False)
    names = [name for name in names if name != "im2col_step"]
    values = [getattr(layer, name) for name in names]
    assert values == [6, 4, (2, 3), (2, 2), (1, 0), (1, 1), 2, 3, False, (0,)]
    assert layer.bias is None


@pytest.mark.parametrize(
    "kind, bound",
    [
        (mmcv.DeformConv2d, math.sqrt(6 / (10 * 9))),
        (mmcv.ModulatedDeformConv2d, 1 / math.sqrt(20 * 9)),
    ],
    ids=["v1", "v2"],
)
def test_initial_values(kind, bound):
    layer = kind(20, 500, 3, groups=2)
    values = layer.weight.numpy()
    assert 0.95 * bound < np.abs(values).max() <= bound
    assert abs(values.std() - bound / math.sqrt(3)) < 0.1 * bound
    if hasattr(layer, "bias"):
        assert not layer.bias.numpy().any()


# Layer, arguments of its constructor, what is shown of it.
SHOWN = [
    (mmcv.DeformConv2d, (4, 6, 3), "DeformConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1))"),
    (
        mmcv.ModulatedDeformConv2d,
        (4, 6, (1, 3), 2, 1, 3, 2, 4, False),
        "ModulatedDeformConv2d(4, 6, kernel_size=(1, 3), stride=(2, 2), padding=(1, 1), "
        "dilation=(3, 3), groups=2, deform_groups=4, bias=False)",
    ),
]


@pytest.mark.parametrize("kind, arguments, text", SHOWN, ids=[row[0].__name__ for row in SHOWN])
def test_repr(kind, arguments, text):
    assert repr(kind(*arguments)) == text


def test_repr_of_a_pack():
    first, second, *_ = repr(mmcv.DeformConv2dPack(4, 6, 3)).splitlines()
    assert first == "DeformConv2dPack(4, 6, kernel_size=(3, 3), stride=(1, 1)"
    assert second.startswith("  (conv_offset): OffsetConv2D(4, 18, ")


def test_layers_call_the_functions():
    x, offset, mask = (paddle.rand([2, n, 5, 6]) for n in (4, 36, 18))
    layer = mmcv.DeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
    wanted = mmcv.deform_conv2d(x, offset, layer.weight, 1, 1, 1, 2, 2)
    np.testing.assert_array_equal(layer(x, offset).numpy(), wanted.numpy())
    layer = mmcv.ModulatedDeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
    layer.bias.set_value(paddle.rand([6]))
    wanted = mmcv.modulated_deform_conv2d(x, offset, mask, layer.weight, layer.bias, 1, 1, 1, 2, 2)
    np.testing.assert_array_equal(layer(x, offset, mask).numpy(), wanted.numpy())


# (size of the input, padding, dilation), smaller than the 3x3 kernel, dilated or not
SMALL = [((2, 2), 1, 1), ((1, 5), 1, 1), ((4, 3), 2, 2), ((2, 2), 0, 1), ((5, 1), (0, 1), (1, 1))]


@pytest.mark.parametrize("size, padding, dilation", SMALL + [((4, 6), 0, (2, 1))])
def test_input_smaller_than_the_kernel(size, padding, dilation):
    """Input and offset get zeros below and to the right, and the result loses as much."""
    layer = mmcv.DeformConv2d(2, 3, 3, padding=padding, dilation=dilation)
    spans = [2 * d + 1 for d in layer.dilation]
    lacks = [max(0, span - s) for span, s in zip(spans, size)]
    large = Case(
        1, 2, tuple(s + n for s, n in zip(size, lacks)), 3,
        padding=padding, dilation=dilation, modulated=False, bias=False,
    )  # fmt: skip
    kept = [o - n for o, n in zip(large.out_size, lacks)]
    arrays = random_problem(large)
    arrays["weight"] = to_array(layer.weight)
    for name, (rows, columns) in {"x": size, "offset": kept}.items():
        arrays[name][:, :, rows:] = 0
        arrays[name][:, :, :, columns:] = 0
    x = paddle.to_tensor(arrays["x"][:, :, : size[0], : size[1]], "float32")
    offset = paddle.to_tensor(arrays["offset"][:, :, : kept[0], : kept[1]], "float32")
    x.stop_gradient = offset.stop_gradient = False
    out = layer(x, offset)
    wanted = loop(large, arrays)[:, :, : kept[0], : kept[1]]
    assert_close(to_array(out), wanted, "float32", large.depth["out"], "out")
    if PADDLE_3_1 or 0 not in kept:  # Paddle before 3.1 dies of an empty result's gradient
        out.backward(paddle.ones_like(out))
        assert list(x.grad.shape) == list(x.shape)
        assert list(layer.weight.grad.shape) == [3, 2, 3, 3]


@pytest.mark.parametrize("size, stride", [((1, 1), 2), ((2, 4), 3), ((1, 7), (3, 2))], ids=str)
def test_strided_input_smaller_than_the_kernel(size, stride):
    case = Case(1, 2, size, 3, stride=stride, padding=1, modulated=False, bias=False)
    arrays = random_problem(case)
    layer = mmcv.DeformConv2d(2, 3, 3, stride=stride, padding=1)
    layer.weight.set_value(arrays["weight"].astype("float32"))
    out = layer(*(paddle.to_tensor(arrays[name], "float32") for name in ("x", "offset")))
    assert_close(to_array(out), loop(case, arrays), "float32", case.depth["out"], "out")


@pytest.mark.parametrize("kind", [mmcv.DeformConv2dPack, mmcv.ModulatedDeformConv2dPack])
def test_packs(kind):
    """conv_offset starts at zero; its result is read as y0, x0, y1, ... then the masks."""
    modulated = kind is mmcv.ModulatedDeformConv2dPack
    case = Case(2, 4, (5, 6), 6, padding=1, groups=2, deformable_groups=2, modulated=modulated)
    pack = kind(4, 6, kernel_size=3, padding=1, groups=2, deform_groups=2)
    assert list(pack.conv_offset.weight.shape) == [27 * 2 if modulated else 18 * 2, 4, 3, 3]
    bias = pack.bias if modulated else None
    x = paddle.rand([2, 4, 5, 6])
    start = paddle.nn.functional.conv2d(x, pack.weight, bias, padding=1, groups=2)
    np.testing.assert_allclose(
        pack(x).numpy(), start.numpy() * (0.5 if modulated else 1), rtol=1e-4, atol=1e-5
    )

    pack.conv_offset.weight.set_value(paddle.randn(pack.conv_offset.weight.shape))
    planes = to_array(pack.conv_offset(x))
    arrays = {"x": to_array(x), "weight": to_array(pack.weight), "offset": planes[:, :36]}
    arrays["mask"] = 1 / (1 + np.exp(-planes[:, 36:])) if modulated else None
    arrays["bias"] = to_array(bias) if modulated else None
    np.testing.assert_allclose(to_array(pack(x)), loop(case, arrays), rtol=1e-4, atol=1e-4)


def test_a_pack_of_ones_own():
    """A subclass as restoration models write it, which reads the layer's attributes."""

    class Alignment(mmcv.ModulatedDeformConv2d):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            taps = self.kernel_size[0] * self.kernel_size[1]
            self.conv_offset = paddle.nn.Conv2D(8, self.deform_groups * 3 * taps, 3, 1, 1)

        def forward(self, x, other):
            first, second, mask = paddle.chunk(self.conv_offset(other), 3, axis=1)
            return mmcv.modulated_deform_conv2d(
                x, paddle.concat([first, second], 1), paddle.nn.functional.sigmoid(mask),
                self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
                self.deform_groups,
            )  # fmt: skip

    layer = Alignment(4, 6, 3, padding=1, deform_groups=2)
    out = layer(paddle.rand([1, 4, 5, 5]), paddle.rand([1, 8, 5, 5]))
    assert list(out.shape) == [1, 6, 5, 5]
    out.sum().backward()
    assert layer.conv_offset.weight.grad is not None


@needs_paddle_3
def test_static_program():
    """Layers start with their values there, too, and the batch may be left open."""
    with static_program() as program:
        x = paddle.static.data("x", [-1, 4, 5, 5])
        v1, v2 = mmcv.DeformConv2dPack(4, 6, 3), mmcv.ModulatedDeformConv2dPack(4, 6, 3)
        fetched = [v1(x), v2(x), v1.weight, v1.conv_offset.weight]
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(paddle.static.default_startup_program())
        feed = {"x": np.ones([3, 4, 5, 5], "float32")}
        first, second, weight, zeros = executor.run(program, feed=feed, fetch_list=fetched)
    assert first.shape == second.shape == (3, 6, 3, 3)
    assert 0 < np.abs(weight).max() <= math.sqrt(6 / 36) and not zeros.any()


# --- errors --------------------------------------------------------------------------------------


def zeros(*shape):
    return paddle.zeros(shape)


X, OFFSET, MASK, WEIGHT = (4, 4, 5, 5), (4, 18, 5, 5), (4, 9, 5, 5), (6, 4, 3, 3)
BOTH = (AssertionError, ValueError)  # what mmcv raises, and what this package does
ERRORS = [
    (
        "im2col_step: expected a divisor of 4 (batch of input) or a number above it, got 3",
        BOTH,
        lambda: mmcv.deform_conv2d(zeros(*X), zeros(*OFFSET), zeros(*WEIGHT), 1, 1, im2col_step=3),
    ),
    (
        "bias: expected False, as there is no bias here, got True",
        BOTH,
        lambda: mmcv.deform_conv2d(zeros(*X), zeros(*OFFSET), zeros(*WEIGHT), 1, 1, bias=True),
    ),
    (
        "bias: expected False, as there is no bias here, got True",
        BOTH,
        lambda: mmcv.DeformConv2d(4, 6, 3, bias=True),
    ),
    (
        "groups: expected a divisor of 3 (in_channels), got 2",
        BOTH,
        lambda: mmcv.DeformConv2d(3, 2, 3, groups=2),
    ),
    (
        "groups: expected a divisor of 4 (out_channels), got 3",
        BOTH,
        lambda: mmcv.DeformConv2dPack(3, 4, 3, groups=3),
    ),
    (
        "deform_groups: expected a divisor of 4 (in_channels), got 3",
        (ValueError,),
        lambda: mmcv.ModulatedDeformConv2d(4, 6, 3, deform_groups=3),
    ),
    (
        "padding: expected an int or 2 ints, got (1, 0, 1, 1)",
        (ValueError,),
        lambda: mmcv.ModulatedDeformConv2d(4, 6, 3, padding=(1, 0, 1, 1)),
    ),
    (
        "im2col_step: expected positive, got 0",
        BOTH,
        lambda: mmcv.DeformConv2d(4, 6, 3, im2col_step=0),
    ),
    (
        "input: expected 4-D [N, C, H, W], got 3-D [4, 5, 5]",
        (ValueError,),
        lambda: mmcv.deform_conv2d(zeros(4, 5, 5), zeros(*OFFSET), zeros(*WEIGHT)),
    ),
    (
        "input: expected an output height of at least 1, got (2 + 0 + 0 - (1 * (3 - 1) + 1)) // 1 "
        "+ 1 = 0",
        (ValueError,),
        lambda: mmcv.deform_conv2d(zeros(4, 4, 2, 2), zeros(*OFFSET), zeros(*WEIGHT)),
    ),
    (
        "offset: expected 36 channels (2 * deform_groups 2 * kernel 3x3), got 18",
        (ValueError,),
        lambda: mmcv.deform_conv2d(zeros(*X), zeros(*OFFSET), zeros(*WEIGHT), 1, 1, 1, 1, 2),
    ),
    (
        "mask: expected a paddle.Tensor, got None",
        (TypeError,),
        lambda: mmcv.modulated_deform_conv2d(zeros(*X), zeros(*OFFSET), None, zeros(*WEIGHT)),
    ),
    # What the caller wrote is repeated as it is, though the core has such a name.
    (
        "deform_conv2d() got an unexpected keyword argument 'deformable_groups'",
        (TypeError,),
        lambda: mmcv.deform_conv2d(zeros(*X), zeros(*OFFSET), zeros(*WEIGHT), deformable_groups=2),
    ),
    (
        "stride: expected an int or 2 ints, got 'x' (str)",
        (TypeError,),
        lambda: mmcv.deform_conv2d(zeros(*X), zeros(*OFFSET), zeros(*WEIGHT), "x"),
    ),
]


@pytest.mark.parametrize("message, kinds, call", ERRORS, ids=[row[0] for row in ERRORS])
def test_errors(message, kinds, call):
    with pytest.raises(kinds[0]) as caught:
        call()
    assert str(caught.value) == message
    assert isinstance(caught.value, kinds)


@pytest.mark.parametrize("pack", [mmcv.DeformConv2dPack, mmcv.ModulatedDeformConv2dPack])
def test_packs_check_before_they_predict(pack, monkeypatch):
    """Paddle's convolution writes out of bounds where the image is smaller than the kernel."""
    layer = pack(4, 6, 3)
    monkeypatch.setattr(layer, "conv_offset", None)
    with pytest.raises(ValueError, match="^input: expected an output width of at least 1, got"):
        layer(zeros(1, 4, 3, 2))


@pytest.mark.parametrize(
    "kind",
    [
        mmcv.DeformConv2d,
        mmcv.DeformConv2dPack,
        mmcv.ModulatedDeformConv2d,
        mmcv.ModulatedDeformConv2dPack,
    ],
)
def test_old_name_of_deform_groups(kind):
    with pytest.warns(DeprecationWarning, match="deform_groups"):
        assert kind(4, 6, 3, deformable_groups=2).deform_groups == 2
    for both in ({"deform_groups": 2}, {"deform_groups": 1}):
        with pytest.raises(AssertionError, match="None beside deform_groups, .* name it is, got 2"):
            kind(4, 6, 3, deformable_groups=2, **both)
    with pytest.raises(ValueError, match="^deformable_groups: expected None beside deform_groups"):
        kind(4, 6, 3, 1, 0, 1, 1, 1, deformable_groups=2)


# --- checkpoints ---------------------------------------------------------------------------------


class Block(paddle.nn.Layer):
    """Packs and other layers under the names they would have in a PyTorch model."""

    def __init__(self):
        super().__init__()
        self.conv1 = paddle.nn.Conv2D(3, 4, 3)
        self.bn1 = paddle.nn.BatchNorm2D(4)
        self.conv2 = mmcv.DeformConv2dPack(4, 6, 3, deform_groups=2)
        self.layers = paddle.nn.Sequential(mmcv.ModulatedDeformConv2dPack(6, 2, (1, 3), groups=2))
        self.fc = paddle.nn.Linear(5, 5)


def torch_state(model, old=True):
    """Write a model's state as PyTorch names it, every value different."""
    names = {"_mean": "running_mean", "_variance": "running_var"}
    state, count = {}, 0
    for name, value in model.state_dict().items():
        parent, _, last = name.rpartition(".")
        name = f"{parent}.{names.get(last, last)}"
        name = name.replace(".conv_offset.", "_offset.") if old else name
        state[name] = (np.arange(value.size, dtype="float32") + count).reshape(value.shape)
        count += value.size
        if last == "_variance":
            state[f"{parent}.num_batches_tracked"] = np.array(7)
    return state


@pytest.mark.parametrize("old", [True, False], ids=["old names", "new names"])
def test_checkpoint_of_a_model(old):
    model = Block()
    state = torch_state(model, old)
    assert ("conv2_offset.weight" in state) == ("layers.0_offset.bias" in state) == old
    converted = mmcv.convert_state_dict(state)
    missing, unexpected = model.set_state_dict(converted)
    assert not missing and not unexpected
    values = [value for name, value in state.items() if "num_batches" not in name]
    assert len(values) == len(model.state_dict())
    for loaded, value in zip(model.state_dict().values(), values):
        np.testing.assert_array_equal(loaded.numpy(), value)


ARRAY = np.arange(6, dtype="float32").reshape(2, 3)


def filters(outputs, kernel=3, inputs=4):
    return np.zeros([outputs, inputs, kernel, kernel], "float32")


W, OLD, NEW = "c.weight", "c_offset.weight", "c.conv_offset.weight"
RENAMED = [  # state, names afterwards
    ({"running_mean": ARRAY, "a.b.running_var": ARRAY}, ["_mean", "a.b._variance"]),
    ({"module.a.weight": ARRAY, "module.running_mean.x": ARRAY}, ["a.weight", "running_mean.x"]),
    ({"module.a.weight": ARRAY, "b.weight": ARRAY}, ["module.a.weight", "b.weight"]),
    ({"state_dict": {"a.weight": ARRAY}, "meta": {"epoch": 3}}, ["a.weight"]),
    ({W: filters(8), OLD: filters(18)}, [W, NEW]),
    ({W: filters(8), OLD: filters(54)}, [W, NEW]),
    ({OLD: filters(27), W: filters(8)}, [NEW, W]),
    ({W: filters(8, inputs=2), OLD: filters(18)}, [W, NEW]),  # two groups
    # Not the offsets of a pack: no such layer, another kernel, other numbers of channels, heads of
    # 1x1 kernels, Linear, a layer that already has its offsets.
    ({OLD: filters(18)}, [OLD]),
    ({W: filters(8), OLD: filters(18, 1)}, [W, OLD]),
    ({W: filters(8), OLD: filters(16)}, [W, OLD]),
    ({W: filters(8), OLD: filters(18, inputs=6)}, [W, OLD]),
    ({W: filters(80, 1), OLD: filters(2, 1)}, [W, OLD]),
    ({W: ARRAY, OLD: ARRAY}, [W, OLD]),
    ({W: filters(8), NEW: filters(18), OLD: filters(18)}, [W, NEW, OLD]),
]


@pytest.mark.parametrize("state, names", RENAMED, ids=[" ".join(row[1]) for row in RENAMED])
def test_names(state, names):
    converted = mmcv.convert_state_dict(state)
    assert list(converted) == names
    for new, value in zip(converted.values(), state.get("state_dict", state).values()):
        np.testing.assert_array_equal(new.numpy(), value)


def test_values_keep_dtype_and_kind():
    state = {
        dtype: np.array([1, 0, 3]).astype(dtype)
        for dtype in ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool")
    }
    converted = mmcv.convert_state_dict(state | {"scalar": np.float32(2), "extra": "text"})
    for dtype, array in state.items():
        assert str(converted[dtype].dtype) == f"paddle.{dtype}"
        np.testing.assert_array_equal(converted[dtype].numpy(), array)
    assert float(converted["scalar"]) == 2 and converted.left_over == ["extra"]
    tensor = paddle.rand([2])
    assert mmcv.convert_state_dict({"a": tensor})["a"] is tensor


def test_checkpoint_in_static_mode():
    """The tensors hold values, the program gets no operators, and a model of it loads them."""
    with static_program() as program:
        model = paddle.nn.Conv2D(4, 8, 3, bias_attr=False)
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(paddle.static.default_startup_program())
        before = str(program)
        converted = mmcv.convert_state_dict({"weight": filters(8) + 2})
        assert str(program) == before and not paddle.in_dynamic_mode()
        model.set_state_dict(converted)
        variable = paddle.static.global_scope().find_var(model.weight.name)
        np.testing.assert_array_equal(variable.get_tensor(), filters(8) + 2)
    np.testing.assert_array_equal(converted["weight"].numpy(), filters(8) + 2)


def test_torch_tensors():
    torch = pytest.importorskip("torch", reason="pip install torch")
    state = {
        dtype: torch.tensor([1.0, 0.5, -3.0]).to(getattr(torch, dtype))
        for dtype in ("float16", "bfloat16", "float32", "float64", "int64")
    }
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    converted = mmcv.convert_state_dict(state)
    for name, tensor in state.items():
        dtype = "float32" if name == "parameter" else name
        assert str(converted[name].dtype) == f"paddle.{dtype}"
        np.testing.assert_array_equal(to_array(converted[name]), tensor.detach().double().numpy())


def test_torch_float8():
    torch = pytest.importorskip("torch", reason="pip install torch")
    with pytest.raises(TypeError, match="got torch.float8_e4m3fn of a$"):
        mmcv.convert_state_dict({"a": torch.zeros(2).to(torch.float8_e4m3fn)})


def test_torch_is_not_needed():
    """What a tensor of PyTorch offers is enough."""

    class Tensor:
        dtype, shape = "torch.bfloat16", (2,)

        def detach(self):
            return self

        cpu = float = detach

        def numpy(self):
            return np.array([1.5, -2], "float32")

    converted = mmcv.convert_state_dict({"a": Tensor()})["a"]
    assert converted.dtype == paddle.bfloat16 and to_array(converted).tolist() == [1.5, -2]


@needs_paddle_3  # safetensors.paddle needs it
def test_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    state = {"c.weight": filters(8), "c_offset.weight": filters(18), "bn.running_mean": ARRAY}
    path = tmp_path / "model.safetensors"
    numpy.save_file(state | {"bn.num_batches_tracked": np.array(3)}, path)
    for form in (path, str(path)):
        converted = mmcv.convert_state_dict(form)
        assert sorted(converted) == ["bn._mean", "c.conv_offset.weight", "c.weight"]
        np.testing.assert_array_equal(converted["bn._mean"].numpy(), ARRAY)


def test_safetensors_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.paddle", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        mmcv.convert_state_dict(tmp_path / "model.safetensors")


DCNV3 = {
    "a.dw_conv.0.weight": np.zeros([8, 1, 3, 3]),
    "a.offset.weight": np.zeros([36, 8]),
    "a.mask.weight": np.zeros([18, 8]),
    "a.input_proj.weight": np.zeros([8, 8]),
}
DCNV4 = {"offset_mask.weight": np.zeros([56, 16]), "output_proj.weight": np.zeros([16, 16])}


@pytest.mark.parametrize(
    "state, kind, message",
    [
        (
            DCNV3,
            ValueError,
            r"got its a\.offset\.weight; .*compat\.internimage\.convert",
        ),
        (DCNV4, ValueError, "state: expected no layer of DCNv4, got its offset_mask.weight; "),
        ("model.pth", ValueError, r"got 'model.pth'.*torch\.load"),
        (3, TypeError, "state: expected a mapping .* or the path of a .safetensors file, got int"),
        (
            {"a.running_mean": ARRAY, "a._mean": ARRAY},
            ValueError,
            "expected one entry for a._mean, got a second one, a._mean",
        ),
        ({1: ARRAY}, TypeError, "^state: expected names that are str, got 1$"),
        (
            {"a": ARRAY, "b": np.array(["text"])},
            TypeError,
            "^state: expected a dtype that Paddle and NumPy have, got <U4 of b$",
        ),
    ],
    ids=["DCNv3", "DCNv4", "pth", "int", "twice", "name", "dtype"],
)
def test_refused(state, kind, message):
    with pytest.raises(kind, match=message):
        mmcv.convert_state_dict(state)


def test_convolutions_named_like_dcnv3_are_kept():
    state = {"offset.weight": filters(18), "mask.weight": filters(9)}
    assert list(mmcv.convert_state_dict(state)) == list(state)
