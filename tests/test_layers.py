"""The layers: a drop-in for Paddle's, and the two that predict their own offsets."""

import copy
import inspect

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from paddle_dcn import (
    DeformConv2D,
    DeformConv2DPack,
    ModulatedDeformConv2DPack,
    _ops,
    deform_conv2d,
)
from tests.support.comparison import assert_close
from tests.support.programs import needs_paddle_3

PACKS = [DeformConv2DPack, ModulatedDeformConv2DPack]
LAYERS = [DeformConv2D, *PACKS]
ATTRIBUTE = paddle.ParamAttr

# Positional and keyword arguments that Paddle's layer takes, too.
CONSTRUCTORS = [
    ((4, 6, 3), {}),
    ((4, 6, [2, 3], 2, 1), {"bias_attr": False}),
    ((4, 6, (3, 1), (1, 2), [1, 0], (2, 1), 2, 2), {}),
    ((8, 8, 3), {"padding": 1, "deformable_groups": 4, "groups": 8}),
    ((4, 2, 1), {"weight_attr": ATTRIBUTE(initializer=paddle.nn.initializer.Constant(0.5))}),
]


def random(*shape):
    rng = np.random.default_rng(sum(shape))
    return paddle.to_tensor(rng.normal(0, 1, shape).astype("float32"))


def check_close(actual, expected, layer, dtype="float32"):
    """Hold two float32 results of a layer against each other."""
    depth = int(np.prod(layer.weight.shape[1:]))
    assert_close(actual.numpy(), expected.numpy(), dtype, depth, "out")


def randomize(layer):
    """Give every parameter random values, as offsets of zero would hide mistakes."""
    for parameter in layer.parameters():
        parameter.set_value(random(*parameter.shape) * 0.3)
    return layer


# --- a drop-in -----------------------------------------------------------------------------------


def test_signature():
    builtin = inspect.signature(paddle.vision.ops.DeformConv2D).parameters.values()
    expected = [(p.name, p.default) for p in builtin]
    for layer in LAYERS:
        ours = inspect.signature(layer).parameters.values()
        positional = [(p.name, p.default) for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
        keywords = {p.name: p.default for p in ours if p.kind is p.KEYWORD_ONLY}
        assert positional == expected
        bound = {"max_offset": None} if layer in PACKS else {}
        assert keywords == {"im2col_step": None, "data_format": "NCHW", **bound}
    forward = inspect.signature(DeformConv2D.forward).parameters.values()
    builtin = inspect.signature(paddle.vision.ops.DeformConv2D.forward).parameters.values()
    assert [(p.name, p.default) for p in forward] == [(p.name, p.default) for p in builtin]


@pytest.mark.parametrize(("arguments", "keywords"), CONSTRUCTORS)
def test_initial_values_are_those_of_paddles_layer(arguments, keywords):
    layers = []
    for layer in (paddle.vision.ops.DeformConv2D, DeformConv2D):
        paddle.seed(1)
        layers.append(layer(*arguments, **keywords).state_dict())
    assert list(layers[1]) == list(layers[0])
    for name, value in layers[0].items():
        np.testing.assert_array_equal(layers[1][name].numpy(), value.numpy(), err_msg=name)


@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
@pytest.mark.parametrize(("arguments", "keywords"), CONSTRUCTORS)
def test_state_dicts_are_exchanged_with_paddles_layer(arguments, keywords, modulated):
    """Parameters go there and back, and both layers compute the same with them."""
    builtin = randomize(paddle.vision.ops.DeformConv2D(*arguments, **keywords))
    ours = DeformConv2D(*arguments, **keywords)
    assert ours.set_state_dict(builtin.state_dict()) == ([], [])

    x = random(2, arguments[0], 6, 7)
    taps = int(np.prod(ours.weight.shape[2:])) * ours._attributes.deformable_groups
    plain = functional.conv2d(
        x,
        ours.weight,
        stride=builtin._stride,
        padding=builtin._padding,
        dilation=builtin._dilation,
        groups=builtin._groups,
    )
    offset, mask = random(2, 2 * taps, *plain.shape[2:]), random(2, taps, *plain.shape[2:])
    sampling = (offset, mask) if modulated else (offset,)
    check_close(ours(x, *sampling), builtin(x, *sampling), ours)

    back = paddle.vision.ops.DeformConv2D(*arguments, **keywords)
    assert back.set_state_dict(randomize(ours).state_dict()) == ([], [])
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name].numpy(), value.numpy())


