"""The raw operators: what reaches them past Python's checks, and what Paddle does around them."""

import re

import numpy as np
import paddle
import pytest

from paddle_dcn import ModulatedDeformConv2DPack, _ops, deform_conv2d
from tests.support.cases import Case
from tests.support.operators import run
from tests.support.problems import TENSORS, random_problem
from tests.support.process import SCRIPTS, run_python
from tests.support.programs import needs_paddle_3, static_program

SHAPES = {
    "x": [2, 4, 5, 6],
    "offset": [2, 36, 5, 6],
    "mask": [2, 18, 5, 6],
    "weight": [6, 2, 3, 3],
    "bias": [6],
}
ATTRIBUTES = {
    "strides": [1, 1],
    "paddings": [1, 1, 1, 1],
    "dilations": [1, 1],
    "groups": 2,
    "deformable_groups": 2,
    "im2col_step": 0,
    "data_format": "NCHW",
    "wanted": 31,
}

UNIT_WEIGHT, PLANES_LAST = 32, 64  # bits of "wanted"


def random_tensors(**overrides):
    """Leaf tensors of SHAPES; an override is a shape, or (shape, dtype)."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in {**SHAPES, **overrides}.items():
        shape, dtype = shape if isinstance(shape, tuple) else (shape, "float64")
        tensors[name] = paddle.to_tensor(rng.normal(0, 1, shape)).astype(dtype).detach()
        tensors[name].stop_gradient = False
    return tensors


def call(tensors, modulated=True, **attributes):
    """Call the raw operator, in whatever mode Paddle is."""
    version, inputs = (2, SHAPES) if modulated else (1, [n for n in SHAPES if n != "mask"])
    values = {**ATTRIBUTES, **attributes}.values()
    return _ops.run_raw(f"paddle_dcn_v{version}", *(tensors[name] for name in inputs), *values)


# --- errors --------------------------------------------------------------------------------------

PLACE = paddle.framework._current_expected_place()
type_error = TypeError if paddle.__version__ >= "3" else ValueError

SHAPE_ERRORS = [
    ("x: expected 4 sizes, all but the first positive, got [2, 4, 30]", {"x": [2, 4, 30]}),
    ("x: expected 4 sizes, all but the first positive, got [2, 4, 5, 0]", {"x": [2, 4, 5, 0]}),
    (
        f"weight: expected float64 [6, 3, 3, 3] on {PLACE}, got float64 [6, 2, 3, 3]",
        {"x": [2, 6, 5, 6]},
    ),
    ("weight: expected 4 positive sizes, got [6, 2, 3, 0]", {"weight": [6, 2, 3, 0]}),
    ("weight: expected 4 positive sizes, got [6, 2, 9]", {"weight": [6, 2, 9]}),
    ("groups: expected a divisor of 5 channels and 6 filters, got 2", {"x": [2, 5, 5, 6]}),
    ("groups: expected a divisor of 4 channels and 5 filters, got 2", {"weight": [5, 2, 3, 3]}),
    *(
        (
            f"offset: expected float64 [2, 36, 5, 6] on {PLACE}, got float64 {shape}",
            {"offset": shape},
        )
        for shape in (
            [2, 18, 5, 6],
            [2, 37, 5, 6],
            [1, 36, 5, 6],
            [2, 36, 4, 6],
            [2, 36, 5, 5],
            [2, 36, 30],
        )
    ),
    *(
        (
            f"mask: expected float64 [2, 18, 5, 6] on {PLACE}, got float64 {shape}",
            {"mask": shape},
        )
        for shape in ([2, 9, 5, 6], [3, 18, 5, 6], [2, 18, 6, 6])
    ),
    (f"bias: expected float64 [6] on {PLACE}, got float64 [3]", {"bias": [3]}),
    (f"bias: expected float64 [6] on {PLACE}, got float64 [6, 1]", {"bias": [6, 1]}),
]
ATTRIBUTE_ERRORS = [
    # Paddle makes a list of one element of an int that is given for a list.
    ("strides: expected 2 ints of at least 1, got [1]", {"strides": 1}),
    ("dilations: expected 2 ints of at least 1, got [1]", {"dilations": 1}),
    ("paddings: expected 4 ints of at least 0, got [1]", {"paddings": 1}),
    ("paddings: expected 4 ints of at least 0, got [1, 1]", {"paddings": [1, 1]}),
    ("strides: expected 2 ints of at least 1, got [1, 0]", {"strides": [1, 0]}),
    ("dilations: expected 2 ints of at least 1, got [-1, 1]", {"dilations": [-1, 1]}),
    ("paddings: expected 4 ints of at least 0, got [1, 1, 1, -1]", {"paddings": [1, 1, 1, -1]}),
    ("groups: expected an int of at least 1, got 0", {"groups": 0}),
    ("deformable_groups: expected an int of at least 1, got -2", {"deformable_groups": -2}),
    ("deformable_groups: expected a divisor of 4 channels, got 3", {"deformable_groups": 3}),
    ("im2col_step: expected an int of at least 0, got -1", {"im2col_step": -1}),
    ('data_format: expected "NCHW" or "NHWC", got "CHWN"', {"data_format": "CHWN"}),
    ("x: expected room for the kernel, got an output of 0x6 pixels", {"dilations": [7, 1]}),
    # Sizes that leave 32 bits.
    ("[2, 36, 4294967297, 6] on", {"paddings": [2**31 - 1, 2**31 - 1, 1, 1]}),
    ("x: expected room for the kernel", {"dilations": [2**31 - 1, 1]}),
]


def ids(rows):
    return [message for message, _ in rows]


@pytest.mark.parametrize(("message", "shapes"), SHAPE_ERRORS, ids=ids(SHAPE_ERRORS))
def test_shape_errors(message, shapes):
    with pytest.raises(ValueError) as error:
        call(random_tensors(**shapes))
    assert message in str(error.value)


@pytest.mark.parametrize(("message", "attributes"), ATTRIBUTE_ERRORS, ids=ids(ATTRIBUTE_ERRORS))
def test_attribute_errors(message, attributes):
    with pytest.raises(ValueError) as error:
        call(random_tensors(), **attributes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("message", "name", "dtype"),
    [
        (f"weight: expected float64 [6, 2, 3, 3] on {PLACE}, got float32", "weight", "float32"),
        (f"bias: expected float64 [6] on {PLACE}, got float16", "bias", "float16"),
        (f"offset: expected float64 [2, 36, 5, 6] on {PLACE}, got float16", "offset", "float16"),
        (f"mask: expected float64 [2, 18, 5, 6] on {PLACE}, got float32", "mask", "float32"),
        ("x: expected float16, bfloat16, float32 or float64, got int32", "x", "int32"),
    ],
)
def test_dtype_errors(message, name, dtype):
    with pytest.raises(type_error) as error:
        call(random_tensors(**{name: (SHAPES[name], dtype)}))
    assert message in str(error.value)


@pytest.mark.parametrize("missing", ["none", "_clear", "_clear_data"])
@pytest.mark.parametrize("name", SHAPES)
def test_missing_tensors(name, missing):
    """None, and tensors whose memory was given back before forward or before backward."""
    tensors = random_tensors()
    out = call(tensors)
    before = tensors[name]
    if missing == "none":
        tensors[name] = None
    else:
        getattr(before, missing)()
    with pytest.raises(ValueError, match=f"{name}: expected a (dense tensor|tensor with memory)"):
        call(tensors)
    if missing == "_clear_data" and name != "bias":  # which backward does without
        with pytest.raises(ValueError, match=f"{name}: expected a tensor with memory"):
            out.sum().backward()


def test_a_second_backward():
    out = call(random_tensors())
    out.sum().backward()
    with pytest.raises(ValueError, match="a second backward .* needs retain_graph=True"):
        out.sum().backward()


def test_out_of_memory(device):
    """An output of 2**48 bytes, which no process can address: the error of Paddle's operators."""
    shapes = [1, 1, 2**11, 2**12], [1, 2, 2**11, 2**12], [2**22, 1, 1, 1]
    with pytest.raises(MemoryError):
        deform_conv2d(*(paddle.zeros(shape, "float64") for shape in shapes))


