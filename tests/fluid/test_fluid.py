"""Scripts of Paddle 1.x on paddle_dcn.fluid: layers, names, optimizers, files of the original."""

import inspect
import pickle
import struct

import numpy as np
import paddle
import pytest

import paddle_dcn
import paddle_dcn.fluid as fluid
from tests.support.comparison import assert_close
from tests.support.programs import (
    KINDS,
    fresh_program,
    initialize,
    needs_paddle_3,
    parameters,
    programs_1x,
    value,
)


def crops(count=2, size=32):
    """Return crops [count, 3, size, size] of a photograph, from 0 to 1."""
    pytest.importorskip("PIL", reason="pip install pillow")
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    image = datasets.load_sample_image("china.jpg").transpose(2, 0, 1)
    corners = [(100 + 90 * i, 200 + 70 * i) for i in range(count)]
    return np.stack([image[:, y : y + size, x : x + size] for y, x in corners]) / 255


def feeds(batch=2, size=32):
    """Return float32 arrays for the inputs of Paddle's documentation's example."""
    rng = np.random.default_rng(0)
    arrays = {
        "data": crops(batch, size),
        "offset": rng.normal(0, 2, (batch, 18, size, size)),
        "mask": rng.uniform(0, 1, (batch, 9, size, size)),
    }
    return {name: array.astype("float32") for name, array in arrays.items()}


def oracle(arrays, weight, bias, modulated=True):
    """Return the reference's float64 output; called outside static mode."""
    tensors = [arrays[name] for name in ("data", "offset")] + [weight, bias]
    mask = paddle.to_tensor(arrays["mask"], "float64") if modulated else None
    tensors = [paddle.to_tensor(array, "float64") for array in tensors]
    return paddle_dcn.deform_conv2d_reference(*tensors, padding=1, mask=mask).numpy()


# The example of `deformable_conv` in Paddle's documentation, of 1.5 and of 1.8.
EXAMPLES = {
    "1.5": """
import paddle.fluid as fluid
data = fluid.layers.data(name='data', shape=[3, 32, 32], dtype='float32')
offset = fluid.layers.data(name='offset', shape=[18, 32, 32], dtype='float32')
mask = fluid.layers.data(name='mask', shape=[9, 32, 32], dtype='float32')
out = fluid.layers.deformable_conv(input=data, offset=offset, mask=mask,
                                   num_filters=2, filter_size=3, padding=1)
""",
    "1.8 v2": """
import paddle.fluid as fluid
C_in, H_in, W_in = 3, 32, 32
filter_size, deformable_groups = 3, 1
data = fluid.data(name='data', shape=[None, C_in, H_in, W_in], dtype='float32')
offset = fluid.data(name='offset', dtype='float32',
                    shape=[None, 2 * deformable_groups * filter_size**2, H_in, W_in])
mask = fluid.data(name='mask', dtype='float32',
                  shape=[None, deformable_groups * filter_size**2, H_in, W_in])
out = fluid.layers.deformable_conv(input=data, offset=offset, mask=mask, num_filters=2,
                                   filter_size=filter_size, padding=1, modulated=True)
""",
    "1.8 v1": """
import paddle.fluid as fluid
C_in, H_in, W_in = 3, 32, 32
filter_size, deformable_groups = 3, 1
data = fluid.data(name='data', shape=[None, C_in, H_in, W_in], dtype='float32')
offset = fluid.data(name='offset', dtype='float32',
                    shape=[None, 2 * deformable_groups * filter_size**2, H_in, W_in])
out = fluid.layers.deformable_conv(input=data, offset=offset, mask=None, num_filters=2,
                                   filter_size=filter_size, padding=1, modulated=False)
""",
}


@pytest.mark.parametrize("version", EXAMPLES)
def test_documentation_example(version):
    source = EXAMPLES[version].replace("paddle.fluid", "paddle_dcn.fluid")
    arrays = feeds()
    names = {}
    with fresh_program() as executor:
        exec(source, names)
        initialize(executor)
        feed = {name: array for name, array in arrays.items() if name in names}
        (out,) = executor.run(feed=feed, fetch_list=[names["out"]])
        weight, bias = value("deformable_conv_0.w_0"), value("deformable_conv_0.b_0")
    assert out.shape == (2, 2, 32, 32)
    wanted = oracle(arrays, weight, bias, modulated="mask" in feed)
    assert_close(out.astype("float64"), wanted, "float32", weight[0].size, "out")


