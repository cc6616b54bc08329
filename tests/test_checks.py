"""Everything that is refused, with the whole message; and that nothing valid is."""

import re
from dataclasses import dataclass

import numpy as np
import paddle
import pytest

from paddle_dcn import DCNv3, DCNv4, _checks, _ops, deform_conv2d, export
from paddle_dcn.compat import detectron2, mmcv, mmdet, npu, torchvision
from tests.support.programs import needs_paddle_3, static_program

SHAPES = {
    "x": (2, 4, 5, 6),
    "offset": (2, 36, 5, 6),
    "weight": (6, 2, 3, 3),
    "bias": (6,),
    "mask": (2, 18, 5, 6),
}
HUGE = 10**5000
PARAMETERS = {"padding": 1, "deformable_groups": 2, "groups": 2}


@dataclass
class Typed:
    """Stands for a tensor of its usual shape and this dtype."""

    dtype: str


# Each row: the message, and what to change in the valid call to get it. A tuple in place of a
# tensor is its shape.
RANKS = [
    ("x: expected 4-D [N, C, H, W], got 3-D [4, 5, 6]", {"x": (4, 5, 6)}),
    (
        "x: expected 4-D [N, H, W, C], got 5-D [2, 1, 5, 6, 4]",
        {"x": (2, 1, 5, 6, 4), "data_format": "NHWC"},
    ),
    (
        "offset: expected 4-D [N, deformable_groups * 2 * kh * kw, Ho, Wo], got 1-D [72]",
        {"offset": (72,)},
    ),
    (
        "mask: expected 4-D [N, deformable_groups * kh * kw, Ho, Wo], got 5-D [2, 2, 9, 5, 6]",
        {"mask": (2, 2, 9, 5, 6)},
    ),
    ("weight: expected 4-D [M, C / groups, kh, kw], got 2-D [6, 18]", {"weight": (6, 18)}),
    ("bias: expected 1-D [M], got 2-D [6, 1]", {"bias": (6, 1)}),
    ("bias: expected 1-D [M], got 0-D []", {"bias": ()}),
]
CHANNELS = [
    (
        "offset: expected 36 channels (2 * deformable_groups 2 * kernel 3x3), got 18",
        {"offset": (2, 18, 5, 6)},
    ),
    (
        "offset: expected 24 channels (2 * deformable_groups 2 * kernel 3x2), got 36",
        {"weight": (6, 2, 3, 2)},
    ),
    (
        "mask: expected 18 channels (deformable_groups 2 * kernel 3x3), got 19",
        {"mask": (2, 19, 5, 6)},
    ),
    (
        "weight: expected 2 input channels (channels 4 of x / groups 2), got 4",
        {"weight": (6, 4, 3, 3)},
    ),
    ("bias: expected 6 entries (output channels of weight), got 5", {"bias": (5,)}),
    ("groups: expected a divisor of 4 (channels of x), got 3", {"groups": 3}),
    (
        "groups: expected a divisor of 5 (output channels of weight), got 2",
        {"weight": (5, 2, 3, 3)},
    ),
    ("deformable_groups: expected a divisor of 4 (channels of x), got 3", {"deformable_groups": 3}),
    (
        "groups: expected a divisor of 5 (channels of x), got 2",
        {"x": (2, 4, 6, 5), "data_format": "NHWC"},
    ),
]
BATCHES = [
    ("offset: expected 2 images (batch of x), got 1", {"offset": (1, 36, 5, 6)}),
    ("offset: expected 2 images (batch of x), got 3", {"offset": (3, 36, 5, 6)}),
    ("mask: expected 2 images (batch of x), got 1", {"mask": (1, 18, 5, 6)}),
    ("mask: expected 2 images (batch of x), got 0", {"mask": (0, 18, 5, 6)}),
    ("offset: expected 0 images (batch of x), got 2", {"x": (0, 4, 5, 6)}),
]
SIZES = [
    (
        "offset: expected 5 rows ((5 + 1 + 1 - (1 * (3 - 1) + 1)) // 1 + 1), got 4",
        {"offset": (2, 36, 4, 6)},
    ),
    (
        "mask: expected 6 columns ((6 + 1 + 1 - (1 * (3 - 1) + 1)) // 1 + 1), got 7",
        {"mask": (2, 18, 5, 7)},
    ),
    (
        "offset: expected 4 rows ((5 + 2 + 1 - (2 * (3 - 1) + 1)) // 1 + 1), got 5",
        {"padding": [2, 1, 0, 0], "dilation": 2},
    ),
    (
        "offset: expected 3 columns ((6 + 0 + 2 - (1 * (3 - 1) + 1)) // 2 + 1), got 6",
        {"padding": (1, 1, 0, 2), "stride": (1, 2)},
    ),
    (
        "offset: expected 6 rows ((6 + 1 + 1 - (1 * (3 - 1) + 1)) // 1 + 1), got 5",
        {"x": (2, 6, 5, 4), "data_format": "NHWC"},
    ),
    (
        "x: expected an output height of at least 1, "
        "got (5 + 0 + 0 - (3 * (3 - 1) + 1)) // 1 + 1 = -1",
        {"padding": 0, "dilation": 3},
    ),
    (
        "x: expected an output width of at least 1, "
        "got (2 + 0 + 0 - (1 * (3 - 1) + 1)) // 4 + 1 = 0",
        {"x": (2, 4, 5, 2), "padding": 0, "stride": 4},
    ),
]
EMPTY = [
    ("x: expected positive channels, got 0", {"x": (2, 0, 5, 6)}),
    ("x: expected positive height, got 0", {"x": (2, 4, 0, 6)}),
    ("x: expected positive width, got 0", {"x": (2, 4, 5, 0)}),
    ("weight: expected positive output channels, got 0", {"weight": (0, 2, 3, 3)}),
    ("weight: expected positive kernel height, got 0", {"weight": (6, 2, 0, 3)}),
    ("weight: expected positive kernel width, got 0", {"weight": (6, 2, 3, 0)}),
]
VALUES = [
    ("stride: expected an int or 2 ints, got [1 1 1]", {"stride": np.array([1, 1, 1])}),
    ("stride: expected positive, got 0", {"stride": 0}),
    ("stride: expected positive, got (1, -2)", {"stride": (1, -2)}),
    ("dilation: expected positive, got [0, 1]", {"dilation": [0, 1]}),
    ("dilation: expected positive, got -1", {"dilation": -1}),
    ("padding: expected non-negative, got -1", {"padding": -1}),
    ("padding: expected non-negative, got [0, 0, -1, 0]", {"padding": [0, 0, -1, 0]}),
    ("groups: expected positive, got 0", {"groups": 0}),
    ("deformable_groups: expected positive, got -2", {"deformable_groups": -2}),
    ("im2col_step: expected positive, got 0", {"im2col_step": 0}),
    ("stride: expected an int or 2 ints, got (1, 1, 1)", {"stride": (1, 1, 1)}),
    ("dilation: expected an int or 2 ints, got [1]", {"dilation": [1]}),
    ("padding: expected an int or 2 ints or 4 ints, got (1, 1, 1)", {"padding": (1, 1, 1)}),
    ("padding: expected an int or 2 ints or 4 ints, got []", {"padding": []}),
    ("data_format: expected 'NCHW' or 'NHWC', got 'nchw'", {"data_format": "nchw"}),
    ("stride: expected at most 2147483647, got 2147483648", {"stride": 2**31}),
    ("padding: expected at most 2147483647, got (0, 4294967296)", {"padding": (0, 2**32)}),
    ("groups: expected at most 2147483647, got 18446744073709551617", {"groups": 2**64 + 1}),
    # of which Python does not write the digits
    ("groups: expected at most 2147483647, got a number of thousands of digits", {"groups": HUGE}),
    (
        "padding: expected non-negative, got a number of thousands of digits",
        {"padding": (0, -HUGE)},
    ),
]
KINDS = [
    ("stride: expected an int or 2 ints, got 1.0 (float)", {"stride": 1.0}),
    ("stride: expected an int or 2 ints, got True (bool)", {"stride": True}),
    ("stride: expected an int or 2 ints, got (1, True) (tuple)", {"stride": (1, True)}),
    ("stride: expected an int or 2 ints, got [1, 2.0] (list)", {"stride": [1, 2.0]}),
    ("stride: expected an int or 2 ints, got '1' (str)", {"stride": "1"}),
    ("stride: expected an int or 2 ints, got None", {"stride": None}),
    ("stride: expected an int or 2 ints, got numpy.ndarray", {"stride": np.array([1.0, 1.0])}),
    ("stride: expected an int or 2 ints, got numpy.ndarray", {"stride": np.array([[1, 1]])}),
    ("groups: expected an int, got numpy.ndarray", {"groups": np.array([2])}),
    ("groups: expected an int, got numpy.ndarray", {"groups": np.array(True)}),
    ("stride: expected an int or 2 ints, got numpy.float64", {"stride": np.float64(1)}),
    (
        f"dilation: expected an int or 2 ints, got numpy.{np.bool_.__name__}",
        {"dilation": np.bool_(True)},
    ),
    ("padding: expected an int or 2 ints or 4 ints, got 'SAME' (str)", {"padding": "SAME"}),
    (
        "padding: expected an int or 2 ints or 4 ints, got [[1, 1], [1, 1]] (list)",
        {"padding": [[1, 1]] * 2},
    ),
    ("groups: expected an int, got 2.0 (float)", {"groups": 2.0}),
    ("groups: expected an int, got [2] (list)", {"groups": [2]}),
    ("groups: expected an int, got None", {"groups": None}),
    ("deformable_groups: expected an int, got True (bool)", {"deformable_groups": True}),
    ("im2col_step: expected an int, got (1,) (tuple)", {"im2col_step": (1,)}),
    ("data_format: expected 'NCHW' or 'NHWC', got None", {"data_format": None}),
    ("name: expected a str or None, got 3 (int)", {"name": 3}),
]
DTYPES = [
    ("x: expected dtype float16, bfloat16, float32 or float64, got int32", {"x": Typed("int32")}),
    ("x: expected dtype float16, bfloat16, float32 or float64, got bool", {"x": Typed("bool")}),
    ("weight: expected dtype float32 (x is float32), got float64", {"weight": Typed("float64")}),
    ("weight: expected dtype float64 (x is float64), got float32", {"x": Typed("float64")}),
    ("bias: expected dtype float32 (x is float32), got float16", {"bias": Typed("float16")}),
    ("offset: expected dtype float32 (x is float32), got int64", {"offset": Typed("int64")}),
    ("mask: expected dtype float32 (x is float32), got bfloat16", {"mask": Typed("bfloat16")}),
    (
        "offset: expected dtype float16 or float32 (x is float16), got bfloat16",
        {"x": Typed("float16"), "weight": Typed("float16"), "bias": Typed("float16")}
        | {"offset": Typed("bfloat16")},
    ),
]
TENSORS = [
    ("x: expected {tensor}, got numpy.ndarray", {"x": np.zeros(SHAPES["x"], "float32")}),
    ("x: expected {tensor}, got None", {"x": None}),
    ("offset: expected {tensor}, got None", {"offset": None}),
    ("offset: expected {tensor}, got [1.0, 2.0] (list)", {"offset": [1.0, 2.0]}),
    ("weight: expected {tensor}, got 3 (int)", {"weight": 3}),
    ("bias: expected {tensor}, got True (bool)", {"bias": True}),
    ("mask: expected {tensor}, got 'NCHW' (str)", {"mask": "NCHW"}),
    (
        f"weight: expected {{tensor}}, got {str([0] * 100)[:60]}... (list)",
        {"weight": [0] * 100},
    ),
]


