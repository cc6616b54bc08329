"""The operator's output against the float64 reference, ONNX and ONNX Runtime."""

import functools
import json
import pathlib

import numpy as np
import paddle
import pytest

from paddle_dcn import deform_conv2d, deform_conv2d_reference
from tests.support.cases import TABLE, Case, pair
from tests.support.comparison import assert_close, assert_results_close
from tests.support.operators import expected, require_precision, run, to_array, to_tensor
from tests.support.oracle import loop
from tests.support.problems import DTYPE_IDS, DTYPES, inside_problem, random_problem

DOUBLE = ("float64", "float64")
ONNX = json.loads((pathlib.Path(__file__).parent / "onnx_deform_conv.json").read_text())


def forward(case, dtypes=("float32", "float32"), arrays=None, function=deform_conv2d):
    return run(function, case, arrays or random_problem(case, dtypes[0]), dtypes, backward=False)[
        "out"
    ]


@pytest.mark.parametrize("case", TABLE, ids=str)
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_table(case, dtypes, device):
    out = forward(case, dtypes)
    if case.batch == 0:
        assert out.shape == (0, case.outputs, *case.out_size)
    else:
        assert_close(out, expected(case, dtypes[0])["out"], dtypes[0], case.depth["out"], "out")


@pytest.mark.parametrize("vector", ONNX["cases"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnx_vectors(vector, dtype, implementation, device):
    arrays = {
        name: np.array(vector[name]["data"], dtype).reshape(vector[name]["shape"])
        for name in ("x", "offset", "mask", "weight", "bias", "y")
        if vector[name]
    }
    wanted = arrays.pop("y")
    top, left, bottom, right = vector["pads_tlbr"]
    out = implementation(
        **{name: paddle.to_tensor(array) for name, array in arrays.items()},
        padding=(top, bottom, left, right),
        deformable_groups=vector["deformable_groups"],
        groups=vector["groups"],
    )
    assert_close(to_array(out), wanted.astype("float64"), dtype, arrays["weight"][0].size, "out")


def onnx_model(case, arrays):
    """Make a model of one DeformConv node."""
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    names = [name for name in ("x", "weight", "offset", "bias", "mask") if name in arrays]
    top, bottom, left, right = case.pads
    node = onnx.helper.make_node(
        "DeformConv",
        [name if name in arrays else "" for name in ("x", "weight", "offset", "bias", "mask")],
        ["y"],
        kernel_shape=pair(case.kernel),
        strides=pair(case.stride),
        pads=(top, left, bottom, right),
        dilations=pair(case.dilation),
        group=case.groups,
        offset_group=case.deformable_groups,
    )
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "deform_conv",
        [onnx.helper.make_tensor_value_info(n, kind, arrays[n].shape) for n in names],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
    )
    opsets = [onnx.helper.make_opsetid("", 19)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    "case",
    [c for c in TABLE if c.batch and c.offsets != "nonfinite" and c.data_format == "NCHW"],
    ids=str,
)
def test_onnxruntime(case):
    runtime = pytest.importorskip(
        "onnxruntime", minversion="1.25", reason="pip install 'onnxruntime>=1.25' onnx"
    )
    arrays = {
        n: a.astype("float32") for n, a in random_problem(case, "float32").items() if a is not None
    }
    del arrays["grad"]
    session = runtime.InferenceSession(onnx_model(case, arrays), providers=["CPUExecutionProvider"])
    wanted = session.run(None, arrays)[0].astype("float64")
    # Both sides are rounded.
    assert_close(forward(case), wanted, "float32", 4 * case.depth["out"], "out")


@pytest.mark.parametrize("size", [(5, 7), (7, 5)])
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_far_padding_and_dilation(size, dtypes, device):
    """The second tap lies on the image; 2**24 + 1, where the first does, is not in float32."""
    far = 2**24 + 1
    for axis in (0, 1):
        kernel, dilation, padding = [1, 1], [1, 1], [0, 0, 0, 0]
        kernel[axis], dilation[axis], padding[2 * axis] = 2, far, far
        case = Case(2, 6, size, 8, tuple(kernel), 1, tuple(padding), tuple(dilation))
        results = run(deform_conv2d, case, random_problem(case, dtypes[0]), dtypes)
        assert_results_close(results, expected(case, dtypes[0]), case, dtypes)


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_any_fraction(dtypes, device):
    """Offsets with all the bits of their dtype."""
    case = Case(2, 12, (23, 30), 7, padding=2, deformable_groups=2)
    arrays = random_problem(case)
    offset = np.random.default_rng(1).normal(0, 2, arrays["offset"].shape)
    arrays["offset"] = to_array(to_tensor(offset, dtypes[1]))
    wanted = forward(case, DOUBLE, arrays, deform_conv2d_reference)
    # Coordinates below 32 are rounded to 16 eps, and x changes by about 2 from pixel to pixel.
    depth = case.depth["out"] * (16 * 2) ** 2
    assert_close(forward(case, dtypes, arrays), wanted, dtypes[0], depth, "out")


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -np.inf, 300, -300, 2**31, -(2**31), 2**32,
                                    2**63, -(2**63), 1e10, -1e10, 1e30, 3e38, -3e38])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["y", "x", "both"])
