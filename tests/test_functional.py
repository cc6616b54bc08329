"""deform_conv2d as Paddle code uses it: its documentation's examples, every mode, AMP, autograd."""

import doctest
import inspect
import itertools

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from paddle_dcn import _ops, deform_conv2d
from tests.support.amp import auto_cast
from tests.support.programs import needs_paddle_3, static_program

NAMES = ("x", "offset", "mask", "weight", "bias")
SHAPES = {
    "x": (2, 4, 6, 7),
    "offset": (2, 36, 3, 4),
    "mask": (2, 18, 3, 4),
    "weight": (6, 2, 3, 3),
    "bias": (6,),
}
PARAMETERS = {"stride": 2, "padding": (1, 0, 2, 1), "deformable_groups": 2, "groups": 2}


def arrays(modulated=True):
    """Return float32 inputs of one problem; v1 has no mask, and here no bias either."""
    rng = np.random.default_rng(0)
    names = NAMES if modulated else ("x", "offset", "weight")
    return {name: rng.normal(0, 1, SHAPES[name]).astype("float32") for name in names}


def leaves(inputs, wanted=NAMES):
    return {n: paddle.to_tensor(a, stop_gradient=n not in wanted) for n, a in inputs.items()}


def loss_of(out):
    """Weigh the outputs so that no two of them count the same."""
    return (out * out * paddle.arange(out.shape[-1], dtype=out.dtype)).sum()


def operator(**tensors):
    return deform_conv2d(**tensors, **PARAMETERS)


def run_dynamic(function, inputs):
    """Return the output and the gradient of every input."""
    tensors = leaves(inputs)
    out = function(**tensors)
    loss_of(out).backward()
    return {"out": out.numpy()} | {name: t.grad.numpy() for name, t in tensors.items()}


def run_recomputed(function, inputs):
    def outer(**tensors):
        def inner(*values):
            return function(**dict(zip(tensors, values)))

        return recompute(inner, *tensors.values())

    return run_dynamic(outer, inputs)


def run_to_static(full_graph):
    def run(function, inputs):
        def call(tensors):
            return function(**tensors)

        compiled = paddle.jit.to_static(call, full_graph=full_graph)
        return run_dynamic(lambda **tensors: compiled(tensors), inputs)

    return run


def open_shape(name):
    """Return the shape of an input with batch, height and width left open."""
    open_axes = () if name in ("weight", "bias") else (0, 2, 3)
    return [None if axis in open_axes else size for axis, size in enumerate(SHAPES[name])]


def run_program(function, inputs):
    with static_program() as program:
        tensors = {name: paddle.static.data(name, open_shape(name), "float32") for name in inputs}
        for tensor in tensors.values():
            tensor.stop_gradient = False
        out = function(**tensors)
        # loss_of, whose last size is not known while the program is built
        loss = (out * out * paddle.arange(inputs["offset"].shape[-1], dtype="float32")).sum()
        gradients = paddle.static.gradients(loss, list(tensors.values()))
        executor = paddle.static.Executor(paddle.CPUPlace())
        results = executor.run(program, feed=inputs, fetch_list=[out, *gradients])
    return dict(zip(["out", *tensors], results))


@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
@pytest.mark.parametrize(
    "run",
    [
        run_recomputed,
        pytest.param(run_to_static(True), marks=needs_paddle_3),
        pytest.param(run_to_static(False), marks=needs_paddle_3),
        pytest.param(run_program, marks=needs_paddle_3),
    ],
    ids=["recompute", "full graph", "graph breaks", "program"],
)
def test_modes_agree(run, modulated):
    """The same numbers as in dynamic mode, output and gradients."""
    inputs = arrays(modulated)
    expected, actual = run_dynamic(operator, inputs), run(operator, inputs)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@needs_paddle_3
def test_one_graph_without_breaks(monkeypatch):
    """to_static(full_graph=False) takes the call into its graph instead of leaving it."""
    from paddle.jit.sot.utils import exceptions

    breaks = []
    monkeypatch.setattr(
        exceptions.BreakGraphReasonInfo, "collect_break_graph_reason", breaks.append
    )
    run_to_static(False)(operator, arrays())
    assert breaks == []
    run_to_static(False)(
        lambda **tensors: operator(**tensors) * float(tensors["x"].sum()), arrays()
    )
    assert breaks  # so a break would have been seen