def rows(error, *tables):
    """Parameters (error, message, overrides) of a test, with short readable ids."""
    return [
        pytest.param(error, *row, id=row[0][:60].replace("expected ", ""))
        for table in tables
        for row in table
    ]


BAD_CALLS = rows(ValueError, RANKS, CHANNELS, BATCHES, SIZES, EMPTY, VALUES) + rows(
    TypeError, KINDS, DTYPES
)
BAD_TENSORS = rows(TypeError, TENSORS)


def call_with(make, overrides):
    """Arguments of the valid call, `overrides` put in; make(name, shape, dtype) gives tensors."""
    arguments = dict(PARAMETERS)
    for name, shape in SHAPES.items():
        override = overrides.get(name, shape)
        if isinstance(override, Typed):
            arguments[name] = make(name, shape, override.dtype)
        elif isinstance(override, tuple):
            arguments[name] = make(name, override, "float32")
        else:
            arguments[name] = override
    return arguments | {name: v for name, v in overrides.items() if name not in SHAPES}


def full(name, shape, dtype):
    tensor = paddle.full(shape, 0.5, "float32").astype(dtype)
    tensor.stop_gradient = name == "x"
    return tensor


def tensors_of(arguments):
    return {n: v for n, v in arguments.items() if isinstance(v, paddle.Tensor)}