def test_signature():
    """The order and defaults of Paddle 1.8."""
    parameters = inspect.signature(fluid.layers.deformable_conv).parameters.values()
    assert [parameter.name for parameter in parameters] == (
        "input offset mask num_filters filter_size stride padding dilation groups "
        "deformable_groups im2col_step param_attr bias_attr modulated name"
    ).split()
    assert [p.default for p in parameters][5:] == [1, 0, 1] + 5 * [None] + [True, None]


def test_argument_order_of_version_5():
    """It had no `modulated`; the name came in its place."""
    with fresh_program():
        tensors = [fluid.layers.data(n, [c, 8, 8]) for n, c in (("x", 4), ("o", 18), ("m", 9))]
        fluid.layers.deformable_conv(*tensors, 2, 3, 1, 1, 1, 2, 1, 64, "filter", "bias", "block")
        fluid.layers.deformable_conv(*tensors, 2, 3, 1, 1, 1, 1, 1, 64, None, None, "block")
        assert parameters() == {
            "filter": [2, 2, 3, 3],
            "bias": [2],
            "block.w_0": [2, 4, 3, 3],
            "block.b_0": [2],
        }
        with pytest.raises(TypeError, match="^modulated: expected a bool beside name='b', got 'a'"):
            fluid.layers.deformable_conv(*tensors, 2, 3, padding=1, modulated="a", name="b")


def test_mask_of_both_versions():
    """v1 ignores it, v2 needs it; None means 1 in groups and deformable_groups."""
    with fresh_program():
        x, offset = fluid.layers.data("x", [4, 8, 8]), fluid.layers.data("offset", [18, 8, 8])
        call = {"padding": 1, "groups": None, "deformable_groups": None}
        out = fluid.layers.deformable_conv(x, offset, "anything", 2, 3, modulated=False, **call)
        assert [*out.shape] == [-1, 2, 8, 8]
        with pytest.raises(TypeError) as caught:
            fluid.layers.deformable_conv(x, offset, None, 2, 3, **call)
    assert str(caught.value) == (
        "mask: expected a tensor of the static program (modulated=True), got None"
    )


@pytest.mark.parametrize(
    ("shape", "append", "wanted"),
    [
        ([3, 8, 8], True, [-1, 3, 8, 8]),
        ([3, 8, 8], False, [3, 8, 8]),
        ([2, -1, 8], True, [2, -1, 8]),
        ((None, 3), True, [-1, 3]),
        ([], True, [-1]),
    ],
)
def test_data(shape, append, wanted):
    with fresh_program():
        tensor = fluid.layers.data("x", shape, append, "int64", 0, None, False)
        assert [*tensor.shape] == wanted
        assert (tensor.name, tensor.stop_gradient) == ("x", False)
        assert str(tensor.dtype).endswith("int64")
        assert fluid.layers.data("y", shape).stop_gradient
        with pytest.raises(ValueError, match="^lod_level: expected 0, got 1$"):
            fluid.layers.data("z", shape, lod_level=1)


@pytest.mark.parametrize("shape", [None, 3, "ab", {3}, [1.5], [True], [[1]], [3, "a"]])
def test_data_without_sizes(shape):
    with fresh_program(), pytest.raises(TypeError, match="^shape: expected a list of sizes from 0"):
        fluid.layers.data("x", shape)


@pytest.mark.parametrize("size", [-2, 2**31, 10**5000], ids=["-2", "2**31", "10**5000"])
def test_data_of_sizes_that_are_none(size):
    with fresh_program(), pytest.raises(ValueError, match="^shape: expected sizes from 0"):
        fluid.layers.data("x", [3, size])


def test_data_in_dynamic_mode():
    with pytest.raises(
        RuntimeError, match="call paddle.enable_static.. first, or use paddle.to_ten"
    ):
        fluid.layers.data("x", [3])


# --- loaders --------------------------------------------------------------------------------------