@needs_paddle_3
@pytest.mark.parametrize("modulated", [True, False], ids=["v2", "v1"])
def test_saved_and_loaded(modulated, tmp_path):
    class Model(paddle.nn.Layer):
        def forward(self, x, offset, weight, mask=None, bias=None):
            return operator(x=x, offset=offset, weight=weight, mask=mask, bias=bias)

    names = ("x", "offset", "weight", "mask", "bias") if modulated else ("x", "offset", "weight")
    inputs = arrays(modulated)
    inputs = {name: inputs[name] for name in names}
    spec = [paddle.static.InputSpec(open_shape(name), name=name) for name in names]
    paddle.jit.save(Model(), str(tmp_path / "model"), input_spec=spec)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    for images in (1, 2):
        some = {n: a if n in ("weight", "bias") else a[:images] for n, a in inputs.items()}
        out = loaded(*map(paddle.to_tensor, some.values()))
        np.testing.assert_array_equal(out.numpy(), operator(**leaves(some)).numpy())


# --- a drop-in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deform_conv2d", "DeformConv2D"])
def test_examples_of_paddles_documentation(name):
    """Run them with only the import changed; their printed shapes are compared."""
    import paddle_dcn

    source = getattr(paddle.vision.ops, name).__doc__
    assert source.count(f"paddle.vision.ops.{name}(") == 2  # v2 and v1
    source = source.replace("paddle.vision.ops.", "paddle_dcn.")
    test = doctest.DocTestParser().get_doctest(source, {"paddle_dcn": paddle_dcn}, name, None, 0)
    result = doctest.DocTestRunner().run(test)
    assert (result.failed, result.attempted > 10) == (0, True)
    assert sum("8, 16, 26, 26" in example.want for example in test.examples) == 2


def test_signature():
    builtin = inspect.signature(paddle.vision.ops.deform_conv2d).parameters
    ours = inspect.signature(deform_conv2d).parameters
    positional = [p for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == [
        (p.name, p.default) for p in builtin.values()
    ]
    keywords = {p.name: p.default for p in ours.values() if p.kind is p.KEYWORD_ONLY}
    assert keywords == {"im2col_step": None, "data_format": "NCHW"}


def test_name_is_accepted():
    tensors = leaves(arrays())
    np.testing.assert_array_equal(
        operator(**tensors, name="here").numpy(), operator(**tensors).numpy()
    )


def test_numpy_integers_and_lists():
    tensors = leaves(arrays())
    parameters = {"stride": [np.int64(2), 2], "padding": [np.int32(1), 0, 2, 1]}
    parameters |= {"deformable_groups": np.int64(2), "groups": np.int8(2)}
    out = deform_conv2d(**tensors, **parameters)
    np.testing.assert_array_equal(out.numpy(), operator(**tensors).numpy())


# --- autograd ------------------------------------------------------------------------------------


def conv2d(**tensors):
    return paddle.nn.functional.conv2d(tensors["x"], tensors["weight"], groups=2)


def in_dynamic_mode(function):
    return function(**leaves(arrays())).stop_gradient


def in_a_program(function):
    with static_program():
        tensors = {name: paddle.static.data(name, shape) for name, shape in SHAPES.items()}
        for tensor in tensors.values():
            tensor.stop_gradient = False
        return function(**tensors).stop_gradient


@pytest.mark.parametrize(
    "stop_gradient", [in_dynamic_mode, pytest.param(in_a_program, marks=needs_paddle_3)]
)
@pytest.mark.parametrize("function", [operator, conv2d])
def test_no_grad(function, stop_gradient):
    """Custom operators do not heed no_grad by themselves."""
    assert not stop_gradient(function)
    assert stop_gradient(paddle.no_grad()(function))


def test_no_grad_keeps_no_graph():
    tensors = leaves(arrays())
    with paddle.no_grad():
        out = operator(**tensors)
    assert out.grad_fn is None
    assert operator(**tensors).grad_fn is not None


def test_constant_inputs_give_a_constant():
    assert operator(**leaves(arrays(), wanted=())).stop_gradient


SUBSETS = [
    (modulated, wanted)
    for modulated in (True, False)
    for size in range(1, 6)
    for wanted in itertools.combinations(arrays(modulated), size)
]


@pytest.mark.parametrize(("modulated", "wanted"), SUBSETS, ids=str)
def test_any_subset_of_gradients(modulated, wanted):
    """What is wanted does not depend on what else is, and nothing else gets a gradient."""
    inputs = arrays(modulated)
    expected = run_dynamic(operator, inputs)
    tensors = leaves(inputs, wanted)
    loss_of(operator(**tensors)).backward()
    for name, tensor in tensors.items():
        if name in wanted:
            np.testing.assert_array_equal(tensor.grad.numpy(), expected[name], err_msg=name)
        else:
            assert tensor.grad is None
    tensors = leaves(inputs)
    gradients = paddle.grad(loss_of(operator(**tensors)), [tensors[name] for name in wanted])
    for name, gradient in zip(wanted, gradients):
        np.testing.assert_array_equal(gradient.numpy(), expected[name], err_msg=name)
    assert all(tensor.grad is None for tensor in tensors.values())


# --- automatic mixed precision -------------------------------------------------------------------


def dtype_name(tensor):
    return str(tensor.dtype).split(".")[1]


@pytest.fixture
def dtypes(monkeypatch):
    """Dtypes of x, offset, mask, weight, bias in each call of the operator."""
    calls = []
    function = _ops.deform_conv2d

    def recorded(call):
        calls.append([dtype_name(tensor) for tensor in call[:5]])
        return function(call)

    monkeypatch.setattr(_ops, "deform_conv2d", recorded)
    return calls


LEVELS = [
    ({"level": "O0"}, "float32"),
    ({"level": "OD"}, "float16"),
    ({"level": "O1"}, "float16"),
    ({"level": "O2"}, "float16"),
    ({"level": "O1", "dtype": "bfloat16"}, "bfloat16"),
    ({"level": "O2", "dtype": "bfloat16"}, "bfloat16"),
    ({"black": ["conv2d"]}, "float32"),
    ({"black": ["deform_conv2d"]}, "float32"),
    ({"black": ["deformable_conv"], "level": "O2"}, "float32"),
    ({"black": ["conv2d"], "white": ["deform_conv2d"]}, "float16"),
    ({"black": ["matmul"], "white": ["exp"]}, "float16"),
]


@pytest.mark.parametrize(("state", "dtype"), LEVELS, ids=str)
def test_amp_casts_as_for_conv2d(state, dtype, dtypes):
    """x, weight and bias are cast, float32 offset and mask are not, gradients come back."""
    tensors = leaves(arrays())
    with auto_cast(**state):
        out = operator(**tensors)
    assert dtypes == [[dtype, "float32", "float32", dtype, dtype]]
    assert dtype_name(out) == dtype
    out.astype("float32").sum().backward()
    assert {dtype_name(tensor.grad) for tensor in tensors.values()} == {"float32"}

    by_hand = leaves(arrays())
    given = {n: t.astype(dtype) if n in ("x", "weight", "bias") else t for n, t in by_hand.items()}
    expected = operator(**given)
    expected.astype("float32").sum().backward()
    np.testing.assert_array_equal(out.astype("float32"), expected.astype("float32"))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.grad.numpy(), by_hand[name].grad.numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("given", "state", "expected"),
    [
        # an offset in the other half type follows x; one in float32 takes the mask with it
        ({"offset": "bfloat16", "mask": "bfloat16"}, {}, ["float16"] * 5),
        ({"offset": "bfloat16"}, {}, ["float16", "float32", "float32", "float16", "float16"]),
        # a model in half precision, and an operator that is to be computed in float32
        (dict.fromkeys(NAMES, "float16"), {}, ["float16"] * 5),
        (dict.fromkeys(NAMES, "float16"), {"black": ["conv2d"]}, ["float32"] * 5),
        (dict.fromkeys(NAMES, "float16"), {"dtype": "bfloat16"}, ["bfloat16"] * 5),
        # auto_cast leaves float64 alone
        (dict.fromkeys(NAMES, "float64"), {}, ["float64"] * 5),
    ],
)
def test_amp_with_other_dtypes(given, state, expected, dtypes):
    tensors = {n: t.astype(given.get(n, "float32")) for n, t in leaves(arrays()).items()}
    with auto_cast(**state):
        operator(**tensors)
    assert dtypes == [expected]


