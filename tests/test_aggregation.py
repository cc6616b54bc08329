"""dcnv3, dcnv4 and their layers: values, gradients, modes, dtypes, refusals."""

import copy
import pickle

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from benchmarks import aggregation as bench
from paddle_dcn import DCNv3, DCNv4, dcnv3, dcnv4
from paddle_dcn.functional import watchers
from tests.support.aggregation import (
    Case,
    call,
    check,
    expected,
    formula,
    pack,
    problem,
    run,
    sampling_arrays,
    unpacked,
)
from tests.support.amp import auto_cast
from tests.support.comparison import EPSILON
from tests.support.operators import to_array, to_tensor
from tests.support.problems import DTYPE_IDS, DTYPES
from tests.support.programs import needs_paddle_3, static_program

PLAIN = Case()
SCALED = Case(size=(6, 7), channels=6, group=3, offset_scale=0.5, dilation=(2, 1), pad=(2, 1))
CENTERLESS = Case(remove_center=True, offset_scale=2.0, nonfinite=True)
CASES = [
    PLAIN,
    SCALED,
    CENTERLESS,
    Case(remove_center=True, pad=(0, 0), stride=(2, 1)),
    Case(remove_center=True, kernel=(5, 5), pad=(4, 1), dilation=(2, 1), batch=1),
    Case(
        size=(8, 9), kernel=(2, 3), stride=(2, 1), pad=(0, 2), dilation=(2, 1), channels=5, group=1
    ),
    Case(kernel=(4, 2), pad=(2, 1), dilation=(1, 3), offset_scale=1.5),
    Case(kernel=(1, 1), pad=(0, 0), channels=20, group=20),
    Case(channels=96, group=3, size=(5, 4), nonfinite=True),
    Case(batch=0),
]
VERSIONS = ("dcnv3", "dcnv4")


# --- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_formula(case, version, device):
    check(case, run(case, version))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", [PLAIN, SCALED, CENTERLESS], ids=["plain", "scaled", "centerless"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_dtypes(dtypes, case, version, device):
    check(case, run(case, version, dtypes), dtypes)


def test_offset_mask_need_not_be_padded():
    arrays = problem(SCALED)
    input = paddle.to_tensor(arrays["input"])
    packed = paddle.to_tensor(pack(SCALED, arrays["offset"], arrays["mask"]))
    assert packed.shape[-1] == 81
    out = dcnv4(input, packed, *SCALED.arguments)
    check(SCALED, {**expected(SCALED), "out": out.numpy()})
    padded = paddle.to_tensor(pack(SCALED, arrays["offset"], arrays["mask"], padding=7))
    np.testing.assert_array_equal(dcnv4(input, padded, *SCALED.arguments).numpy(), out.numpy())


def test_a_center_that_is_left_out_is_not_read():
    image = paddle.zeros([1, 9, 9, 2])
    image[0, 4, 4] = float("nan")
    for taps, removed in ((9, False), (8, True)):
        offset, mask = paddle.zeros([1, 9, 9, 2 * taps]), paddle.ones([1, 9, 9, taps])
        around = {"pad_h": 3, "pad_w": 3, "dilation_h": 3, "dilation_w": 3}
        out = dcnv3(image, offset, mask, **around, remove_center=removed)
        assert bool(paddle.isnan(out[0, 4, 4, 0])) is not removed
        assert paddle.isnan(out[0, 4, 7, 0])  # another tap's


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", [SCALED, CENTERLESS], ids=["scaled", "centerless"])
def test_watchers_see_the_order_of_the_operator(case, version):
    seen = []
    watchers.append(lambda call: seen.append(call) or call)
    try:
        found = run(case, version)
    finally:
        watchers.pop()
    check(case, found)
    taps = 8 if case.remove_center else 9
    assert [call.offset.shape for call in seen] == [[2, 2 * taps * case.group, *case.out_size]]
    assert [call.mask.shape for call in seen] == [[2, taps * case.group, *case.out_size]]