def samples():
    """Yield five samples of two inputs."""
    for i in range(5):
        yield np.full(2, i, "float32"), [i]


def batches(size):
    """Yield the batches of these samples that are whole."""
    for start in range(0, 5 - size + 1, size):
        numbers = np.arange(start, start + size)
        yield numbers.astype("float32").repeat(2).reshape(-1, 2), numbers.reshape(-1, 1)


SETTERS = {
    "set_sample_generator": lambda loader: loader.set_sample_generator(samples, 2),
    "set_sample_list_generator": lambda loader: loader.set_sample_list_generator(
        paddle.batch(samples, 2, drop_last=True)
    ),
    "set_batch_generator": lambda loader: loader.set_batch_generator(lambda: batches(2)),
    "decorate_sample_generator": lambda loader: loader.decorate_sample_generator(samples, 2),
}


@needs_paddle_3
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setter", SETTERS)
def test_loader(setter, kind):
    """Iterable ones give feeds; from the others programs and their clones take their batches."""
    wanted = [3 * 1, 3 * 5]  # x twice and y
    make = fluid.io.PyReader if setter.startswith("deco") else fluid.io.DataLoader.from_generator
    with programs_1x(kind) as executor:
        x, y = fluid.data("x", [None, 2]), fluid.layers.data("y", [1], dtype="int64")
        iterable = make([x, y], capacity=4)
        loader = make(feed_list=[x, y], capacity=4, use_double_buffer=True, iterable=False)
        total = fluid.layers.reduce_sum(x) + fluid.layers.reduce_sum(y)
        program = fluid.default_main_program()
        for each in (iterable, loader):
            SETTERS[setter](each)
        assert [executor.run(feed=f, fetch_list=[total])[0] for f in iterable()] == wanted
        for each in (program, program.clone(for_test=True), fluid.CompiledProgram(program)):
            loader.start()
            for number in wanted:
                assert executor.run(each, fetch_list=[total]) == [number]
            with pytest.raises(fluid.core.EOFException, match="there is no batch left"):
                executor.run(each, fetch_list=[total])
            loader.reset()


def test_loader_that_cannot():
    with fresh_program():
        x = fluid.data("x", [None, 2])
        loader, iterable = (fluid.io.DataLoader.from_generator([x], iterable=i) for i in (0, 1))
        with pytest.raises(RuntimeError, match="^the loader has no batches: call set_sample_gen"):
            loader.start()
        with pytest.raises(RuntimeError, match="^the loader is not iterable: call start"):
            next(loader())
        with pytest.raises(RuntimeError, match="^the loader is iterable: feed what it gives"):
            iterable.start()
        iterable.set_batch_generator(lambda: batches(2))
        with pytest.raises(ValueError, match=r"^reader: expected batches .* \['x'\], got 2 arr"):
            next(iterable())
        with pytest.raises(ValueError, match="^feed_list: expected inputs of the program, got N"):
            fluid.io.DataLoader.from_generator()
    with pytest.raises(RuntimeError, match="first, or use paddle.io.DataLoader in dynamic mode"):
        fluid.io.DataLoader.from_generator([x])


# --- optimizers, regularizers, initializers ------------------------------------------------------

# Arguments of Paddle 1.8 after learning_rate; each optimizer is also called <name>Optimizer.
OPTIMIZERS = {
    "SGD": "parameter_list regularization grad_clip name",
    "Momentum": "momentum parameter_list use_nesterov regularization grad_clip name",
    "Adagrad": "epsilon parameter_list regularization grad_clip name initial_accumulator_value",
    "Adam": "beta1 beta2 epsilon parameter_list regularization grad_clip name lazy_mode",
    "Adamax": "beta1 beta2 epsilon parameter_list regularization grad_clip name",
    "Adadelta": "epsilon rho parameter_list regularization grad_clip name",
    "Lamb": (
        "lamb_weight_decay beta1 beta2 epsilon parameter_list regularization grad_clip "
        "exclude_from_weight_decay_fn name"
    ),
    "RMSProp": "rho epsilon momentum centered parameter_list regularization grad_clip name",
}


