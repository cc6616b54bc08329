"""patch, unpatch, patched: what they reach, that they restore, nesting, threads, every mode."""

import contextlib
import doctest
import pickle
import sys
import threading
import types

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn import _ops, _patch
from tests.support.programs import needs_paddle_3, static_program

BUILTIN = paddle.vision.ops.deform_conv2d
STATIC_BUILTIN = paddle.static.nn.deform_conv2d


@pytest.fixture(autouse=True)
def restored():
    yield
    assert paddle.vision.ops.deform_conv2d is BUILTIN
    assert paddle.static.nn.deform_conv2d is STATIC_BUILTIN
    assert paddle.static.nn.common.deform_conv2d is STATIC_BUILTIN


@pytest.fixture
def calls(monkeypatch):
    """Collect a True for every call of this operator."""
    seen, original = [], _ops.deform_conv2d

    def spy(call):
        seen.append(True)
        return original(call)

    monkeypatch.setattr(_ops, "deform_conv2d", spy)
    return seen


def inputs():
    paddle.seed(1)
    return paddle.rand([2, 4, 6, 6]), paddle.randn([2, 36, 4, 4]), paddle.rand([2, 18, 4, 4])


def new_layer():
    return paddle.vision.ops.DeformConv2D(4, 6, 3, deformable_groups=2, groups=2)


def results(layer):
    tensors = inputs()
    for tensor in tensors:
        tensor.stop_gradient = False
    out = layer(*tensors)
    (out * out.detach()).sum().backward()
    found = [out, *(t.grad for t in (*tensors, layer.weight, layer.bias))]
    found = [tensor.numpy() for tensor in found]
    layer.clear_gradients()
    return found


def imported_module(**names):
    """Make a loaded module with these globals."""
    module = types.ModuleType("client_of_paddle")
    vars(module).update(names)
    sys.modules[module.__name__] = module
    return module


@pytest.fixture
def client():
    """A module that did `from paddle.vision.ops import DeformConv2D, deform_conv2d`."""
    module = imported_module(deform_conv2d=BUILTIN, DeformConv2D=paddle.vision.ops.DeformConv2D)
    yield module
    del sys.modules[module.__name__]


def test_layers_built_before_and_after(calls):
    before = new_layer()
    wanted = results(before)
    assert not calls
    with paddle_dcn.patched():
        found = results(before)
        assert len(calls) == 1
        after = new_layer()
        after.set_state_dict(before.state_dict())
        again = results(after)
        assert len(calls) == 2
    for name, one, two, three in zip("out x offset mask weight bias".split(), wanted, found, again):
        np.testing.assert_allclose(two, one, 1e-4, 1e-4, err_msg=name)
        np.testing.assert_array_equal(three, two, err_msg=name)
    for one, two in zip(results(after), wanted):
        np.testing.assert_array_equal(one, two)
    assert len(calls) == 2


def test_functions_and_classes_already_imported(calls, client):
    x, offset, mask = inputs()
    weight = paddle.rand([6, 4, 3, 3])
    with paddle_dcn.patched():
        client.deform_conv2d(x, offset, weight, None, 1, 0, 1, 2, 1, mask)
        client.DeformConv2D(4, 6, 3, deformable_groups=2)(x, offset, mask=mask)
        paddle.vision.ops.deform_conv2d(x, offset, weight, deformable_groups=2)
    assert len(calls) == 3
    assert client.deform_conv2d is BUILTIN


def test_imported_while_patched():
    """A module that imports the name in between does not keep what stood for it."""
    try:
        with paddle_dcn.patched():
            module = imported_module(deform_conv2d=paddle.vision.ops.deform_conv2d)
            assert module.deform_conv2d is not BUILTIN
        assert module.deform_conv2d is BUILTIN
    finally:
        del sys.modules["client_of_paddle"]


def test_own_functions_stay():
    """A module that imported this package's function keeps it."""
    try:
        module = imported_module(deform_conv2d=paddle_dcn.deform_conv2d)
        with paddle_dcn.patched():
            pass
        assert module.deform_conv2d is paddle_dcn.deform_conv2d
    finally:
        del sys.modules["client_of_paddle"]