def test_nothing_is_read_for_samples_beyond_the_image(beyond, dtype, axes, implementation):
    case = Case(2, 6, (5, 6), 4, padding=1, groups=2, deformable_groups=3, offsets="zero")
    arrays = random_problem(case)
    arrays["x"] = np.full_like(arrays["x"], np.nan)
    for axis in axes:
        arrays["offset"][:, axis::2] = beyond
    results = run(implementation, case, arrays, (dtype, dtype))
    bias = arrays["bias"].reshape(1, -1, 1, 1)
    assert np.array_equal(results.pop("out"), np.broadcast_to(bias, arrays["grad"].shape))
    del results["bias"]
    assert not any(gradient.any() for gradient in results.values())


@functools.cache
def with_one_value(case, name, value):
    """A problem with the value in the middle of a tensor, and its output by the loop."""
    arrays = inside_problem(case)
    arrays[name][tuple(size // 2 for size in arrays[name].shape)] = value
    return arrays, loop(case, arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "mask", "weight", "bias"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("outputs", [6, 40])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nonfinite_values_spread_as_in_a_convolution(name, value, outputs, dtypes, implementation):
    """To the outputs that use the value, and to no other."""
    case = Case(2, 6, (9, 8), outputs, groups=2, deformable_groups=3)
    arrays, wanted = with_one_value(case, name, value)
    assert 0 < np.isfinite(wanted).sum() < wanted.size
    out = forward(case, dtypes, arrays, implementation)
    assert_close(out, wanted, dtypes[0], case.depth["out"], "out")


@pytest.mark.parametrize("tiny", [-0.0, 2.0**-149, -(2.0**-149), 2.0**-1074, -(2.0**-1074)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormal_offsets(tiny, dtype, implementation):
    """They move a sample by nothing, but one on row or column 0 into the zeros before it."""
    case = Case(2, 6, (5, 6), 4, padding=1, groups=2, deformable_groups=3, offsets="zero")
    arrays = random_problem(case)
    wanted = forward(case, DOUBLE, arrays, deform_conv2d_reference)
    arrays["offset"] = np.full_like(arrays["offset"], tiny)
    out = forward(case, (dtype, dtype), arrays, implementation)
    assert_close(out, wanted, dtype, case.depth["out"], "out")


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("x", "mask", "weight"),
    [(1e-30, 1, 1), (1e-36, 1, 1e6), (1e-20, 1, 1e-15), (1, 1, 1e-36), (1e-36, 1, 1e36),
     (1e36, 1, 1e-36), (1e37, 1, 1e-12), (1e30, 1, 1e4), (1e34, 1e3, 1e-10), (1e-20, 1e-20, 1e20),
     (1, 1e-37, 1e30), (1e-30, 1e30, 1), (1e30, 1e-30, 1e-5)],
)  # fmt: skip
def test_magnitudes(x, mask, weight, data_format, device):
    """All that float32 can hold, with bias and result of about x * mask * weight."""
    require_precision(device, x * mask, weight)
    case = Case(2, 64, (9, 10), 24, padding=1, deformable_groups=2, data_format=data_format)
    arrays = random_problem(case)
    scales = {"x": x, "mask": mask, "weight": weight, "bias": x * mask * weight}
    for name, scale in scales.items():
        arrays[name] = (arrays[name] * scale).astype("float32").astype("float64")
    wanted = forward(case, DOUBLE, arrays, deform_conv2d_reference)
    out = forward(case, ("float32", "float32"), arrays)
    assert_close(out, wanted, "float32", case.depth["out"], "out")


@pytest.mark.parametrize("dtypes", DTYPES, ids=DTYPE_IDS)
def test_nothing_of_an_earlier_call_is_left(dtypes, device):
    """Not even NaN, in memory that a call leaves for the next."""
    before = Case(1, 64, (40, 40), 64, padding=1)
    arrays = random_problem(before)
    arrays["x"] = np.full_like(arrays["x"], np.nan)
    forward(before, dtypes, arrays)
    case = Case(1, 6, (40, 40), 40, padding=1, groups=2)
    assert np.isfinite(forward(case, dtypes, random_problem(case))).all()


def test_inputs_are_left_alone(device):
    case = Case(2, 6, (7, 5), 4, padding=1, groups=2, deformable_groups=3)
    arrays = random_problem(case)
    tensors = {name: to_tensor(array, "float32") for name, array in arrays.items()}
    del tensors["grad"]
    deform_conv2d(**tensors, **case.attributes())
    for name, tensor in tensors.items():
        assert np.array_equal(to_array(tensor), arrays[name]), name