def test_errors_do_not_show_where_the_library_was_built():
    with pytest.raises(ValueError) as error:
        call(random_tensors(), groups=0)
    assert "(at custom_ops/paddle/" in str(error.value)


def can_be_fed(shapes):
    """Whether tensors of these shapes have the ranks of SHAPES, and elements."""
    return all(len(shape) == len(SHAPES[n]) and min(shape) > 0 for n, shape in shapes.items())


FED_ERRORS = [(message, shapes) for message, shapes in SHAPE_ERRORS if can_be_fed(shapes)]


@needs_paddle_3
@pytest.mark.parametrize(("message", "shapes"), FED_ERRORS, ids=ids(FED_ERRORS))
def test_shape_errors_of_a_running_program(message, shapes):
    """A program whose sizes are known only at run time reports them like dynamic mode."""
    with static_program() as program:
        inputs = {n: paddle.static.data(n, [-1] * len(s), "float64") for n, s in SHAPES.items()}
        out = call(inputs)
        assert list(out.shape) == [-1, -1, -1, -1]
        executor = paddle.static.Executor()
        good = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        assert executor.run(program, good, [out])[0].shape == (2, 6, 5, 6)
        with pytest.raises(ValueError) as error:
            executor.run(program, {**good, **{n: np.zeros(s) for n, s in shapes.items()}}, [out])
    assert message in str(error.value)