def test_module_that_refuses(client):
    """It keeps what it has, and those after it follow all the same."""

    class ReadOnly(types.ModuleType):
        def __setattr__(self, name, value):
            raise AttributeError("read only")

    refusing = ReadOnly("refusing")
    vars(refusing)["deform_conv2d"] = BUILTIN
    later = types.ModuleType("later")
    later.deform_conv2d = BUILTIN
    modules = {"refusing": refusing, "later": later}
    sys.modules.update(modules)
    try:
        with paddle_dcn.patched():
            assert refusing.deform_conv2d is BUILTIN
            assert client.deform_conv2d is not BUILTIN
            assert later.deform_conv2d is not BUILTIN
            assert paddle.static.nn.deform_conv2d is not STATIC_BUILTIN
        assert client.deform_conv2d is later.deform_conv2d is BUILTIN
    finally:
        for name in modules:
            del sys.modules[name]


def is_patched():
    return paddle.vision.ops.deform_conv2d is not BUILTIN


def test_nests():
    paddle_dcn.patch()
    with paddle_dcn.patched():
        paddle_dcn.patch()
        paddle_dcn.unpatch()
        assert is_patched()
    assert is_patched()
    paddle_dcn.unpatch()
    assert not is_patched()


def test_unpatch_alone_does_nothing():
    paddle_dcn.unpatch()
    with paddle_dcn.patched():
        assert is_patched()


def test_restores_after_an_error():
    with pytest.raises(KeyError), paddle_dcn.patched():
        raise KeyError
    assert not is_patched()


def test_decorates():
    assert paddle_dcn.patched()(is_patched)() and not is_patched()


def test_a_replacement_of_someone_else_is_restored(monkeypatch):
    other = lambda: None  # noqa: E731
    monkeypatch.setattr(paddle.vision.ops, "deform_conv2d", other)
    with paddle_dcn.patched():
        assert paddle.vision.ops.deform_conv2d is not other
    assert paddle.vision.ops.deform_conv2d is other
    monkeypatch.undo()


def test_errors_are_this_packages():
    x, offset, mask = inputs()
    with paddle_dcn.patched(), pytest.raises(ValueError, match="offset: expected 36 channels"):
        new_layer()(x, offset[:, :18], mask)


def test_threads():
    """However they overlap, each is patched inside its block, and nothing is left behind."""
    layer, (x, offset, mask) = new_layer(), inputs()
    wanted, wrong = layer(x, offset, mask).numpy(), []

    def work():
        for _ in range(50):
            with paddle_dcn.patched():
                if not is_patched():
                    wrong.append("not patched")
            paddle_dcn.patch()
            if not np.allclose(layer(x, offset, mask).numpy(), wanted, atol=1e-4):
                wrong.append("another result")
            paddle_dcn.unpatch()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- forms of arguments ---------------------------------------------------------------------------


def two(kind):
    return lambda: kind([1, 1])