@pytest.mark.parametrize("case", [c for c in CASES if c.batch and not c.nonfinite], ids=str)
def test_pytorch_form(case):
    """The form by grid_sample, of which the benchmark measures ours against, has these values."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    arrays = {n: torch.tensor(a, requires_grad=n != "grad") for n, a in problem(case).items()}
    tensors = [arrays[name] for name in ("input", "offset", "mask")]
    out = bench.pytorch_form(*tensors, *case.arguments)
    gradients = torch.autograd.grad(out, tensors, arrays["grad"])
    results = dict(zip(("input", "offset", "mask"), (g.numpy() for g in gradients)))
    found = {"out": out.detach().numpy(), **results}
    for name, array in expected(case).items():
        if name != "offset":  # of which grid_sample decides otherwise between two cells
            # It scales positions to -1..1 and back, which rounds them.
            np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)


def test_defaults_are_a_3x3_kernel():
    input, offset, mask = (paddle.rand([1, 6, 5, n]) for n in (4, 18, 9))
    given = dcnv3(input, offset, mask, 3, 3, 1, 1, 1, 1, 1, 1, 1, 4, 1.0, 64, False)
    np.testing.assert_array_equal(dcnv3(input, offset, mask).numpy(), given.numpy())


# --- modes ---------------------------------------------------------------------------------------


@needs_paddle_3
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static(full_graph, version):
    arguments = CENTERLESS.arguments

    def traced(tensors):
        return (dcnv3 if version == "dcnv3" else dcnv4)(*tensors, *arguments)

    compiled = paddle.jit.to_static(traced, full_graph=full_graph)
    function = lambda version, case, **tensors: compiled([*tensors.values()])  # noqa: E731
    found = run(CENTERLESS, version, function=function)
    for name, array in run(CENTERLESS, version).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@needs_paddle_3
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", [PLAIN, CENTERLESS], ids=["plain", "centerless"])
def test_program_with_open_sizes(case, version):
    feed = {"input": problem(case)["input"], **sampling_arrays(case, version)}
    with static_program() as program:
        tensors = {
            n: paddle.static.data(n, [-1, -1, -1, a.shape[3]], "float64") for n, a in feed.items()
        }
        for tensor in tensors.values():
            tensor.stop_gradient = False
        out = call(version, case, **tensors)
        grad = paddle.static.data("grad", [-1, -1, -1, case.channels], "float64")
        gradients = paddle.static.gradients((out * grad).sum(), [*tensors.values()])
        values = paddle.static.Executor().run(
            program, feed=feed | {"grad": problem(case)["grad"]}, fetch_list=[out, *gradients]
        )
    check(case, unpacked(case, dict(zip(["out", *tensors], values))))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "state", [{"level": "O1"}, {"level": "O2"}, {"black": ["conv2d"]}], ids=str
)
def test_amp_rounds_no_position(state, version):
    """The input is cast as that of conv2d is; float32 offsets and masks are not."""
    dtype = "float32" if "black" in state else "bfloat16"
    arrays = sampling_arrays(SCALED, version)
    arrays = {
        n: to_tensor(a + (2.0**-14 if "offset" in n else 0), "float32") for n, a in arrays.items()
    }
    input = to_tensor(problem(SCALED)["input"], "float32")
    with auto_cast(dtype="bfloat16", **state):
        out = call(version, SCALED, input=input, **arrays)
    wanted = call(version, SCALED, input=input.astype(dtype), **arrays)
    assert out.dtype == wanted.dtype
    np.testing.assert_array_equal(to_array(out), to_array(wanted))


def test_second_derivatives():
    """The sum over dx of the squared gradient of x, against its own central difference."""
    arrays = {n: to_tensor(a, "float64", n != "grad") for n, a in problem(SCALED).items()}

    def slope(mask):
        out = dcnv3(arrays["input"], arrays["offset"], mask, *SCALED.arguments)
        (gradient,) = paddle.grad(
            [(out * arrays["grad"]).sum()], [arrays["input"]], create_graph=True
        )
        return (gradient**2).sum()

    (found,) = paddle.grad([slope(arrays["mask"])], [arrays["mask"]])
    direction = paddle.randn(arrays["mask"].shape, "float64")
    ends = [slope(arrays["mask"] + sign * 0.5 * direction) for sign in (1, -1)]
    assert float((found * direction).sum()) == pytest.approx(float(ends[0] - ends[1]), rel=1e-9)


# --- refusals ------------------------------------------------------------------------------------

GOOD = {"input": [2, 7, 6, 8], "offset": [2, 7, 6, 36], "mask": [2, 7, 6, 18]}
V4_GOOD = {"input": [2, 7, 6, 8], "offset_mask": [2, 7, 6, 56]}
ROWS, COLUMNS = (f"({n} + 1 + 1 - (1 * (3 - 1) + 1)) // 1 + 1" for n in (7, 6))
SHAPES_REFUSED = [
    ("input", [7, 6, 8], "4-D [N, H, W, C], got 3-D [7, 6, 8]"),
    ("input", [2, 7, 6, 0], "positive channels, got 0"),
    ("input", [2, 0, 6, 8], "positive height, got 0"),
    ("offset", [2, 7, 6, 18], "36 channels (group 2 * taps 9 * 2), got 18"),
    ("offset", [2, 36, 7, 6], "36 channels (group 2 * taps 9 * 2), got 6"),
    ("offset", [1, 7, 6, 36], "2 images (batch of input), got 1"),
    ("offset", [2, 8, 6, 36], f"7 rows ({ROWS}), got 8"),
    ("mask", [2, 7, 6, 36], "18 channels (group 2 * taps 9 * 1), got 36"),
    ("mask", [2, 7, 5, 18], f"6 columns ({COLUMNS}), got 5"),
    ("mask", [2, 7, 18], "4-D [N, Ho, Wo, group * taps * 1], got 3-D [2, 7, 18]"),
    (
        "offset_mask",
        [2, 7, 6, 48],
        "54 channels (group 2 * taps 9 * 3, or that padded to 56), got 48",
    ),
    ("offset_mask", [2, 6, 7, 56], f"7 rows ({ROWS}), got 6"),
]


def refused(kind, message, function, *arguments, **keywords):
    with pytest.raises(kind) as caught:
        function(*arguments, **keywords)
    assert type(caught.value) is kind and str(caught.value) == message


@pytest.mark.parametrize(("name", "shape", "expected"), SHAPES_REFUSED)
def test_shapes_are_refused(name, shape, expected):
    for function, good in ((dcnv3, GOOD), (dcnv4, V4_GOOD)):
        if name in good:
            tensors = {n: paddle.zeros(s) for n, s in (good | {name: shape}).items()}
            refused(ValueError, f"{name}: expected {expected}", function, **tensors, group=2)


def test_groups_that_do_not_divide():
    tensors = {n: paddle.zeros(s) for n, s in (GOOD | {"input": [2, 7, 6, 9]}).items()}
    message = "group: expected a divisor of 9 (channels of input), got 2"
    refused(ValueError, message, dcnv3, **tensors, group=2)


TENSORS_REFUSED = [
    ("input", None, "input: expected a paddle.Tensor, got None"),
    ("mask", None, "mask: expected a paddle.Tensor, got None"),
    ("offset", np.zeros([2, 7, 6, 36]), "offset: expected a paddle.Tensor, got numpy.ndarray"),
    ("input", "int32", "input: expected dtype float16, bfloat16, float32 or float64, got int32"),
    ("offset", "float64", "offset: expected dtype float32 (input is float32), got float64"),
    ("mask", "float16", "mask: expected dtype float32 (input is float32), got float16"),
]


@pytest.mark.parametrize(
    ("name", "value", "message"), TENSORS_REFUSED, ids=lambda row: str(row)[:40]
)
def test_tensors_are_refused(name, value, message):
    tensors = {n: paddle.zeros(s) for n, s in GOOD.items()}
    tensors[name] = tensors[name].astype(value) if isinstance(value, str) else value
    refused(TypeError, message, dcnv3, **tensors, group=2)


ARGUMENTS_REFUSED = [
    ("kernel_h", 0, ValueError, "positive, got 0"),
    ("kernel_w", (3, 3), TypeError, "an int, got (3, 3) (tuple)"),
    ("stride_h", 0, ValueError, "positive, got 0"),
    ("stride_w", 1.0, TypeError, "an int, got 1.0 (float)"),
    ("pad_h", -1, ValueError, "non-negative, got -1"),
    ("pad_w", None, TypeError, "an int, got None"),
    ("dilation_h", False, TypeError, "an int, got False (bool)"),
    ("dilation_w", 0, ValueError, "positive, got 0"),
    ("group", None, TypeError, "an int, got None"),
    ("group_channels", 0, ValueError, "positive, got 0"),
    ("offset_scale", "1", TypeError, "a number, got '1' (str)"),
    ("offset_scale", True, TypeError, "a number, got True (bool)"),
    ("offset_scale", float("nan"), ValueError, "a finite number, got nan"),
    ("offset_scale", 2**1024, ValueError, f"a finite number, got {2**1024}"),
    ("im2col_step", 0, ValueError, "positive, got 0"),
    ("remove_center", None, TypeError, "a bool, got None"),
    ("remove_center", 2, ValueError, "False or True, got 2"),
]


@pytest.mark.parametrize(("name", "value", "kind", "expected"), ARGUMENTS_REFUSED)
def test_arguments_are_refused(name, value, kind, expected):
    for function, shapes in ((dcnv3, GOOD), (dcnv4, V4_GOOD)):
        arguments = {n: paddle.zeros(shape) for n, shape in shapes.items()} | {
            "group": 2,
            name: value,
        }
        refused(kind, f"{name}: expected {expected}", function, **arguments)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 4), (1, 1)])
def test_kernels_without_a_center(height, width):
    tensors = [paddle.zeros(shape) for shape in GOOD.values()]
    message = (
        "remove_center: expected False, as only square, odd kernels from 3x3 have a center "
        f"(kernel {height}x{width}), got True"
    )
    refused(ValueError, message, dcnv3, *tensors, height, width, remove_center=True)


def test_group_channels():
    tensors = [paddle.zeros(shape) for shape in GOOD.values()]
    message = "input: expected 6 channels (group 2 * group_channels 3), got 8"
    refused(ValueError, message, dcnv3, *tensors, group=2, group_channels=3)


@needs_paddle_3
def test_open_channels_need_group_channels():
    with static_program():
        input = paddle.static.data("input", [None, None, None, None])
        offset, mask = (paddle.static.data(str(n), [None, None, None, n]) for n in (18, 9))
        message = "input: expected known channels, as group_channels is None, got [-1, -1, -1, -1]"
        refused(ValueError, message, dcnv3, input, offset, mask)
        assert list(dcnv3(input, offset, mask, group_channels=5).shape) == [-1, -1, -1, 5]


# --- layers --------------------------------------------------------------------------------------


def randomize(layer):
    rng = np.random.default_rng(0)
    for parameter in layer.parameters():
        if parameter.stop_gradient:
            continue  # the statistics of BN
        parameter.set_value(
            paddle.to_tensor(0.3 * rng.normal(0, 1, parameter.shape).astype("float32"))
        )
    return layer


V3_LAYERS = [
    {},
    {"center_feature_scale": True, "norm_layer": "BN", "act_layer": "SiLU", "dw_kernel_size": 5},
    {"remove_center": True, "offset_scale": 2.0, "kernel_size": 5, "pad": 4, "dilation": 2},
]
V4_LAYERS = [
    {},
    {"center_feature_scale": True, "dw_kernel_size": 3, "output_bias": False},
    {"remove_center": True, "without_pointwise": True, "offset_scale": 0.5},
]
LAYERS = [(DCNv3, keywords) for keywords in V3_LAYERS] + [
    (DCNv4, keywords) for keywords in V4_LAYERS
]


def build(kind, keywords):
    layer = randomize(kind(12, group=3, **keywords))
    layer.eval()  # which returns nothing in Paddle 3.0
    return layer


def features(kind, batch=2):
    rng = np.random.default_rng(1)
    shape = [batch, 6, 5, 12] if kind is DCNv3 else [batch, 30, 12]
    return paddle.to_tensor(rng.normal(0, 1, shape).astype("float32"))


def call_layer(layer, x):
    return layer(x) if isinstance(layer, DCNv3) else layer(x, (6, 5))


def by_hand(layer, x):
    """Compute a layer in NumPy, float64 and channels last, from the papers."""
    state = {name: value.numpy().astype("float64") for name, value in layer.state_dict().items()}
    x = x.numpy().astype("float64").reshape(-1, 6, 5, 12)
    kernel, pad, dilation = layer.kernel_size, layer.pad, layer.dilation
    case = Case(
        (6, 5), 12, 3, (kernel,) * 2, (1, 1), (pad,) * 2, (dilation,) * 2, layer.offset_scale,
        bool(layer.remove_center), len(x),
    )  # fmt: skip
    taps = len(case.taps)

    def linear(name, value):
        if f"{name}.weight" not in state:
            return value
        return value @ state[f"{name}.weight"] + state.get(f"{name}.bias", 0)

    def depthwise(name, value):
        weight = state[f"{name}.weight"][:, 0]
        half = weight.shape[-1] // 2
        padded = np.pad(value, [(0, 0), (half, half), (half, half), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[1:], (1, 2))
        return np.einsum("nijcpq,cpq->nijc", windows, weight) + state[f"{name}.bias"]

    still = linear("input_proj", linear("value_proj", x))
    if isinstance(layer, DCNv3):
        moved = depthwise("dw_conv.0", x)
        if "dw_conv.1.0.weight" in state:  # BN
            norm = {
                key: state[f"dw_conv.1.0.{key}"] for key in ("_mean", "_variance", "weight", "bias")
            }
            moved = (moved - norm["_mean"]) / np.sqrt(norm["_variance"] + 1e-5)
            moved = moved * norm["weight"] + norm["bias"]
            moved = moved / (1 + np.exp(-moved))
        else:
            moved = moved - moved.mean(-1, keepdims=True)
            moved = moved / np.sqrt((moved**2).mean(-1, keepdims=True) + 1e-6)
            moved = moved * state["dw_conv.1.1.weight"] + state["dw_conv.1.1.bias"]
            moved = functional.gelu(paddle.to_tensor(moved)).numpy()  # NumPy has no erf
        mask = linear("mask", moved).reshape(*moved.shape[:3], 3, taps)
        mask = np.exp(mask - mask.max(-1, keepdims=True))
        mask = mask / mask.sum(-1, keepdims=True)
        offset = linear("offset", moved)
    else:
        moved = depthwise("offset_mask_dw", x) if "offset_mask_dw.weight" in state else x
        packed = linear("offset_mask", moved)[..., : 9 * taps].reshape(*x.shape[:3], 3, 3 * taps)
        offset, mask = packed[..., : 2 * taps], packed[..., 2 * taps :]
    arrays = {"input": still, "offset": offset, "mask": mask, "grad": np.zeros(x.shape)}
    out = formula(case, arrays)["out"]
    if layer.center_feature_scale:
        source = moved if isinstance(layer, DCNv3) else out
        share = source @ state["center_feature_scale_proj_weight"].T
        share = 1 / (1 + np.exp(-share - state["center_feature_scale_proj_bias"]))
        share = np.repeat(share, 4, -1)
        out = out * (1 - share) + still * share
    return linear("output_proj", out)


@pytest.mark.parametrize(("kind", "keywords"), LAYERS, ids=str)
def test_layers_compute_the_papers_formula(kind, keywords):
    layer, x = build(kind, keywords).to(dtype="float64"), features(kind).astype("float64")
    found = call_layer(layer, x)
    assert found.shape == x.shape
    np.testing.assert_allclose(
        found.numpy().reshape(-1, 6, 5, 12), by_hand(layer, x), rtol=1e-9, atol=1e-9
    )
    (found**2).sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if not p.stop_gradient)


@needs_paddle_3
@pytest.mark.parametrize(("kind", "keywords"), LAYERS[1:5:3], ids=str)
def test_layers_are_traced(kind, keywords):
    layer, x = build(kind, keywords), features(kind)
    wanted = call_layer(layer, x).numpy()
    arguments = () if kind is DCNv3 else ((6, 5),)
    for full_graph in (True, False):
        traced = paddle.jit.to_static(copy.deepcopy(layer), full_graph=full_graph)
        np.testing.assert_array_equal(traced(x, *arguments).numpy(), wanted)


@pytest.mark.skipif(paddle.__version__ < "3.3", reason="its parameters cannot be pickled")
@pytest.mark.parametrize(("kind", "keywords"), LAYERS, ids=str)
def test_layers_are_pickled(kind, keywords):
    layer, x = build(kind, keywords), features(kind)
    again = pickle.loads(pickle.dumps(layer))
    again.set_state_dict(layer.state_dict())
    np.testing.assert_array_equal(call_layer(again, x).numpy(), call_layer(layer, x).numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "keywords"), LAYERS, ids=str)
def test_layers_of_half_types(kind, keywords, dtype):
    """Half types round what is projected and the results, but never a position."""
    layer, x = build(kind, keywords).to(dtype=dtype), features(kind).astype(dtype)
    wide = copy.deepcopy(layer).to(dtype="float64")
    wanted = by_hand(wide, x.astype("float64"))
    x.stop_gradient = False
    found = call_layer(layer, x)
    assert found.dtype == x.dtype and found.shape == x.shape
    # Rounded are: each projected value, each sum of samples, with center_feature_scale what it
    # becomes, each result. The first two are then summed up with random signs.
    limit = 4 * EPSILON[dtype] * np.abs(wanted).max()
    np.testing.assert_allclose(to_array(found).reshape(wanted.shape), wanted, rtol=0, atol=limit)
    layer.train()
    call_layer(layer, x).astype("float32").square().sum().backward()
    for tensor in (x, *(each for each in layer.parameters() if not each.stop_gradient)):
        assert tensor.grad.dtype == tensor.dtype and np.isfinite(to_array(tensor.grad)).all()


@needs_paddle_3
@pytest.mark.parametrize("kind", [DCNv3, DCNv4])
def test_layers_of_half_types_are_traced(kind):
    layer, x = build(kind, {}).to(dtype="float16"), features(kind).astype("float16")
    wanted = call_layer(layer, x).numpy()
    arguments = () if kind is DCNv3 else ((6, 5),)
    for full_graph in (True, False):
        traced = paddle.jit.to_static(copy.deepcopy(layer), full_graph=full_graph)
        np.testing.assert_array_equal(traced(x, *arguments).numpy(), wanted)


def test_positions_of_half_types_keep_their_bits():
    """An offset of 1/512 beside 2, which bfloat16 does not hold."""
    layer = DCNv4(2, 1, pad=0, group=1, without_pointwise=True).to(dtype="bfloat16")
    layer.offset_mask.weight.set_value(
        paddle.to_tensor([[2.0, 0, 1] + [0.0] * 5, [1 / 512, 0, 0] + [0.0] * 5]).astype("bfloat16")
    )
    ramp = paddle.zeros([1, 1, 4, 2])
    ramp[0, 0, 0], ramp[0, 0, 3, 0] = paddle.to_tensor([1.0, 1.0]), 512.0
    out = layer(ramp.astype("bfloat16").reshape([1, 4, 2]), (1, 4))
    assert out[0, 0, 0].item() == 1.0  # 1/512 of the way from 0 to 512


def test_half_types_train_batch_norm():
    layer = build(DCNv3, {"norm_layer": "BN"}).to(dtype="bfloat16")
    norm = layer.dw_conv[1][0]
    mean = to_array(norm._mean)
    layer.train()
    layer(features(DCNv3).astype("bfloat16"))
    assert np.abs(to_array(norm._mean) - mean).min() > 0 and norm._mean.dtype == paddle.bfloat16


def test_square_images_need_no_shape():
    layer, x = build(DCNv4, {}), features(DCNv4)[:, :25]
    np.testing.assert_array_equal(layer(x).numpy(), layer(x, shape=[5, 5]).numpy())


SIZE = "as outputs have the size of the input"
LAYER_ARGUMENTS_REFUSED = [
    ("group", 5, ValueError, "a divisor of 64 (channels), got 5"),
    ("stride", 2, ValueError, "1, as each pixel of the input samples for one of the output, got 2"),
    ("pad", 0, ValueError, f"dilation 1 * (kernel_size 3 - 1) / 2, {SIZE}, got 0"),
    ("kernel_size", (3, 3), TypeError, "an int, got (3, 3) (tuple)"),
    ("dw_kernel_size", 2, ValueError, "an odd number, which keeps the size of images, got 2"),
    ("offset_scale", None, TypeError, "a number, got None"),
]


@pytest.mark.parametrize(("name", "value", "kind", "expected"), LAYER_ARGUMENTS_REFUSED)
def test_layers_refuse_arguments(name, value, kind, expected):
    for layer in (DCNv3, DCNv4):
        refused(kind, f"{name}: expected {expected}", layer, **{name: value})


def test_even_kernels_have_no_pad():
    expected = f"dilation 1 * (kernel_size 4 - 1) / 2, {SIZE}"
    refused(ValueError, f"pad: expected {expected}, got 1", DCNv3, kernel_size=4)


def test_dcnv3_refuses_unknown_parts():
    message = "act_layer: expected 'ReLU' or 'SiLU' or 'GELU', got 'Tanh'"
    refused(ValueError, message, DCNv3, act_layer="Tanh")
    message = message.replace("'Tanh'", "['GELU'] (list)")
    refused(TypeError, message, DCNv3, act_layer=["GELU"])
    refused(TypeError, "norm_layer: expected 'LN' or 'BN', got None", DCNv3, norm_layer=None)


INPUTS_REFUSED = [
    (TypeError, lambda x: None, "a paddle.Tensor, got None"),
    (TypeError, lambda x: x.astype("float64"), "dtype float32 (that of the layer), got float64"),
    (ValueError, lambda x: x[0], "-D [N, H"),
    (ValueError, lambda x: x[..., :8], "12 channels (those of the layer), got 8"),
    (ValueError, lambda x: x[:, :0], "positive sizes, got [2, 0"),
]


@pytest.mark.parametrize(("error", "change", "expected"), INPUTS_REFUSED)
@pytest.mark.parametrize("kind", [DCNv3, DCNv4])
def test_layers_refuse_inputs(kind, error, change, expected):
    with pytest.raises(error) as caught:
        call_layer(build(kind, {}), change(features(kind)))
    assert str(caught.value).startswith("input: expected ") and expected in str(caught.value)


SIDES_REFUSED = [
    (ValueError, None, "(height, width), as the pixels are 30, no square, got None"),
    (ValueError, (5, 5), "a product of 30 (pixels of input), got [5, 5]"),
    (ValueError, (-6, -5), "positive, got [-6, -5]"),
    (TypeError, (6.0, 5), "(height, width) or None, got (6.0, 5) (tuple)"),
    (TypeError, 30, "(height, width) or None, got 30 (int)"),
]


@pytest.mark.parametrize(("kind", "shape", "expected"), SIDES_REFUSED)
def test_dcnv4_refuses_shapes(kind, shape, expected):
    refused(kind, f"shape: expected {expected}", build(DCNv4, {}), features(DCNv4), shape)