@needs_paddle_3
@pytest.mark.parametrize("attributes", [attributes for _, attributes in ATTRIBUTE_ERRORS])
def test_building_a_program_never_aborts(attributes):
    """Whatever the attributes, shape inference answers, and the run gives the error."""
    with static_program() as program:
        inputs = {n: paddle.static.data(n, shape, "float64") for n, shape in SHAPES.items()}
        out = call(inputs, **attributes)
        with pytest.raises(ValueError):
            feed = {name: np.zeros(shape) for name, shape in SHAPES.items()}
            paddle.static.Executor().run(program, feed, [out])


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0, 1, 2, 4, 8, 16, 9, 22, 31])
@pytest.mark.parametrize("modulated", [False, True])
def test_wanted_bits(modulated, wanted):
    """Those asked for are what they are together, the others are zeros."""
    tensors, every = random_tensors(), random_tensors()
    call(every, modulated).exp().sum().backward()
    call(tensors, modulated, wanted=wanted).exp().sum().backward()
    for bit, (name, tensor) in enumerate(tensors.items()):
        if name == "mask" and not modulated:
            continue
        expected = every[name].grad.numpy() * bool(wanted & 1 << bit)
        np.testing.assert_array_equal(tensor.grad.numpy(), expected, err_msg=name)


@pytest.mark.parametrize("modulated", [False, True])
def test_unit_weight(modulated):
    """Nothing on the CPU reads what a caller says is of ones, and it has no gradient."""
    shapes = {"weight": [4, 1, 3, 3], "bias": [4]}
    results = []
    unread = float("nan") if isinstance(PLACE, paddle.CPUPlace) else 1.0
    for bit, value in ((0, 1.0), (UNIT_WEIGHT, unread)):
        tensors = random_tensors(**shapes)
        tensors["weight"].set_value(paddle.full([4, 1, 3, 3], value, "float64"))
        out = call(tensors, modulated, groups=4, wanted=31 | bit)
        out.exp().sum().backward()
        results.append({"out": out} | {n: t.grad for n, t in tensors.items()})
    plain, unit = results
    assert not unit.pop("weight").numpy().any()
    for name, tensor in unit.items():
        if name != "mask" or modulated:
            # Sums of some hundreds of rounded terms.
            np.testing.assert_allclose(tensor.numpy(), plain[name].numpy(), rtol=1e-12, atol=1e-12)


def test_unit_weight_is_of_single_channels():
    message = "groups: expected 4 groups and filters without weights, got 2 and 6"
    with pytest.raises(ValueError, match=message):
        call(random_tensors(), wanted=UNIT_WEIGHT)


# Shapes of offset and mask, and what is wrong with them where offset and mask are as in DCNv3.
PLANES_LAST_SHAPES = [
    ([2, 5, 6, 36], [2, 5, 6, 18], None),
    ([2, 5, 6, 54], None, None),
    ([2, 5, 6, 56], None, None),
    ([2, 36, 5, 6], [2, 18, 5, 6], "[2, 5, 6, 36]"),
    ([2, 5, 6, 38], [2, 5, 6, 18], "[2, 5, 6, 36]"),
    ([2, 5, 6, 53], None, "[2, 5, 6, 54]"),
    ([2, 5, 7, 54], None, "[2, 5, 6, 54]"),
    ([2, 5, 6], None, "[2, 5, 6, 54]"),
]


