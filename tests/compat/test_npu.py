"""compat.npu: the vendor's example, both layouts by index formulas, both results, errors."""

import inspect

import numpy as np
import paddle
import pytest

from paddle_dcn import deform_conv2d
from paddle_dcn.compat.npu import npu_deformable_conv2d
from tests.support.cases import Case, pair
from tests.support.comparison import assert_close
from tests.support.operators import to_tensor
from tests.support.oracle import _bilinear, loop
from tests.support.programs import needs_paddle_3, static_program

STRIDED = Case(
    2, 4, (5, 6), 6, kernel=(2, 3), stride=(2, 1), padding=(1, 0, 2, 1), deformable_groups=2
)
DILATED = Case(
    1, 6, (6, 5), 4, padding=1, dilation=(1, 2), groups=2, deformable_groups=3, bias=False
)
TABLE = [STRIDED, DILATED, Case(2, 3, (4, 4), 3, kernel=1, groups=3)]


def distinct(rng, *shape):
    """Values from -2 to 2, no two of them the same."""
    size = np.prod(shape)
    return (rng.permutation(size) - size / 2 + 0.25).reshape(shape) * (4 / size)


def problem(case):
    """Make arrays for deform_conv2d, all NCHW, with nothing but different values in each."""
    rng = np.random.default_rng(1)
    planes = case.deformable_groups * np.prod(pair(case.kernel))
    return {
        "x": distinct(rng, case.batch, case.channels, *case.size),
        "offset": distinct(rng, case.batch, 2 * planes, *case.out_size),
        "mask": distinct(rng, case.batch, planes, *case.out_size),
        "weight": distinct(rng, case.outputs, case.channels // case.groups, *pair(case.kernel)),
        "bias": distinct(rng, case.outputs) if case.bias else None,
    }


def npu_inputs(case, arrays, data_format):
    """Put every entry where torch_npu's text says: its first three arguments."""
    channels_last = data_format == "NHWC"
    x, weight = arrays["x"], arrays["weight"]
    batch, channels, height, width = x.shape
    outputs, group_channels, kh, kw = weight.shape
    groups, (rows, columns) = case.deformable_groups, case.out_size

    self = np.zeros([batch, height, width, channels] if channels_last else x.shape)
    for n, c, i, j in np.ndindex(x.shape):
        self[(n, i, j, c) if channels_last else (n, c, i, j)] = x[n, c, i, j]
    filters = np.zeros([kh, kw, group_channels, outputs] if channels_last else weight.shape)
    for m, c, a, b in np.ndindex(weight.shape):
        filters[(a, b, c, m) if channels_last else (m, c, a, b)] = weight[m, c, a, b]
    planes = 3 * groups * kh * kw
    moves = np.zeros(
        [batch, rows, columns, planes] if channels_last else [batch, planes, rows, columns]
    )
    for n, g, a, b, i, j in np.ndindex(batch, groups, kh, kw, rows, columns):
        tap = (g * kh + a) * kw + b
        dy, dx = arrays["offset"][n, 2 * tap : 2 * tap + 2, i, j]
        for field, value in enumerate((dx, dy, arrays["mask"][n, tap, i, j])):
            plane = ((field * groups + g) * kh + a) * kw + b
            moves[(n, i, j, plane) if channels_last else (n, plane, i, j)] = value
    return self, filters, moves


def four(values, data_format):
    """(height, width) with ones for N and C."""
    height, width = pair(values)
    return [1, 1, height, width] if data_format == "NCHW" else [1, height, width, 1]


def call(case, self, weight, offset, bias, data_format="NCHW", **more):
    return npu_deformable_conv2d(
        self,
        weight,
        offset,
        bias,
        list(pair(case.kernel)),
        four(case.stride, data_format),
        list(case.pads),
        four(case.dilation, data_format),
        case.groups,
        case.deformable_groups,
        data_format=data_format,
        **more,
    )


def tensors(*arrays, dtype="float64"):
    return [None if array is None else to_tensor(array, dtype, True) for array in arrays]


def samples_loop(case, arrays):
    """Make the second result, NCHW, tap by tap for the channels of a deformable group."""
    (kh, kw), (rows, columns), groups = pair(case.kernel), case.out_size, case.deformable_groups
    samples = np.zeros([case.batch, case.channels, rows * kh, columns * kw])
    for n, g, i, j, a, b in np.ndindex(case.batch, groups, rows, columns, kh, kw):
        tap = (g * kh + a) * kw + b
        dy, dx = arrays["offset"][n, 2 * tap : 2 * tap + 2, i, j]
        y = i * pair(case.stride)[0] - case.pads[0] + a * pair(case.dilation)[0] + dy
        x = j * pair(case.stride)[1] - case.pads[2] + b * pair(case.dilation)[1] + dx
        members = slice(g * case.channels // groups, (g + 1) * case.channels // groups)
        mask = 1.0 if arrays["mask"] is None else arrays["mask"][n, tap, i, j]
        samples[n, members, i * kh + a, j * kw + b] = mask * _bilinear(
            arrays["x"][n, members], y, x
        )
    return samples


@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", TABLE, ids=str)
def test_both_results(case, data_format, modulated):
    arrays = problem(case)
    inputs = npu_inputs(case, arrays, data_format)
    results = call(case, *tensors(*inputs, arrays["bias"]), data_format, modulated=modulated)
    if not modulated:
        arrays["mask"] = None
    out, samples = (result.numpy() for result in results)
    if data_format == "NHWC":
        out, samples = out.transpose(0, 3, 1, 2), samples.transpose(0, 3, 1, 2)
    assert_close(out, loop(case, arrays), "float64", case.depth["out"], "output")

    assert_close(samples, samples_loop(case, arrays), "float64", 4, "samples")


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_gradients(data_format):
    """Through the first result as deform_conv2d's; through the second, convolved, the same."""
    case = DILATED
    arrays = problem(case)
    through = []
    for second in (False, True):
        inputs = tensors(*npu_inputs(case, arrays, data_format))
        out, samples = call(case, *inputs, None, data_format)
        if second:
            weight = inputs[1]
            if data_format == "NHWC":
                weight, samples = weight.transpose([3, 2, 0, 1]), samples.transpose([0, 3, 1, 2])
            taps = pair(case.kernel)
            out = paddle.nn.functional.conv2d(samples, weight, stride=taps, groups=case.groups)
            out = out.transpose([0, 2, 3, 1]) if data_format == "NHWC" else out
        (out * out.detach().cos()).sum().backward()
        through.append([tensor.grad.numpy() for tensor in inputs])

    names = ("x", "offset", "mask", "weight")
    standard = dict(zip(names, tensors(*(arrays[name] for name in names))))
    out = deform_conv2d(**standard, **case.attributes())
    (out * out.detach().cos()).sum().backward()
    gradients = {name: tensor.grad.numpy() for name, tensor in standard.items()}
    wanted = npu_inputs(case, gradients, data_format)
    for found in through:
        for name, actual, expected in zip(("x", "weight", "offset"), found, wanted):
            assert_close(actual, expected, "float64", case.depth[name], name)


def test_documented_example():
    """torch_npu's example, torch.rand being paddle.rand; values by paddle_dcn.deform_conv2d."""
    x = paddle.rand([16, 32, 32, 32])
    weight = paddle.rand([32, 32, 5, 5])
    offset = paddle.rand([16, 75, 32, 32])
    output, samples = npu_deformable_conv2d(
        x, weight, offset, None, kernel_size=[5, 5], stride=[1, 1, 1, 1], padding=[2, 2, 2, 2]
    )
    assert list(output.shape) == [16, 32, 32, 32] and list(samples.shape) == [16, 32, 160, 160]
    moves = paddle.stack([offset[:, 25:50], offset[:, :25]], 2).reshape([16, 50, 32, 32])
    wanted = deform_conv2d(x, moves, weight, padding=2, mask=offset[:, 50:])
    np.testing.assert_array_equal(output.numpy(), wanted.numpy())
    again = paddle.nn.functional.conv2d(samples, weight, stride=5)
    np.testing.assert_allclose(again.numpy(), wanted.numpy(), rtol=1e-4)
    first, none = npu_deformable_conv2d(
        x, weight, offset, None, [5, 5], [1] * 4, [2] * 4, with_deformable_offset=False
    )
    assert none is None
    np.testing.assert_array_equal(first.numpy(), output.numpy())


def test_signature():
    names = "self weight offset bias kernel_size stride padding dilation groups deformable_groups"
    parameters = inspect.signature(npu_deformable_conv2d).parameters
    assert list(parameters)[:11] == [*names.split(), "modulated"]
    assert [p.default for p in parameters.values()][7:11] == [(1, 1, 1, 1), 1, 1, True]
    assert parameters["data_format"].default == "NCHW"


def test_offset_without_masks():
    """v1 takes the two planes of x and y, with or without the third."""
    case = DILATED
    arrays = problem(case)
    self, weight, offset = tensors(*npu_inputs(case, arrays, "NCHW"))
    planes = offset.shape[1] // 3
    both = [
        call(case, self, weight, moves, None, modulated=False)
        for moves in (offset, offset[:, : 2 * planes])
    ]
    for one, other in zip(*both):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype):
    """The samples are rounded once; each pick is exact."""
    case = STRIDED
    inputs = npu_inputs(case, problem(case), "NCHW")
    low = [tensor.detach() for tensor in tensors(*inputs, dtype=dtype)]
    wanted = call(case, *(tensor.astype("float64") for tensor in low), None)
    for actual, expected, depth in zip(call(case, *low, None), wanted, (case.depth["out"], 4)):
        assert actual.dtype == low[0].dtype
        assert_close(actual.astype("float64").numpy(), expected.numpy(), dtype, depth, "result")


@needs_paddle_3  # Paddle 2.6 cannot stack or fold empty tensors
def test_empty_batch():
    output, samples = npu_deformable_conv2d(
        paddle.zeros([0, 4, 5, 5]),
        paddle.zeros([6, 4, 3, 3]),
        paddle.zeros([0, 27, 5, 5]),
        None,
        (3, 3),
        (1, 1, 1, 1),
        (1, 1, 1, 1),
    )
    assert list(output.shape) == [0, 6, 5, 5] and list(samples.shape) == [0, 4, 15, 15]


VALID = {
    "self": (2, 4, 5, 5),
    "weight": (6, 4, 3, 3),
    "offset": (2, 54, 5, 5),
    "bias": None,
    "kernel_size": [3, 3],
    "stride": [1, 1, 1, 1],
    "padding": [1, 1, 1, 1],
    "deformable_groups": 2,
}
NHWC = {
    "self": (2, 5, 5, 4),
    "weight": (3, 3, 4, 6),
    "offset": (2, 5, 5, 54),
    "data_format": "NHWC",
}
ERRORS = [
    ("stride: expected 4 ints (NCHW), got 2 (int)", {"stride": 2}, TypeError),
    (
        "stride: expected 4 ints (NCHW), got a number of thousands of digits (int)",
        {"stride": 10**5000},
        TypeError,
    ),
    ("stride: expected 4 ints (NCHW), got [1, 1]", {"stride": [1, 1]}, ValueError),
    (
        "stride: expected 1 for N and C (NCHW), got [1, 2, 2, 1]",
        {"stride": [1, 2, 2, 1]},
        ValueError,
    ),
    (
        "stride: expected 1 for N and C (NHWC), got [1, 1, 2, 2]",
        NHWC | {"stride": [1, 1, 2, 2]},
        ValueError,
    ),
    (
        "dilation: expected 1 for N and C (NCHW), got [2, 1, 1, 1]",
        {"dilation": [2, 1, 1, 1]},
        ValueError,
    ),
    ("dilation: expected positive, got [1, 1, 0, 1]", {"dilation": [1, 1, 0, 1]}, ValueError),
    (
        "padding: expected 4 ints (top, bottom, left, right), got [1, 1]",
        {"padding": [1, 1]},
        ValueError,
    ),
    ("padding: expected non-negative, got [1, 1, -1, 1]", {"padding": [1, 1, -1, 1]}, ValueError),
    (
        "kernel_size: expected (3, 3), that of weight, got [5, 5]",
        {"kernel_size": [5, 5]},
        ValueError,
    ),
    (
        "offset: expected 54 channels (3 * deformable_groups 2 * kernel 3x3), got 36",
        {"offset": (2, 36, 5, 5)},
        ValueError,
    ),
    (
        "offset: expected 54 or 36 channels (3 * deformable_groups 2 * kernel 3x3), got 18",
        {"offset": (2, 18, 5, 5), "modulated": False},
        ValueError,
    ),
    (
        "offset: expected 5 rows ((5 + 1 + 1 - (1 * (3 - 1) + 1)) // 1 + 1), got 4",
        {"offset": (2, 54, 4, 5)},
        ValueError,
    ),
    ("self: expected 4-D [N, C, H, W], got 3-D [4, 5, 5]", {"self": (4, 5, 5)}, ValueError),
    ("self: expected 4-D [N, H, W, C], got 1-D [4]", NHWC | {"self": (4,)}, ValueError),
    (
        "weight: expected 4-D [kh, kw, C / groups, M], got 1-D [4]",
        NHWC | {"weight": (4,)},
        ValueError,
    ),
    ("groups: expected a divisor of 4 (channels of self), got 3", {"groups": 3}, ValueError),
    ("data_format: expected 'NCHW' or 'NHWC', got 'HWCN'", {"data_format": "HWCN"}, ValueError),
]


@pytest.mark.parametrize("message, changed, kind", ERRORS, ids=[row[0] for row in ERRORS])
def test_errors(message, changed, kind):
    arguments = {
        name: paddle.zeros(value) if name in ("self", "weight", "offset") else value
        for name, value in (VALID | changed).items()
    }
    with pytest.raises(kind) as caught:
        npu_deformable_conv2d(**arguments)
    assert str(caught.value) == message


@needs_paddle_3
def test_static_program():
    """The second result needs a known batch, the first does not."""
    case = STRIDED
    inputs = dict(zip(("x", "weight", "offset"), npu_inputs(case, problem(case), "NCHW")))
    inputs = {name: array.astype("float32") for name, array in inputs.items()}
    with static_program() as program:
        known = [paddle.static.data(name, array.shape) for name, array in inputs.items()]
        x, weight, offset = known
        open_x, open_offset = (
            paddle.static.data(f"open_{t.name}", [-1, *t.shape[1:]]) for t in (x, offset)
        )
        with pytest.raises(ValueError, match="self, offset: expected known sizes"):
            call(case, open_x, weight, open_offset, None)
        results = [
            *call(case, *known, None),
            call(case, open_x, weight, open_offset, None, with_deformable_offset=False)[0],
        ]
        feed = inputs | {f"open_{name}": inputs[name] for name in ("x", "offset")}
        executor = paddle.static.Executor(paddle.CPUPlace())
        output, samples, again = executor.run(program, feed=feed, fetch_list=results)
    wanted = call(case, *map(paddle.to_tensor, inputs.values()), None)
    for actual, expected in zip((output, samples, again), (*wanted, wanted[0])):
        np.testing.assert_array_equal(actual, expected.numpy())