def test_attributes():
    """weight_attr and bias_attr are Paddle's: initial values, names, training."""
    constant = paddle.nn.initializer.Constant
    layer = DeformConv2D(
        *(4, 6, 3),
        weight_attr=ATTRIBUTE(initializer=constant(2.0), name="dcn_weight", trainable=False),
        bias_attr=ATTRIBUTE(initializer=constant(3.0), learning_rate=0.5),
    )
    assert layer.weight.name == "dcn_weight" and layer.weight.stop_gradient
    assert layer.bias.optimize_attr["learning_rate"] == 0.5 and not layer.bias.stop_gradient
    assert (layer.weight == 2).all() and (layer.bias == 3).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_no_bias(layer):
    layer = layer(4, 6, 3, bias_attr=False)
    assert layer.bias is None and "bias" not in layer.state_dict()
    assert layer.extra_repr().endswith("bias_attr=False")


def test_extra_repr():
    assert DeformConv2D(4, 6, 3).extra_repr() == "in_channels=4, out_channels=6, kernel_size=(3, 3)"
    layer = DeformConv2D(4, 6, (3, 1), 2, 1, 2, 4, 2, im2col_step=8, data_format="NHWC")
    assert layer.extra_repr() == (
        "in_channels=4, out_channels=6, kernel_size=(3, 1), stride=(2, 2), padding=(1, 1, 1, 1), "
        "dilation=(2, 2), deformable_groups=4, groups=2, im2col_step=8, data_format='NHWC'"
    )
    layer = DeformConv2DPack(4, 6, 3, max_offset=8)
    assert layer.extra_repr().endswith("kernel_size=(3, 3), max_offset=8")


def test_forward_passes_every_argument_on(monkeypatch):
    calls = []
    monkeypatch.setattr(_ops, "deform_conv2d", calls.append)
    layer = DeformConv2D(
        4, 6, (3, 1), 2, (1, 0, 2, 3), (1, 2), 4, 2, im2col_step=8, data_format="NHWC"
    )
    x, offset, mask = random(2, 6, 7, 4), random(2, 24, 3, 6), random(2, 12, 3, 6)
    layer(x, offset, mask)
    *tensors, attributes = calls[0]
    assert all(a is b for a, b in zip(tensors, (x, offset, mask, layer.weight, layer.bias)))
    assert attributes._asdict() == {
        "stride": (2, 2),
        "padding": (1, 0, 2, 3),
        "dilation": (1, 2),
        "deformable_groups": 4,
        "groups": 2,
        "im2col_step": 8,
        "data_format": "NHWC",
        "weighted": True,
        "planes_last": False,
    }


# --- arguments that are refused ------------------------------------------------------------------

BAD = [
    (ValueError, "in_channels: expected positive, got 0", {"in_channels": 0}),
    (ValueError, "out_channels: expected positive, got -6", {"out_channels": -6}),
    (TypeError, "in_channels: expected an int, got 4.0 (float)", {"in_channels": 4.0}),
    (TypeError, "out_channels: expected an int, got None", {"out_channels": None}),
    (ValueError, "kernel_size: expected positive, got (3, 0)", {"kernel_size": (3, 0)}),
    (
        ValueError,
        "kernel_size: expected an int or 2 ints, got (3, 3, 3)",
        {"kernel_size": (3, 3, 3)},
    ),
    (TypeError, "kernel_size: expected an int or 2 ints, got '3' (str)", {"kernel_size": "3"}),
    (ValueError, "stride: expected positive, got 0", {"stride": 0}),
    (TypeError, "stride: expected an int or 2 ints, got 1.0 (float)", {"stride": 1.0}),
    (ValueError, "padding: expected non-negative, got (-1, 0)", {"padding": (-1, 0)}),
    (ValueError, "padding: expected an int or 2 ints or 4 ints, got [1]", {"padding": [1]}),
    (TypeError, "padding: expected an int or 2 ints or 4 ints, got None", {"padding": None}),
    (ValueError, "dilation: expected positive, got 0", {"dilation": 0}),
    (ValueError, "groups: expected positive, got 0", {"groups": 0}),
    (ValueError, "groups: expected a divisor of 4 (in_channels), got 3", {"groups": 3}),
    (
        ValueError,
        "groups: expected a divisor of 6 (out_channels), got 4",
        {"groups": 4},
    ),
    (
        ValueError,
        "deformable_groups: expected a divisor of 4 (in_channels), got 3",
        {"deformable_groups": 3},
    ),
    (TypeError, "deformable_groups: expected an int, got True (bool)", {"deformable_groups": True}),
    (ValueError, "im2col_step: expected positive, got 0", {"im2col_step": 0}),
    (ValueError, "data_format: expected 'NCHW' or 'NHWC', got 'NCL'", {"data_format": "NCL"}),
    (
        ValueError,
        "weight_attr: expected None, a ParamAttr, initializer or name, got False",
        {"weight_attr": False},
    ),
    (
        TypeError,
        "weight_attr: expected None, a ParamAttr, initializer or name, got object",
        {"weight_attr": object()},
    ),
    (
        TypeError,
        "bias_attr: expected None, a ParamAttr, initializer or name, got 3 (int)",
        {"bias_attr": 3},
    ),
]