@pytest.mark.skipif(PLACE.is_gpu_place(), reason="on the CPU only")
@pytest.mark.parametrize(("offset", "mask", "expected"), PLANES_LAST_SHAPES)
def test_planes_last(offset, mask, expected):
    tensors = random_tensors(offset=offset, mask=mask or [1])
    how = {"modulated": mask is not None, "wanted": 31 | PLANES_LAST}
    if expected is None:
        assert call(tensors, **how).shape == [2, 6, 5, 6]
    else:
        message = f"offset: expected float64 {expected} on {PLACE}, got float64 {offset}"
        with pytest.raises(ValueError, match=re.escape(message)):
            call(tensors, **how)


@needs_paddle_3
def test_planes_last_of_open_sizes():
    with static_program():
        shapes = SHAPES | {"x": [-1, 4, -1, -1], "offset": [2, 5, 6, 36], "mask": [2, 5, 6, 18]}
        inputs = {n: paddle.static.data(n, shape, "float64") for n, shape in shapes.items()}
        assert list(call(inputs, wanted=31 | PLANES_LAST).shape) == [-1, 6, 5, 6]


def strided(tensor):
    """Put the values two elements apart in memory."""
    return paddle.stack([tensor, -tensor], axis=-1)[..., 0]


def transposed(tensor):
    """Store the values in another order of dimensions."""
    order = list(range(tensor.ndim))[::-1]
    return tensor.transpose(order).contiguous().transpose(order)


def sliced(tensor):
    """Cut the values out of a larger tensor, in blocks."""
    return paddle.stack([-tensor, tensor], axis=1)[:, 1]


@pytest.mark.parametrize("view", [strided, transposed, sliced])
@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("modulated", [False, True])
def test_views(modulated, dtype, data_format, view):
    """Bitwise the same where no tensor is contiguous, the output's gradient neither."""
    attributes = {"padding": 1, "groups": 2, "deformable_groups": 3, "data_format": data_format}
    case = Case(2, 6, (7, 5), 4, modulated=modulated, **attributes)

    def viewed(**arguments):
        for name in TENSORS:
            if arguments.get(name) is not None:
                arguments[name] = view(arguments[name])
                assert name == "bias" and view != strided or not arguments[name].is_contiguous()
        out = deform_conv2d(**arguments)
        return out.transpose([0, 2, 1, 3]).transpose([0, 2, 1, 3])

    arrays = random_problem(case)
    wanted = run(deform_conv2d, case, arrays, (dtype, dtype))
    results = run(viewed, case, arrays, (dtype, dtype))
    assert results.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(results[name], array), name


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
@pytest.mark.parametrize("modulated", [False, True])
def test_empty_batch(modulated, data_format):
    last = data_format == "NHWC"
    shapes = {"x": [0, 5, 6, 4] if last else [0, 4, 5, 6]}
    tensors = random_tensors(**shapes, offset=[0, 36, 5, 6], mask=[0, 18, 5, 6])
    out = call(tensors, modulated, data_format=data_format)
    assert list(out.shape) == ([0, 5, 6, 6] if last else [0, 6, 5, 6])
    out.backward(paddle.zeros(out.shape, out.dtype))  # Paddle 2 cannot sum an empty tensor
    for name, tensor in tensors.items():
        if modulated or name != "mask":
            assert list(tensor.grad.shape) == list(tensor.shape)
            assert not tensor.grad.numpy().any()


# --- programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("modulated", [False, True])
def test_gradient_in_a_program(modulated):
    """Inputs that stop the gradient, as fed ones do, stand in no one's way; in Paddle 2 too."""
    names = [name for name in SHAPES if modulated or name != "mask"]
    tensors = random_tensors()
    call(tensors, modulated).exp().sum().backward()
    feed = {name: tensors[name].numpy() for name in names}
    with static_program() as program:
        inputs = {name: paddle.static.data(name, SHAPES[name], "float64") for name in names}
        inputs["weight"].stop_gradient = False
        loss = call(inputs, modulated).exp().sum()
        (gradient,) = paddle.static.gradients([loss], [inputs["weight"]])
        (result,) = paddle.static.Executor().run(program, feed, [gradient])
    np.testing.assert_array_equal(result, tensors["weight"].grad.numpy())