PAIRS = {
    "int": lambda: 1,
    "list": two(list),
    "int64 array": two(np.array),
    "int32 array": lambda: np.array([1, 1], "int32"),
    "array of floats": lambda: np.array([1.0, 1.0]),
    "array of one": lambda: np.array([1]),
    "0-D array": lambda: np.array(1),
    "NumPy int": lambda: np.int64(1),
    "NumPy ints": lambda: (np.int64(1), np.int32(1)),
    "generator": lambda: (1 for _ in range(2)),
    "bytes": two(bytes),
    "tensor": two(paddle.to_tensor),
    "0-D tensor": lambda: paddle.to_tensor(1),
    "str": lambda: "11",
    "float": lambda: 1.0,
    "None": lambda: None,
    "bool": lambda: True,
}
NUMBERS = {
    "NumPy int": lambda: np.int32(1),
    "0-D int64 tensor": lambda: paddle.to_tensor(1),
    "0-D int32 tensor": lambda: paddle.to_tensor(1, "int32"),
    "0-D float tensor": lambda: paddle.to_tensor(1.0),
    "1-D tensor": lambda: paddle.to_tensor([1]),
    "0-D array": lambda: np.array(1),
    "list": lambda: [1],
    "float": lambda: 1.0,
    "None": lambda: None,
}
BIASES = {
    str(shape): lambda shape=shape: paddle.rand(shape)
    for shape in (
        *([6], [1], [], [6, 1], [1, 1], [6, 9], [6, 1, 1], [1, 1, 1], [6, 1, 8], [6, 9, 8]),
        *([1, 6, 1, 1], [2, 6, 1, 1], [2, 1, 1, 1], [2, 6, 9, 8], [5], [9, 6], [1, 1, 6, 1, 1]),
        *([7, 1, 1], [3, 6, 1, 1]),
    )
}
DTYPES_OF_BIAS = ("float16", "bfloat16", "float64", "int32", "bool", "complex64")
BIASES |= {d: lambda d=d: paddle.ones([6]).astype(d) for d in DTYPES_OF_BIAS}
BIASES |= {"[6, 1, 1] float64": lambda: paddle.ones([6, 1, 1], "float64")}
BIASES |= {"array": lambda: np.ones(6, "float32"), "number": lambda: 1.5}
SHAPES = {"x": [2, 4, 9, 8], "offset": [2, 18, 9, 8], "weight": [6, 4, 3, 3], "mask": [2, 9, 9, 8]}
NARROWED = {
    name: {dtype: lambda d=dtype, n=name: paddle.rand(SHAPES[n]).astype(d) for dtype in dtypes}
    for name, dtypes in dict.fromkeys(SHAPES, ("float16", "bfloat16", "float64", "int32")).items()
}
NAMES = {"str": lambda: "a", "int": lambda: 3, "object": object}
FORMS = (
    {name: PAIRS for name in ("stride", "padding", "dilation")}
    | {name: NUMBERS for name in ("groups", "deformable_groups")}
    | {"bias": BIASES, "name": NAMES}
    | NARROWED
)


@pytest.mark.parametrize(
    "name, form", [(name, form) for name, forms in FORMS.items() for form in forms]
)
def test_takes_what_paddle_takes(name, form):
    """Whatever the installed Paddle computes is computed here, with the same result and dtype."""
    call = {key: paddle.rand(shape) for key, shape in SHAPES.items()} | {"padding": 1}
    argument = FORMS[name][form]
    paddle.seed(1)
    try:
        wanted = BUILTIN(**{**call, name: argument()})
    except Exception:
        pytest.skip("the installed Paddle refuses it")
    paddle.seed(1)
    with paddle_dcn.patched():
        found = paddle.vision.ops.deform_conv2d(**{**call, name: argument()})
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), 1e-4, 1e-4)


@pytest.mark.parametrize("shape", [[6, 1, 1], [1], [2, 6, 9, 8]], ids=str)
def test_gradient_of_a_bias_that_is_broadcast(shape):
    x, offset, weight = (paddle.rand(SHAPES[name]) for name in ("x", "offset", "weight"))
    values, grads = paddle.rand(shape), []
    for patched in (False, True):
        bias = values.clone().detach()
        bias.stop_gradient = False
        with paddle_dcn.patched() if patched else contextlib.nullcontext():
            out = paddle.vision.ops.deform_conv2d(x, offset, weight, bias, padding=1)
        (out * out).sum().backward()
        grads.append(bias.grad.numpy())
    np.testing.assert_allclose(*grads, 1e-4, 1e-3)