def square_program():
    """Build the loss sum(a * a) + sum(b * b) of two parameters that start at 1; return them."""
    one = fluid.initializer.Constant(1.0)
    found = [
        paddle.static.create_parameter([2], "float32", attr=fluid.ParamAttr(name, one))
        for name in ("a", "b")
    ]
    return paddle.sum(sum(parameter * parameter for parameter in found)), found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    """They take the arguments of 1.x in that order, and move what they are told to."""
    optimizer = getattr(fluid.optimizer, name)
    assert optimizer is getattr(fluid.optimizer, f"{name}Optimizer")
    assert issubclass(optimizer, getattr(paddle.optimizer, name))
    order = [*inspect.signature(optimizer).parameters]
    assert order == ["learning_rate", *OPTIMIZERS[name].split()]
    with fresh_program() as executor:
        loss, (a, _) = square_program()
        before = order.index("parameter_list") - 1
        middle = {"momentum": 0.5, "centered": False, "beta1": 0.5, "beta2": 0.75, "rho": 0.5}
        given = [middle.get(argument, 1e-6) for argument in order[1 : 1 + before]]
        optimizer(0.25, *given, [a]).minimize(loss)
        initialize(executor)
        executor.run()
        assert (value("a") < 1).all()
        assert (value("b") == 1).all()
    with pytest.raises(TypeError):
        optimizer(0.25, parameters=None)


def test_regularization_and_minimize():
    with fresh_program() as executor:
        loss, (a, b) = square_program()
        decay = fluid.regularizer.L2Decay(regularization_coeff=0.5)
        sgd = fluid.optimizer.SGD(learning_rate=0.125, regularization=decay)
        sgd.minimize(loss, parameter_list=[b])
        initialize(executor)
        executor.run()
        np.testing.assert_array_equal(value("a"), [1, 1])
        # 1 - rate * (gradient 2 + coefficient * 1), exact in binary
        np.testing.assert_array_equal(value("b"), [1 - 0.125 * 2.5] * 2)
    with fresh_program() as executor:
        loss, _ = square_program()
        decay = fluid.regularizer.L1DecayRegularizer(0.5)
        fluid.optimizer.SGDOptimizer(0.125, regularization=decay).minimize(loss)
        initialize(executor)
        executor.run()
        np.testing.assert_array_equal(value("a"), [1 - 0.125 * 2.5] * 2)


@pytest.mark.parametrize("excluded", [True, False])
def test_lamb_without_decay(excluded):
    """The step is the rate times |p| / |r| times Adam's r, with or without weight decay."""
    settings = {"exclude_from_weight_decay_fn": lambda p: True} if excluded else {}
    settings |= {} if excluded else {"lamb_weight_decay": 0.0}
    with fresh_program() as executor:
        loss, _ = square_program()
        fluid.optimizer.Lamb(0.25, epsilon=1e-12, **settings).minimize(loss)
        initialize(executor)
        fluid.global_scope().find_var("a").get_tensor().set(
            np.array([3, 4], "float32"), fluid.CPUPlace()
        )
        executor.run()
        # Adam's first r is the sign of the gradient.
        np.testing.assert_allclose(value("a"), np.array([3, 4]) - 0.25 * 5 / 2**0.5, rtol=1e-5)


def test_adadelta():
    """Its rate has no effect: the step is -sqrt(epsilon / ((1 - rho) g^2 + epsilon)) g at first."""
    with fresh_program() as executor:
        loss, _ = square_program()
        fluid.optimizer.Adadelta(0.25, epsilon=0.01, rho=0.75).minimize(loss)
        initialize(executor)
        executor.run()
        np.testing.assert_allclose(value("a"), 1 - 2 * np.sqrt(0.01 / 1.01), rtol=1e-6)


@pytest.mark.parametrize("where", ["minimize", "constructor"])
def test_parameters_by_name(where):
    def minimize(loss, parameter_list):
        given = {"parameter_list": parameter_list}
        first, then = (given, {}) if where == "constructor" else ({}, given)
        fluid.optimizer.SGD(0.25, **first).minimize(loss, **then)

    with fresh_program() as executor:
        loss, (_, b) = square_program()
        with pytest.raises(ValueError) as unknown:
            minimize(loss, [b, "c"])
        with pytest.raises(TypeError, match="^parameter_list: expected a list .* got 'a'$"):
            minimize(loss, "a")
        minimize(loss, ("a",))
        initialize(executor)
        executor.run()
        np.testing.assert_array_equal(value("a"), [0.5, 0.5])
        np.testing.assert_array_equal(value("b"), [1, 1])
    assert str(unknown.value) == (
        "parameter_list: expected parameters of the program, ['a', 'b'], got 'c'"
    )