@pytest.mark.parametrize(("error", "message", "overrides"), BAD_CALLS + BAD_TENSORS)
def test_dynamic(error, message, overrides):
    arguments = call_with(full, overrides)
    with pytest.raises(error) as caught:
        deform_conv2d(**arguments)
    assert type(caught.value) is error
    assert str(caught.value) == message.format(tensor="a paddle.Tensor")
    for name, tensor in tensors_of(arguments).items():
        untouched = full(name, tensor.shape, tensor.dtype)
        assert np.array_equal(tensor.astype("float64").numpy(), untouched.astype("float64").numpy())
        assert (tensor.dtype, tensor.stop_gradient) == (untouched.dtype, untouched.stop_gradient)
        assert tensor.grad is None


@pytest.mark.parametrize(("error", "message", "overrides"), BAD_CALLS + BAD_TENSORS)
def test_static(error, message, overrides):
    with static_program() as program:
        arguments = call_with(paddle.static.data, overrides)
        operators = len(program.global_block().ops)
        with pytest.raises(error) as caught:
            deform_conv2d(**arguments)
        assert len(program.global_block().ops) == operators
    assert type(caught.value) is error
    assert str(caught.value) == message.format(tensor="a tensor of the static program")


def to_static(overrides, full_graph):
    """Return a to_static function of the tensors of `overrides`'s call, and those tensors."""
    arguments = call_with(full, overrides)
    tensors = tensors_of(arguments)
    others = {name: value for name, value in arguments.items() if name not in tensors}

    def call(tensors):
        return deform_conv2d(**tensors, **others)

    return paddle.jit.to_static(call, full_graph=full_graph), tensors