def test_amp_refuses_float64_beside_float32():
    tensors = leaves(arrays())
    tensors["weight"] = tensors["weight"].astype("float64")
    message = (
        r"^weight: expected dtype float16 or bfloat16 or float32 \(x is float32, under auto_cast\)"
    )
    with auto_cast(), pytest.raises(TypeError, match=message):
        operator(**tensors)


def test_amp_is_off_on_a_cpu(dtypes, cpu):
    """As Paddle's own is."""
    with pytest.warns(UserWarning, match="amp_guard can only be enabled"), paddle.amp.auto_cast():
        operator(**leaves(arrays()))
    assert dtypes == [["float32"] * 5]


@needs_paddle_3
def test_amp_in_a_program(dtypes):
    with static_program(), paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        tensors = {n: paddle.static.data(n, shape) for n, shape in SHAPES.items()}
        assert dtype_name(operator(**tensors)) == "bfloat16"
    assert dtypes == [["bfloat16", "float32", "float32", "bfloat16", "bfloat16"]]


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
def test_amp_under_to_static(full_graph, dtypes):
    def call(tensors):
        return operator(**tensors)

    with auto_cast(dtype="bfloat16"):
        out = paddle.jit.to_static(call, full_graph=full_graph)(leaves(arrays()))
    assert dtype_name(out) == "bfloat16"
    assert dtypes[0] == ["bfloat16", "float32", "float32", "bfloat16", "bfloat16"]