# Name, arguments, least and greatest value.
INITIALIZERS = [
    ("Constant", {"value": 2.0}, 2, 2),
    ("NumpyArrayInitializer", {"value": np.full([400, 50], 3, "float32")}, 3, 3),
    ("Normal", {"loc": 1.0, "scale": 0.0, "seed": 3}, 1, 1),
    ("TruncatedNormal", {"loc": 1.0, "scale": 0.5, "seed": 3}, 0, 2),
    ("Uniform", {"low": 1.0, "high": 2.0, "seed": 3}, 1, 2),
    ("Xavier", {"uniform": True, "fan_in": 4, "fan_out": 2, "seed": 3}, -1, 1),
    ("MSRA", {"uniform": True, "fan_in": 6, "seed": 3}, -1, 1),
]


@pytest.mark.parametrize(("name", "arguments", "least", "most"), INITIALIZERS)
def test_initializers(name, arguments, least, most):
    """20000 values reach the ends of their range to 2 %, and no further."""
    with fresh_program() as executor:
        initializer = getattr(fluid.initializer, name)(**arguments)
        attr = fluid.param_attr.ParamAttr(name="w", initializer=initializer)
        paddle.static.create_parameter([400, 50], "float32", attr=attr)
        initialize(executor)
        found = value("w")
    assert least <= found.min() <= least + 0.02
    assert most - 0.02 <= found.max() <= most


# --- files ---------------------------------------------------------------------------------------


def original_tensor(array):
    """Return a float32 parameter as Paddle's `save` operator wrote it in every version.

    Version 0, no level of detail, version 0 again, then the length and the bytes of a protobuf
    message (field 1: dtype 5, float32; field 2 for each dimension), then the data.
    """
    message = b"\x08\x05" + b"".join(b"\x10" + bytes([size]) for size in array.shape)
    return struct.pack("<IQIi", 0, 0, 0, len(message)) + message + array.tobytes()


@pytest.fixture
def original(tmp_path):
    """Files of parameters as the original layer names and shapes them, and the parameters."""
    rng = np.random.default_rng(1)
    arrays = {
        "deformable_conv_0.b_0": rng.normal(size=2).astype("float32"),
        "deformable_conv_0.w_0": rng.normal(size=(2, 3, 3, 3)).astype("float32"),
    }
    with open(tmp_path / "checkpoint.pdparams", "wb") as file:
        pickle.dump(arrays, file, protocol=2)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "__model__").write_bytes(b"a program of Paddle 1.x")
    for name, array in arrays.items():
        (folder / name).write_bytes(original_tensor(array))
    (folder / "__params__").write_bytes(b"".join(map(original_tensor, arrays.values())))
    return tmp_path, arrays


def example_program(num_filters=2):
    """Build the documentation's example anew; return its result."""
    names = {}
    exec(EXAMPLES["1.5"].replace("paddle.fluid", "paddle_dcn.fluid"), names)
    return names["out"]