@needs_paddle_3
@pytest.mark.parametrize(("error", "message", "overrides"), BAD_CALLS)
def test_to_static(error, message, overrides):
    call, tensors = to_static(overrides, full_graph=True)
    with pytest.raises(error) as caught:
        call(tensors)
    assert type(caught.value) is error
    assert message in str(caught.value)  # Paddle adds where it happened


@needs_paddle_3
@pytest.mark.parametrize(
    ("error", "message", "overrides"),
    rows(ValueError, SIZES[:1], VALUES[:1]) + rows(TypeError, KINDS[:1], DTYPES[2:3]),
)
def test_to_static_with_graph_breaks(error, message, overrides):
    call, tensors = to_static(overrides, full_graph=False)
    with pytest.raises(error) as caught:
        call(tensors)
    assert type(caught.value) is error
    assert str(caught.value) == message


def sparse():
    return paddle.sparse.sparse_coo_tensor([[0], [1], [2], [3]], [1.0], SHAPES["x"])


def cleared():
    tensor = full("x", SHAPES["x"], "float32")
    tensor._clear_data()
    return tensor


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (sparse, TypeError, "x: expected a dense paddle.Tensor, got a sparse one"),
        (cleared, ValueError, "x: expected a tensor that holds data, got one that was cleared"),
    ],
)
def test_tensors_without_dense_data(make, error, message):
    with pytest.raises(error) as caught:
        deform_conv2d(**call_with(full, {"x": make()}))
    assert str(caught.value) == message


def test_modes_are_not_mixed():
    weight = full("weight", SHAPES["weight"], "float32")
    with static_program():
        x = paddle.static.data("x", SHAPES["x"])
        arguments = call_with(paddle.static.data, {"weight": weight})
        with pytest.raises(
            TypeError, match="^weight: expected a tensor of the static program, got"
        ):
            deform_conv2d(**arguments)
    with pytest.raises(
        TypeError, match="^x: expected a paddle.Tensor, got paddle.*(Value|Variable)"
    ):
        deform_conv2d(**call_with(full, {"x": x}))


@pytest.mark.parametrize("name", ["offset", "weight", "bias", "mask"])
def test_mixed_devices(name, monkeypatch):
    class Elsewhere(paddle.Tensor):
        """Says that it lies on another device: one is enough for this test."""

        _place_str = "Place(gpu:9)"

    elsewhere = Elsewhere(np.full(SHAPES[name], 0.5, "float32"))
    monkeypatch.setattr(_checks, "HAS_DEVICES", True)
    deform_conv2d(**call_with(full, {}))
    with pytest.raises(ValueError) as caught:
        deform_conv2d(**call_with(full, {name: elsewhere}))
    place = full("x", (1,), "float32")._place_str
    expected = f"{name}: expected a tensor on {place} (that of x), got Place(gpu:9)"
    assert str(caught.value) == expected