@pytest.mark.parametrize("shape", [[4], [4, 1, 1], [1, 4, 1, 1], [1]])
def test_a_bias_that_is_broadcast_in_nhwc(shape):
    """Which Paddle's function does not know: along M, although Ho is as large."""
    x, weight = paddle.rand([2, 4, 6, 6]), paddle.rand([4, 4, 3, 3])
    offset, bias = paddle.randn([2, 18, 4, 4]), paddle.rand(shape).astype("float64")
    with paddle_dcn.patched():
        function = paddle.vision.ops.deform_conv2d
        wanted = function(x, offset, weight, bias)
        nhwc = x.transpose([0, 2, 3, 1])
        out = function(nhwc, offset, weight, bias, data_format="NHWC")
    np.testing.assert_allclose(out.transpose([0, 3, 1, 2]).numpy(), wanted.numpy(), rtol=1e-5)


def test_a_bias_that_cannot_be_broadcast():
    call = {name: paddle.rand(shape) for name, shape in SHAPES.items()}
    with (
        paddle_dcn.patched(),
        pytest.raises(ValueError, match=r"^bias: .*\[2, 6, 9, 8\].*\[7, 1\]$"),
    ):
        paddle.vision.ops.deform_conv2d(**call, bias=paddle.rand([7, 1]), padding=1)


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static(calls, full_graph):
    class Model(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.layer = new_layer()

        def forward(self, x, offset, mask):
            again = paddle.vision.ops.deform_conv2d(
                x, offset, self.layer.weight, groups=2, deformable_groups=2
            )
            return self.layer(x, offset, mask) + again

    model, tensors = Model(), inputs()
    wanted = model(*tensors)
    with paddle_dcn.patched():
        found = paddle.jit.to_static(model, full_graph=full_graph)(*tensors)
    assert len(calls) >= 2
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), 1e-4, 1e-4)


@needs_paddle_3
@pytest.mark.parametrize("full_graph", [True, False])
def test_to_static_of_the_function_itself(calls, full_graph):
    x, offset, _ = inputs()
    weight = paddle.rand([6, 4, 3, 3])
    wanted = BUILTIN(x, offset, weight, deformable_groups=2).numpy()

    with paddle_dcn.patched():
        traced = paddle.jit.to_static(paddle.vision.ops.deform_conv2d, full_graph=full_graph)
        found = [traced(x, offset, weight, deformable_groups=2)]
        found += [traced(weight=weight, offset=offset, x=x, deformable_groups=2)]
    assert calls
    for out in found:
        np.testing.assert_allclose(out.numpy(), wanted, 1e-4, 1e-4)


def test_static_layer_of_paddle(calls):
    """paddle.static.nn.deform_conv2d, which raises in Paddle 3, adds a layer and its parameters."""
    x, offset, mask = (tensor.numpy() for tensor in inputs())
    with static_program() as program, paddle_dcn.patched():
        fed = [paddle.static.data(n, a.shape) for n, a in zip("xom", (x, offset, mask))]
        out = paddle.static.nn.deform_conv2d(
            *fed, num_filters=6, filter_size=3, deformable_groups=2
        )
        assert paddle.static.nn.common.deform_conv2d is paddle.static.nn.deform_conv2d
        bias, weight = sorted(program.global_block().all_parameters(), key=lambda p: p.name)
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(paddle.static.default_startup_program())
        feed = dict(zip("xom", (x, offset, mask)))
        out, weight, bias = executor.run(program, feed=feed, fetch_list=[out, weight, bias])
    assert len(calls) == 1
    wanted = BUILTIN(*map(paddle.to_tensor, (x, offset, weight, bias)),
                     deformable_groups=2, mask=paddle.to_tensor(mask))  # fmt: skip
    np.testing.assert_allclose(out, wanted.numpy(), 1e-4, 1e-4)


def test_examples():
    assert doctest.testmod(_patch).failed == 0


def test_functions_are_pickled():
    """What holds them can be sent to another process, from in between and afterwards."""
    public = [paddle_dcn.deform_conv2d, paddle_dcn.static.nn.deform_conv2d]
    with paddle_dcn.patched():
        patched = [paddle.vision.ops.deform_conv2d, paddle.static.nn.deform_conv2d]
        assert pickle.loads(pickle.dumps(patched)) == patched
    assert pickle.loads(pickle.dumps(patched + public)) == patched + public