LOADERS = {
    "load": lambda exe, path: fluid.load(fluid.default_main_program(), f"{path}/checkpoint", exe),
    "set_program_state": lambda exe, path: fluid.set_program_state(
        fluid.default_main_program(), fluid.load_program_state(f"{path}/checkpoint")
    ),
    "load_params": lambda exe, path: fluid.io.load_params(exe, f"{path}/model"),
    "load_params of one file": lambda exe, path: fluid.io.load_params(
        executor=exe, dirname=f"{path}/model", filename="__params__"
    ),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_parameters_of_the_original(original, loader):
    folder, saved = original
    arrays = feeds()
    with fresh_program() as executor:
        out = example_program()
        initialize(executor)
        LOADERS[loader](executor, folder)
        (out,) = executor.run(feed=arrays, fetch_list=[out])
    wanted = oracle(arrays, saved["deformable_conv_0.w_0"], saved["deformable_conv_0.b_0"])
    assert_close(out.astype("float64"), wanted, "float32", 27, "out")


def test_parameters_written_are_those_of_the_original(original):
    """save_params writes byte for byte what it reads, in one file and in many."""
    folder, saved = original
    with fresh_program() as executor:
        example_program()
        initialize(executor)
        fluid.io.load_params(executor, str(folder / "model"))
        fluid.io.save_params(executor, str(folder / "new"))
        fluid.io.save_params(executor, str(folder / "new"), filename="__params__")
    for name in (*saved, "__params__"):
        assert (folder / "new" / name).read_bytes() == (folder / "model" / name).read_bytes()


@needs_paddle_3
def test_parameters_that_do_not_load(original):
    folder, _ = original
    with fresh_program() as executor:
        x, offset = fluid.layers.data("x", [3, 8, 8]), fluid.layers.data("offset", [18, 8, 8])
        fluid.layers.deformable_conv(x, offset, None, 4, 3, padding=1, modulated=False)
        with pytest.raises(RuntimeError, match="_0: there is no such variable yet, run the start"):
            fluid.io.load_params(executor, str(folder / "model"))
        initialize(executor)
        with pytest.raises(ValueError, match=r"_0: expected shape \[4(, 3, 3, 3)?\], got \[2"):
            fluid.io.load_params(executor, str(folder / "model"))
        with pytest.raises(RuntimeError, match="deformable_conv_0"):
            fluid.io.load_params(executor, str(folder))


@pytest.mark.parametrize("model_filename", [None, "net"])
def test_inference_model(tmp_path, model_filename):
    """It computes what the program does, and for any batch."""
    path = str(tmp_path / "model")
    arrays = feeds()
    with fresh_program() as executor:
        data, offset = (
            fluid.layers.data("data", [3, 32, 32]),
            fluid.layers.data("offset", [18, 32, 32]),
        )
        mask = fluid.layers.data("mask", [9, 32, 32])
        out = fluid.layers.deformable_conv(data, offset, mask, 2, 3, padding=1, im2col_step=2)
        fluid.optimizer.Adam(0.1).minimize(paddle.mean(out))
        initialize(executor)
        weight, bias = value("deformable_conv_0.w_0"), value("deformable_conv_0.b_0")
        names = ["data", "mask", "offset"]
        with pytest.raises(ValueError) as caught:
            fluid.io.save_inference_model(path, ["image"], out, executor)
        fluid.io.save_inference_model(
            path, names, [out], executor, model_filename=model_filename, params_filename="weights"
        )
        with fluid.scope_guard(paddle.static.Scope()):
            program, inputs, targets = fluid.io.load_inference_model(
                path, executor, model_filename=model_filename, params_filename="weights"
            )
            results = [
                executor.run(program, feed=feed, fetch_list=targets)[0]
                for feed in (arrays, {n: np.concatenate([a, a[:1]]) for n, a in arrays.items()})
            ]
    assert str(caught.value) == ("feeded_var_names: expected inputs of the program, got 'image'")
    assert sorted(inputs) == names
    wanted = oracle(arrays, weight, bias)
    wanted = [wanted, np.concatenate([wanted, wanted[:1]])]
    for result, expected in zip(results, wanted):
        assert_close(result.astype("float64"), expected, "float32", 27, "out")


def test_inference_model_of_the_original(original):
    folder = str(original[0] / "model")
    with fresh_program() as executor, pytest.raises(ValueError) as caught:
        fluid.io.load_inference_model(folder, executor)
    assert str(caught.value) == (
        f"dirname: expected a model of current Paddle, got one of Paddle 1.x in {folder!r}; "
        "convert it by paddle_dcn.export.convert, or build its program and read the parameters by "
        "paddle_dcn.fluid.io.load_params"
    )


@needs_paddle_3
@pytest.mark.parametrize(
    "files", [{}, {"net.pdmodel": b"\x08"}, {"net.json": b"no program"}], ids=str
)
def test_inference_model_that_cannot_be_read(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with fresh_program() as executor, pytest.raises(ValueError) as caught:
        fluid.io.load_inference_model(str(tmp_path), executor, "net")
    assert str(caught.value) == (
        "dirname: expected a model of current Paddle, got none that it can read in "
        f"{str(tmp_path)!r} under the name 'net'; parameters of older models are read by "
        "paddle_dcn.fluid.io.load_params"
    )


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fluid.__all__)
def test_every_name_is_there(name):
    assert getattr(fluid, name) is not None


MOVED = [
    ("layers", "IfElse", "use paddle_dcn.fluid.layers.cond"),
    ("layers", "py_reader", "use paddle_dcn.fluid.io.DataLoader"),
    ("layers", "logsumexp", "use paddle.logsumexp of current Paddle"),
    ("layers", "inplace_abn", "use paddle_dcn.fluid.layers.batch_norm"),
    ("layers", "lod_append", "nor has current Paddle"),
    ("optimizer", "RecomputeOptimizer", "use paddle.incubate.optimizer.RecomputeOptimizer"),
    ("", "create_lod_tensor", "use paddle.base.create_lod_tensor"),
    ("layers", "unique", "use paddle.unique of current Paddle, which sorts"),
    ("optimizer", "DpsgdOptimizer", "nor has current Paddle"),
    ("executor", "as_numpy", "nor has current Paddle"),
    ("initializer", "Orthogonal", "use paddle.nn.initializer.Orthogonal of current Paddle"),
    ("regularizer", "Dropout", "nor has current Paddle"),
    ("framework", "in_dygraph_mode", "use paddle.in_dynamic_mode of current Paddle"),
    ("", "dygraph", "use paddle.nn of current Paddle"),
    ("", "contrib", "use paddle.static.amp of current Paddle"),
    ("nets", "sequence_conv_pool", "nor has current Paddle"),
]


@pytest.mark.parametrize(("module", "name", "advice"), MOVED)
def test_names_that_are_not_there(module, name, advice):
    owner = getattr(fluid, module) if module else fluid
    with pytest.raises(AttributeError) as caught:
        getattr(owner, name)
    join = {"use": ": ", "nor": ", ", "": ""}[advice[:3]]
    message = f"module {owner.__name__!r} has no attribute {name!r}{join}{advice}"
    assert str(caught.value).startswith(message)
    assert not hasattr(owner, "__private__")


def test_current_block():
    with fresh_program():
        loss, _ = square_program()
        block = fluid.default_main_program().current_block()
        assert [each.name for each in block.all_parameters()] == ["a", "b"]


def flags():
    """Yield a row for each function or method of fluid with bools in its signature."""
    homes = [fluid.layers, fluid.input, fluid.Executor, fluid.ParallelExecutor, fluid.PyReader]
    homes += [fluid.optimizer.ExponentialMovingAverage, fluid.layers.While, fluid.nets, fluid.io]
    for home in homes:
        for name, function in vars(home).items():
            if inspect.isfunction(function):
                parameters = inspect.signature(function).parameters
                kinds = ("bool", "bool | None")
                wanted = [p.name for p in parameters.values() if p.annotation in kinds]
                needed = [p.name for p in parameters.values() if p.default is p.empty]
                if wanted:
                    yield pytest.param(function, needed, wanted, id=f"{home.__name__}.{name}")


@pytest.mark.parametrize(("function", "needed", "wanted"), [*flags()])
def test_flags_are_bools(function, needed, wanted):
    for flag in wanted:
        for wrong in ("False", 0.0):
            with pytest.raises(TypeError, match=f"^{flag}: expected a bool, got "):
                function(**{**dict.fromkeys(needed), flag: wrong})


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("use_nesterov", lambda flag: fluid.optimizer.Momentum(0.1, 0.9, use_nesterov=flag)),
        ("lazy_mode", lambda flag: fluid.optimizer.Adam(0.1, lazy_mode=flag)),
        (
            "conv_with_batchnorm",
            lambda flag: fluid.nets.img_conv_group(None, [2, 2], 2, conv_with_batchnorm=[0, flag]),
        ),
    ],
)
def test_flags_without_a_word_in_the_signature(name, call):
    with pytest.raises(TypeError, match=f"^{name}: expected a bool, got 'False'"):
        call("False")