# --- static programs whose sizes are not all known -----------------------------------------------

OPEN = (None, None, None, None)


@pytest.mark.parametrize(
    "overrides",
    [
        {"x": (None, 4, 5, 6), "offset": (None, 36, 5, 6), "mask": (None, 18, 5, 6)},
        {"x": (None, 4, 5, 6)},
        {"x": (2, 4, None, None), "offset": (2, 36, None, None), "mask": (2, 18, None, None)},
        {"x": (2, 4, None, 6), "offset": (2, 36, 99, 6), "mask": (2, 18, 99, 6)},
        {"x": (2, None, 5, 6)},
        {"offset": OPEN, "mask": OPEN},
        {"x": OPEN, "offset": OPEN, "mask": OPEN, "weight": OPEN, "bias": None},
    ],
    ids=str,
)
def test_unknown_sizes_are_accepted(overrides):
    with static_program():
        arguments = call_with(paddle.static.data, overrides)
        tensors = {name: arguments.pop(name) for name in SHAPES}
        attributes = _checks.check_attributes(stride=1, dilation=1, **arguments)
        _checks.check_call(**tensors, attributes=attributes)


@pytest.mark.parametrize(
    ("message", "overrides"),
    [
        (
            "offset: expected 36 channels (2 * deformable_groups 2 * kernel 3x3), got 18",
            {"x": OPEN, "offset": (None, 18, None, None)},
        ),
        (
            "mask: expected 6 columns ((6 + 1 + 1 - (1 * (3 - 1) + 1)) // 1 + 1), got 5",
            {"x": (None, 4, None, 6), "mask": (None, 18, None, 5)},
        ),
        ("mask: expected 2 images (images of offset), got 3", {"x": OPEN, "mask": (3, 18, 5, 6)}),
        ("mask: expected 5 rows (rows of offset), got 7", {"x": OPEN, "mask": (2, 18, 7, 6)}),
        (
            "deformable_groups: expected a divisor of 3 (channels of x), got 2",
            {"x": (None, 3, None, None), "groups": 1},
        ),
        (
            "groups: expected a divisor of 6 (output channels of weight), got 4",
            {"x": OPEN, "groups": 4},
        ),
        (
            "x: expected an output of at most 1152921504606846975 elements, "
            "got [2147483648, 6, 16384, 16384]",
            {
                "x": (2**31, 4, 2**14, 2**14),
                "offset": (2**31, 36, 2**14, 2**14),
                "mask": (2**31, 18, 2**14, 2**14),
            },
        ),
        (
            "x: expected an output of at most 1152921504606846975 elements, "
            "got [2, 6, 2147483646, 2147483646]",
            {
                "x": (2, 4, 2**31 - 2, 2**31 - 2),
                "offset": (2, 36, 2**31 - 2, 2**31 - 2),
                "mask": (2, 18, 2**31 - 2, 2**31 - 2),
            },
        ),
        (
            "offset: expected 18446744073709551616 channels "
            "(2 * deformable_groups 2 * kernel 2147483648x2147483648), got 36",
            {
                "x": (None, 4, None, None),
                "offset": (None, 36, None, None),
                "weight": (6, 2, 2**31, 2**31),
            },
        ),
        ("x: expected a height of at most 2147483646, got 2147483647", {"x": (2, 4, 2**31 - 1, 6)}),
    ],
    ids=range(10),
)
def test_known_sizes_are_checked(message, overrides):
    with static_program(), pytest.raises(ValueError) as caught:
        deform_conv2d(**call_with(paddle.static.data, overrides))
    assert str(caught.value) == message


def convolve_as_npu(**flag):
    x, offset, weight = paddle.zeros([1, 1, 3, 3]), paddle.zeros([1, 3, 3, 3]), paddle.ones([1] * 4)
    numbers = ([1, 1], [1] * 4, [0] * 4)
    return npu.npu_deformable_conv2d(x, weight, offset, None, *numbers, **flag)