@needs_paddle_3
@pytest.mark.parametrize(
    ("shapes", "attributes", "expected"),
    [
        ({}, {}, [2, 6, 5, 6]),
        ({"x": [-1, 4, 5, 6], "offset": [-1, 36, 5, 6]}, {}, [-1, 6, 5, 6]),
        ({"x": [2, 4, -1, 6]}, {}, [2, 6, 5, 6]),  # the height is offset's
        ({"x": [2, 4, -1, 6], "offset": [2, 36, -1, 6]}, {}, [2, 6, -1, 6]),
        ({"x": [2, 4, 9, 10]}, {"strides": [2, 3], "paddings": [0, 1, 2, 0]}, [2, 6, 4, 4]),
        ({"x": [2, 5, 6, 4]}, {"data_format": "NHWC"}, [2, 5, 6, 6]),
        ({"x": [-1, -1, 6, 4]}, {"data_format": "NHWC"}, [-1, 5, 6, 6]),
        ({"weight": [-1, -1, -1, -1]}, {}, [2, -1, 5, 6]),
    ],
)
@pytest.mark.parametrize("modulated", [False, True])
def test_inferred_shape(modulated, shapes, attributes, expected):
    with static_program():
        sizes = {**SHAPES, **shapes}
        inputs = {n: paddle.static.data(n, shape, "float16") for n, shape in sizes.items()}
        out = call(inputs, modulated, **attributes)
        assert list(out.shape) == expected
        assert out.dtype == inputs["x"].dtype


def test_names_in_the_profiler(capsys, tmp_path):
    layer = ModulatedDeformConv2DPack(2, 3, 3)
    targets = [paddle.profiler.ProfilerTarget.CPU]
    log = paddle.profiler.export_chrome_tracing(str(tmp_path))  # by default in the current folder
    with paddle.profiler.Profiler(targets=targets, on_trace_ready=log) as profiler:
        layer(paddle.ones([1, 2, 4, 4])).sum().backward()
    profiler.summary()
    assert sorted(re.findall("paddle_dcn_v2[a-z_]*", capsys.readouterr().out)) == [
        "paddle_dcn_v2",
        "paddle_dcn_v2_grad",
    ]


@needs_paddle_3
def test_predictor_with_onednn(tmp_path):
    """Its tensors come in blocked layouts; read as plain ones they are off by about 1."""
    process = run_python(SCRIPTS / "onednn_predictor.py", tmp_path / "net")
    assert process.returncode == 0, process.stderr
    # Five layers, each with sums of at most 144 terms.
    assert float(process.stdout.splitlines()[-1]) < 5 * 4 * 2**-23 * 144**0.5


# One step of gradient descent, in a program and in dynamic mode.
OLD_PROGRAM = """
import numpy as np, paddle, paddle_dcn
rng = np.random.default_rng(0)
shapes = [2, 4, 5, 5], [2, 18, 5, 5], [3, 4, 3, 3]
arrays = [rng.normal(0, 1, shape).astype("float32") for shape in shapes]
x, offset, weight = map(paddle.to_tensor, arrays)
weight.stop_gradient = False
paddle.mean(paddle_dcn.deform_conv2d(x, offset, weight, padding=1) ** 2).backward()
expected = arrays[2] - weight.grad.numpy()
paddle.enable_static()
feed = {"x": arrays[0], "offset": arrays[1]}
x, offset = (paddle.static.data(name, array.shape, "float32") for name, array in feed.items())
weight = paddle.static.create_parameter(
    arrays[2].shape, "float32", default_initializer=paddle.nn.initializer.Assign(arrays[2])
)
loss = paddle.mean(paddle_dcn.deform_conv2d(x, offset, weight, padding=1) ** 2)
paddle.optimizer.SGD(1.0).minimize(loss)
executor = paddle.static.Executor()
executor.run(paddle.static.default_startup_program())
executor.run(feed=feed, fetch_list=[loss])
trained = np.array(paddle.static.global_scope().find_var(weight.name).get_tensor())
assert np.abs(trained - arrays[2]).max() > 0.1
np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-5)
"""


@needs_paddle_3
def test_program_of_the_old_kind():
    """With PIR switched off Paddle 3 makes programs of Paddle 2's kind."""
    done = run_python("-c", OLD_PROGRAM, FLAGS_enable_pir_api="0")
    assert done.returncode == 0, done.stderr