@pytest.mark.parametrize("layer", [DeformConv2D, ModulatedDeformConv2DPack])
@pytest.mark.parametrize(("error", "message", "overrides"), BAD, ids=[row[1][:50] for row in BAD])
def test_bad_arguments_raise_at_construction(layer, error, message, overrides):
    with pytest.raises(error) as caught:
        layer(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | overrides)
    assert type(caught.value) is error
    assert str(caught.value) == message


def test_bad_input_raises_in_forward():
    x = random(2, 5, 6, 7)
    with pytest.raises(ValueError, match=r"^weight: expected 5 input channels .*, got 4$"):
        DeformConv2D(4, 6, 3)(x, random(2, 18, 4, 5))


# --- layers that predict their own sampling ------------------------------------------------------

PACK_INPUTS = [
    (None, TypeError, "x: expected a paddle.Tensor, got None"),
    (np.zeros([2, 4, 8, 8], "float32"), TypeError, "x: expected a paddle.Tensor, got numpy"),
    (paddle.zeros([2, 4, 8, 8], "int32"), TypeError, "x: expected dtype .* got int32"),
    (paddle.zeros([2, 4, 8, 8], "float64"), TypeError, "weight: expected dtype float64"),
    (paddle.zeros([4, 8, 8]), ValueError, "x: expected 4-D"),
    (paddle.zeros([2, 5, 8, 8]), ValueError, "channels 5 of x"),
    (paddle.zeros([2, 4, 0, 8]), ValueError, "x: expected positive height, got 0"),
    (paddle.zeros([2, 4, 2, 2]), ValueError, "x: expected an output height of at least 1"),
    (paddle.zeros([2, 4, 8, 2]), ValueError, "x: expected an output width of at least 1"),
]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize(("x", "error", "message"), PACK_INPUTS)
def test_packs_check_before_they_predict(x, error, message, pack, monkeypatch):
    """Paddle's convolution writes out of bounds where the image is smaller than the kernel."""
    layer = pack(4, 6, 3)
    monkeypatch.setattr(layer, "conv_offset", None)
    with pytest.raises(error, match=message):
        layer(x)


PACK_ARGUMENTS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (2, 3), "stride": (2, 1), "groups": 2},
    {"kernel_size": 3, "dilation": (1, 2), "padding": (2, 0, 1, 3), "deformable_groups": 2},
    {"kernel_size": 1, "stride": 2, "padding": (0, 1), "bias_attr": False},
]


def convolve(layer, x, weight, bias, groups=1):
    """Convolve x with the sizes of a layer's sampling, padded by hand."""
    attributes = layer._attributes
    top, bottom, left, right = attributes.padding
    x = functional.pad(x, [left, right, top, bottom])
    return functional.conv2d(x, weight, bias, attributes.stride, 0, attributes.dilation, groups)


@pytest.mark.parametrize("arguments", PACK_ARGUMENTS, ids=str)
@pytest.mark.parametrize("pack", PACKS)
def test_packs_start_as_a_convolution(pack, arguments):
    layer, x = pack(4, 6, **arguments), random(2, 4, 6, 7)
    share = 0.5 if pack is ModulatedDeformConv2DPack else 1.0  # sigmoid(0)
    expected = convolve(layer, x, layer.weight * share, layer.bias, layer._attributes.groups)
    check_close(layer(x), expected, layer)


@pytest.mark.parametrize("arguments", PACK_ARGUMENTS, ids=str)
@pytest.mark.parametrize("pack", PACKS)
def test_packs_predict_in_mmcvs_order(pack, arguments):
    """v2 cuts the prediction in three: the first two are the offset, the last one the mask."""
    layer, x = randomize(pack(4, 6, **arguments)), random(2, 4, 6, 7)
    predicted = layer.conv_offset(x)
    check_close(
        predicted,
        convolve(layer, x, layer.conv_offset.weight, layer.conv_offset.bias),
        layer.conv_offset,
    )
    names = ("stride", "padding", "dilation", "groups", "deformable_groups")
    given = {name: getattr(layer._attributes, name) for name in names}
    if pack is ModulatedDeformConv2DPack:
        first, second, mask = paddle.chunk(predicted, 3, axis=1)
        predicted = paddle.concat([first, second], axis=1)
        given["mask"] = functional.sigmoid(mask)
    expected = deform_conv2d(x, predicted, layer.weight, layer.bias, **given)
    np.testing.assert_array_equal(layer(x).numpy(), expected.numpy())