FLAGS = [
    ("remove_center", DCNv3, 8),
    ("center_feature_scale", DCNv4, 8),
    ("output_bias", DCNv4, 8),
    ("without_pointwise", DCNv4, 8),
    ("bias", torchvision.DeformConv2d, 2, 2, 1),
    ("bias", mmcv.ModulatedDeformConv2dPack, 2, 2, 1),
    ("bias", mmdet.ModulatedDeformConv, 2, 2, 1),
    ("bias", detectron2.ModulatedDeformConv, 2, 2, 1),
    ("modulated", convolve_as_npu),
    ("with_deformable_offset", convolve_as_npu),
    ("fuse", export.convert, "no model", "no file", "fast"),
]


@pytest.mark.parametrize(("name", "function", "arguments"), [(n, f, a) for n, f, *a in FLAGS])
def test_flags(name, function, arguments):
    for kind, value, expected in (
        (TypeError, "False", "a bool, got 'False' (str)"),
        (TypeError, 1.0, "a bool, got 1.0 (float)"),
        (ValueError, 2, "False or True, got 2"),
    ):
        with pytest.raises(kind, match=re.escape(f"{name}: expected {expected}")):
            function(*arguments, **{name: value})
    if function is not export.convert:
        for value in (False, True, 0, 1, np.False_):
            function(*arguments, **{name: value})


# --- what is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "normal"),
    [
        ("stride", 2, (2, 2)),
        ("stride", [2, 1], (2, 1)),
        ("stride", (1, np.int32(2)), (1, 2)),
        ("dilation", np.int64(1), (1, 1)),
        ("padding", 1, (1, 1, 1, 1)),
        ("padding", [1, 2], (1, 1, 2, 2)),
        ("padding", (1, 2, 3, np.uint8(4)), (1, 2, 3, 4)),
        ("groups", np.int64(2), 2),
        ("deformable_groups", np.int32(2), 2),
        ("im2col_step", np.int64(3), 3),
        ("stride", np.array([2, 1]), (2, 1)),
        ("dilation", np.array(2, "uint8"), (2, 2)),
        ("padding", np.array([1, 2, 3, 4], "int32"), (1, 2, 3, 4)),
        ("padding", [np.array(1), paddle.to_tensor(2)], (1, 1, 2, 2)),
        ("groups", paddle.to_tensor(2), 2),
        ("deformable_groups", paddle.to_tensor(2, "int32"), 2),
    ],
)
def test_parameters_are_normalised(name, value, normal):
    valid = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "deformable_groups": 1}
    result = getattr(_checks.check_attributes(**valid | {name: value}), name)
    assert result == normal
    assert all(type(item) is int for item in (result if isinstance(result, tuple) else [result]))


def test_an_accepted_int_does_not_let_its_equals_in():
    """1, True and 1.0 are the same key of a cache."""
    deform_conv2d(**call_with(full, {"groups": 2}))
    for value in (2.0, np.float32(2)):
        with pytest.raises(TypeError):
            deform_conv2d(**call_with(full, {"groups": value}))


@pytest.mark.parametrize("offset", _checks.DTYPES)
@pytest.mark.parametrize("mask", _checks.DTYPES)
@pytest.mark.parametrize("x", _checks.DTYPES)
def test_dtypes(x, offset, mask, monkeypatch):
    """Offset and mask are of x's dtype or float32; the operator gets both in the wider one."""
    calls = []
    monkeypatch.setattr(_ops, "deform_conv2d", calls.append)
    overrides = {name: Typed(x) for name in ("x", "weight", "bias")}
    arguments = call_with(full, overrides | {"offset": Typed(offset), "mask": Typed(mask)})
    if {offset, mask} <= {x, "float32"}:
        deform_conv2d(**arguments)
        wide = offset if offset == mask else "float64" if x == "float64" else "float32"
        dtypes = [str(tensor.dtype).split(".")[1] for tensor in calls[0][:5]]
        assert dtypes == [x, wide, wide, x, x]
    else:
        with pytest.raises(
            TypeError, match=f"^(offset|mask): expected dtype {x}.* .x is {x}.*, got"
        ):
            deform_conv2d(**arguments)


@needs_paddle_3
def test_an_empty_batch_is_valid():
    overrides = {name: (0, *SHAPES[name][1:]) for name in ("x", "offset", "mask")}
    assert list(deform_conv2d(**call_with(full, overrides)).shape) == [0, 6, 5, 6]