@pytest.mark.parametrize("arguments", PACK_ARGUMENTS, ids=str)
@pytest.mark.parametrize("pack", PACKS)
def test_packs_take_nhwc(pack, arguments):
    """In float64, so that the rounding of the offsets does not count."""
    nchw = randomize(pack(4, 6, **arguments)).to(dtype="float64")
    nhwc = pack(4, 6, **arguments, data_format="NHWC").to(dtype="float64")
    assert nhwc.set_state_dict(nchw.state_dict()) == ([], [])
    x = random(2, 4, 6, 7).astype("float64")
    out = nhwc(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2])
    check_close(out, nchw(x), nchw)


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("pack", PACKS)
def test_packs_bound_offsets(pack, data_format):
    layer = randomize(pack(4, 6, 3, padding=1, max_offset=1.5, data_format=data_format))
    bias = layer.conv_offset.bias
    bias.set_value(bias + 1000 * paddle.arange(len(bias)).cos())  # most far above the bound
    x = random(2, 8, 7, 4) if data_format == "NHWC" else random(2, 4, 8, 7)
    planes = layer.conv_offset(x)
    planes = planes.transpose([0, 3, 1, 2]) if data_format == "NHWC" else planes
    offset, mask = 1.5 * paddle.tanh(planes[:, :18] / 1.5), None
    assert (offset.abs() < 1.5).any() and float(offset.abs().max()) == 1.5
    if pack is ModulatedDeformConv2DPack:
        mask = paddle.nn.functional.sigmoid(planes[:, 18:])
    expected = DeformConv2D.forward(layer, x, offset, mask).numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    for full_graph in (True, False):
        compiled = paddle.jit.to_static(copy.deepcopy(layer), full_graph=full_graph)
        np.testing.assert_allclose(compiled(x).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("bound", "error", "message"),
    [
        (0, ValueError, "max_offset: expected a finite number above 0, got 0"),
        (float("inf"), ValueError, "max_offset: expected a finite number above 0, got inf"),
        (2**1024, ValueError, "max_offset: expected a finite number above 0, got 17976"),
        ("8", TypeError, "max_offset: expected a number, got '8'"),
        (True, TypeError, "max_offset: expected a number, got True"),
    ],
)
def test_bad_bounds(bound, error, message):
    with pytest.raises(error, match=message):
        DeformConv2DPack(4, 6, 3, max_offset=bound)


@pytest.mark.parametrize("pack", PACKS)
def test_packs_have_mmcvs_names_and_zeros(pack):
    layer = pack(4, 6, 3, deformable_groups=2)
    state = layer.state_dict()
    assert set(state) == {"weight", "bias", "conv_offset.weight", "conv_offset.bias"}
    planes = 3 if pack is ModulatedDeformConv2DPack else 2
    assert list(state["conv_offset.weight"].shape) == [2 * 9 * planes, 4, 3, 3]
    assert not state["conv_offset.weight"].any() and not state["conv_offset.bias"].any()
    assert state["weight"].any()


@pytest.mark.parametrize("pack", PACKS)
def test_packs_train_every_parameter(pack):
    layer = pack(4, 6, 3, padding=1)
    (layer(random(2, 4, 6, 7)) ** 2).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("pack", PACKS)
def test_copies_and_double_precision(pack):
    single = pack(4, 6, 3, padding=1)
    double = copy.deepcopy(single).to(dtype="float64")
    x = random(2, 4, 6, 7)
    assert (single.weight.dtype, double.weight.dtype) == (paddle.float32, paddle.float64)
    check_close(single(x), double(x.astype("float64")), single)


@needs_paddle_3
@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_packs_are_compiled_and_saved(pack, data_format, tmp_path):
    layer = randomize(pack(4, 6, 3, padding=1, data_format=data_format))
    x = random(2, 8, 7, 4) if data_format == "NHWC" else random(2, 4, 8, 7)
    expected = layer(x).numpy()
    for full_graph in (True, False):
        compiled = paddle.jit.to_static(copy.deepcopy(layer), full_graph=full_graph)
        np.testing.assert_array_equal(compiled(x).numpy(), expected)
    path = str(tmp_path / "pack")
    spec = paddle.static.InputSpec([size if size == 4 else None for size in x.shape])
    paddle.jit.save(layer, path, input_spec=[spec])
    np.testing.assert_array_equal(paddle.jit.load(path)(x).numpy(), expected)
