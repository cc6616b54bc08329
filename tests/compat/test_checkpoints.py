"""convert_state_dict: containers, the names of several libraries, a model that decides, reports."""

import warnings

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn.compat import dcn_v2, detectron2, internimage
from paddle_dcn.compat.mmcv import (
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    convert_state_dict,
)
from tests.support.programs import static_program


def arrays(prefix="", offset="conv_offset.", dtype="float32"):
    """Values of a modulated pack of 4 channels and 6 outputs, each its own."""
    shapes = {
        prefix + "weight": [6, 4, 3, 3],
        prefix + "bias": [6],
        prefix + offset + "weight": [27, 4, 3, 3],
        prefix + offset + "bias": [27],
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 1, shape).astype(dtype) for name, shape in shapes.items()}


def load(model, state):
    """Convert and load without any complaint; return what was converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = convert_state_dict(state, model)
        assert model.set_state_dict(converted) == ([], [])
    assert not converted.left_over and not converted.missing
    return converted


STATE = arrays()
OTHER = {name: array + 1 for name, array in STATE.items()}
CONTAINERS = {
    "mmcv": {"meta": {"epoch": 3}, "state_dict": STATE, "optimizer": {"state": {}}},
    "mmcv with averages": {"state_dict": STATE, "ema_state_dict": OTHER},
    "BasicSR": {"params": STATE},
    "BasicSR with averages": {"params": OTHER, "params_ema": STATE},
    "detectron2": {"model": STATE, "iteration": 3, "__author__": "someone"},
    "averages": {"model": OTHER, "ema": STATE, "updates": 7},
    "InternImage with averages": {"model": OTHER, "model_ema": STATE, "max_accuracy": 0.8},
    "timm with averages": {"state_dict": OTHER, "state_dict_ema": STATE, "version": 2},
    "settings": {"model_ema": {}, "ema": {"decay": 0.9}, "params": {"lr": 0.1}, "model": STATE},
    "settings of more kinds": {
        "ema": {"betas": [0.9, 0.99], "cfg": {"decay": 0.9}, "steps": np.array(3)},
        "model": STATE,
    },
    "averages in a wrapper": {"ema": {"module": STATE, "updates": 7}},
    "ema_state_dict": {"ema_state_dict": {"steps": np.array(3)} | arrays("module.")},
    "nested": {"model": {"state_dict": STATE}},
    "DataParallel": {"state_dict": arrays("module.")},
    "torch.compile": arrays("_orig_mod."),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name):
    model = ModulatedDeformConv2dPack(4, 6, 3)
    if "steps" in str(CONTAINERS[name].get("ema_state_dict", {}).keys()):
        with pytest.warns(UserWarning, match=r"left over 1 \('steps'\), missing 0"):
            converted = convert_state_dict(CONTAINERS[name], model)
    else:
        converted = load(model, CONTAINERS[name])
    assert [*converted] == [*STATE]
    without = convert_state_dict(CONTAINERS[name])
    for key, array in STATE.items():
        np.testing.assert_array_equal(converted[key].numpy(), array)
        np.testing.assert_array_equal(without[key].numpy(), array)


def test_a_model_in_place_of_its_state():
    model = ModulatedDeformConv2dPack(4, 6, 3)
    assert [*convert_state_dict({"model": model, "epoch": 1})] == [*model.state_dict()]


class Net(paddle.nn.Layer):
    """A layer and beside it the convolution of its offsets, under any two names."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def beside(layer, name):
    return Net(**{name: layer, f"{name}_offset": paddle.nn.Conv2D(4, 27, 3)})


D2 = arrays("conv2.", "conv_offset.")
D2 = {name.replace(".conv_offset", "_offset"): array for name, array in D2.items()}
FROM_AND_TO = {
    "CenterNet": (arrays("", "conv_offset_mask."), lambda: ModulatedDeformConv2dPack(4, 6, 3)),
    "CharlesShang": (arrays("", "conv_offset_mask."), lambda: dcn_v2.DCN(4, 6, 3, 1, 0)),
    "mmcv to CharlesShang": (STATE, lambda: dcn_v2.DCN(4, 6, 3, 1, 0)),
    "this package": (STATE, lambda: paddle_dcn.ModulatedDeformConv2DPack(4, 6, 3)),
    "detectron2 to a pack": (D2, lambda: Net(conv2=ModulatedDeformConv2dPack(4, 6, 3))),
    "detectron2": (D2, lambda: beside(detectron2.ModulatedDeformConv(4, 6, 3), "conv2")),
    "a sibling conv_offset": (
        {name.replace("conv2", "conv"): array for name, array in D2.items()},
        lambda: beside(ModulatedDeformConv2d(4, 6, 3), "conv"),
    ),
}


@pytest.mark.parametrize("name", FROM_AND_TO)
def test_names_are_those_of_the_model(name):
    state, make = FROM_AND_TO[name]
    model = make()
    converted = load(model, state)
    for array, (key, tensor) in zip(state.values(), converted.items()):
        np.testing.assert_array_equal(tensor.numpy(), array, err_msg=key)


def test_names_without_a_model():
    renamed = convert_state_dict(arrays("a.", "conv_offset_mask.")).renamed
    assert renamed == {
        f"a.conv_offset_mask.{last}": f"a.conv_offset.{last}" for last in ("weight", "bias")
    }
    assert [*convert_state_dict(D2)][2:] == ["conv2.conv_offset.weight", "conv2.conv_offset.bias"]
    sibling, _ = FROM_AND_TO["a sibling conv_offset"]
    assert [*convert_state_dict(sibling)] == [*sibling]


@pytest.mark.parametrize("have, wanted", [("float16", "float32"), ("float64", "float16")])
def test_values_get_the_dtype_of_the_model(have, wanted):
    model = ModulatedDeformConv2dPack(4, 6, 3).to(dtype=wanted)
    state = arrays(dtype=have)
    load(model, state)
    for name, tensor in model.state_dict().items():
        # Before 3.1, Paddle cuts bits off instead of rounding to the nearest.
        np.testing.assert_allclose(tensor.numpy(), state[name].astype(wanted), rtol=2**-10)


def test_report():
    model = Net(a=ModulatedDeformConv2dPack(4, 6, 3), bn=paddle.nn.BatchNorm2D(6))
    state = arrays("a.", "conv_offset_mask.") | {
        "bn.running_mean": np.ones(6, "float32"),
        "bn.num_batches_tracked": np.array(3),
        "bn.weight": np.ones(7, "float32"),
        "head.weight": np.ones([2, 6], "float32"),
        "note": "text",
    }
    with pytest.warns(UserWarning) as caught:
        converted = convert_state_dict(state, model)
    report = (
        "converted 5, renamed 3, left over 3 ('bn.weight', 'head.weight', 'note'), missing 3 "
        "('bn.weight', 'bn.bias', 'bn._variance')"
    )
    assert converted.report() == report
    assert [str(warning.message) for warning in caught] == [f"convert_state_dict: {report}"]
    assert converted.left_over == ["bn.weight", "head.weight", "note"]
    assert converted.renamed["bn.running_mean"] == "bn._mean"
    missing, unexpected = model.set_state_dict(converted)
    assert missing == converted.missing and not unexpected


def test_model_of_a_static_program():
    with static_program():
        model = DeformConv2dPack(4, 6, 3)
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(paddle.static.default_startup_program())
        state = {"weight": np.ones([6, 4, 3, 3], "float16")}
        with pytest.warns(UserWarning, match="missing 2"):
            converted = convert_state_dict(state, model)
        model.set_state_dict(converted)
        found = paddle.static.global_scope().find_var(model.weight.name).get_tensor()
        np.testing.assert_array_equal(found, np.ones([6, 4, 3, 3], "float32"))


NOTHING = [
    ({}, None, "^state: expected names of arrays, got nothing$"),
    ({"epoch": 3, "lr": 0.1}, None, "^state: expected names of arrays, got 'epoch', 'lr'$"),
    ({"model": {"epoch": 3}}, None, r"^state\['model'\]: expected names of arrays, got 'epoch'$"),
    ({"bn.num_batches_tracked": np.array(3)}, None, "besides num_batches_tracked, got 'bn.num_b"),
    ({"state": {}, "param_groups": []}, None, "got an optimizer's state$"),
    ({"a.weight": np.ones(3)}, DeformConv2dPack, "entries of the model, 'weight', .*'a.weight'$"),
    ({"weight": np.ones(3)}, DeformConv2dPack, "in its shapes, got 'weight'$"),
    (
        {"neck.dcn.weight": np.ones([6, 4, 3, 3]), "head.weight": np.ones(3)},
        DeformConv2dPack,
        "got .*'head.weight'; take those that begin with 'neck.dcn.', and cut that off$",
    ),
]


@pytest.mark.parametrize("state, kind, message", NOTHING, ids=[row[2] for row in NOTHING])
def test_a_result_from_which_nothing_would_load_is_an_error(state, kind, message):
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state, kind and kind(4, 6, 3))


class Shared(paddle.nn.Layer):
    """A square and an oblong Linear layer, the former under two names."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = paddle.nn.Linear(3, 3), paddle.nn.Linear(3, 2)
        self.again = self.fc


def linear_state(transposed=True):
    """What PyTorch has for `Shared`, or Paddle: values each its own."""
    square, oblong = np.arange(9, dtype="float32").reshape(3, 3), np.ones([3, 2], "float32")
    oblong[0] = 7
    state = {"fc.weight": square, "again.weight": square, "head.weight": oblong}
    state = {name: value.T.copy() if transposed else value for name, value in state.items()}
    biases = {"fc.bias": np.zeros(3), "again.bias": np.zeros(3), "head.bias": np.zeros(2)}
    return state | {name: value.astype("float32") for name, value in biases.items()}


@pytest.mark.parametrize("convert", [convert_state_dict, internimage.convert_state_dict])
@pytest.mark.parametrize("kind", ["torch", "numpy", "paddle", "numpy of Paddle", "DataParallel"])
def test_matrices_of_linear_layers_are_transposed(kind, convert):
    state = linear_state(transposed="addle" not in kind)
    if kind == "torch":
        torch = pytest.importorskip("torch", reason="pip install torch")
        state = {name: torch.from_numpy(value) for name, value in state.items()}
    if kind == "paddle":
        state = {name: paddle.to_tensor(value) for name, value in state.items()}
    model = Shared()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle's, that there is one process
        target = paddle.DataParallel(model) if kind == "DataParallel" else model
        warnings.simplefilter("error")
        converted = convert(state, target)
        assert model.set_state_dict(converted) == ([], [])
    for name, value in linear_state(transposed=False).items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value, err_msg=name)


def test_a_parameter_under_two_names_is_there_if_one_of_them_is():
    state = {name: value for name, value in linear_state().items() if "again" not in name}
    converted = load(Shared(), state)
    assert [*converted] == [*state, "again.weight", "again.bias"]
    assert converted["again.weight"] is converted["fc.weight"]
    recurrent = paddle.nn.LSTM(3, 2)  # Paddle's has two names for each of its parameters
    values = {name: value.numpy() for name, value in recurrent.state_dict().items()}
    load(recurrent, {name: value for name, value in values.items() if "cell" not in name})


SQUARE = np.arange(4, dtype="float32").reshape(2, 2)


def test_arrays_of_unknown_layout_are_told():
    model = paddle.nn.Linear(2, 2, bias_attr=False)
    with pytest.warns(UserWarning, match="taken for PyTorch's, .*: 'weight'; ") as caught:
        converted = convert_state_dict({"weight": SQUARE}, model)
    np.testing.assert_array_equal(converted["weight"].numpy(), SQUARE.T)
    with pytest.warns(UserWarning, match="kept as they are, .*: 'weight'; ") as without:
        converted = convert_state_dict({"weight": SQUARE})
    np.testing.assert_array_equal(converted["weight"].numpy(), SQUARE)
    assert {warning.filename for warning in [*caught, *without]} == {__file__}


@pytest.mark.parametrize("form", ["pt", "pd", None])
def test_layout_of_a_file(form, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    path = tmp_path / "model.safetensors"
    numpy.save_file({"weight": SQUARE}, path, metadata=form and {"format": form})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        converted = convert_state_dict(path, paddle.nn.Linear(2, 2, bias_attr=False))
    wanted = SQUARE if form == "pd" else SQUARE.T
    np.testing.assert_array_equal(converted["weight"].numpy(), wanted)
    told = [warning for warning in caught if "taken for PyTorch's" in str(warning.message)]
    assert len(told) == (form is None)


LAYERS = [  # layer, how PyTorch calls it, constructor arguments
    *(("Conv2D", "Conv2d", (4, 6, 3)), ("Conv2DTranspose", "ConvTranspose2d", (4, 4, 2))),
    *(("Conv1DTranspose", "ConvTranspose1d", (3, 3, 2)), ("Embedding", "Embedding", (3, 3))),
    *(("LSTMCell", "LSTMCell", (3, 3)), ("GRUCell", "GRUCell", (3, 3))),
    *(("SimpleRNNCell", "RNNCell", (3, 3)), ("LayerNorm", "LayerNorm", (3,))),
    *(("Linear", "Linear", (3, 3)), ("spectral_norm", "spectral_norm", (3, 3))),
    ("compat.nn.Linear", "Linear", (3, 3)),  # Paddle's layer with PyTorch's layout
]


@pytest.mark.parametrize("ours, theirs, sizes", LAYERS, ids=[row[0] for row in LAYERS])
def test_a_layer_computes_what_that_of_pytorch_does(ours, theirs, sizes):
    """Square sizes, so that a wrong layout would load."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    torch.manual_seed(0)
    if ours == "spectral_norm":
        model = paddle.nn.utils.spectral_norm(paddle.nn.Linear(*sizes))
        other = torch.nn.utils.spectral_norm(torch.nn.Linear(*sizes)).eval()
        model.eval()
    else:
        if ours == "compat.nn.Linear":
            compat = pytest.importorskip("paddle.compat.nn", reason="Paddle before 3.3 lacks it")
            model = compat.Linear(*sizes)
        else:
            model = getattr(paddle.nn, ours)(*sizes)
        other = getattr(torch.nn, theirs)(*sizes)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    load(model, other)
    shapes = {"Conv2D": (2, 4, 5, 5), "Conv2DTranspose": (2, 4, 5, 5), "Conv1DTranspose": (2, 3, 4)}
    x = np.random.default_rng(0).normal(0, 1, shapes.get(ours, (2, 3))).astype("float32")
    x = x.astype("int64") % 3 if ours == "Embedding" else x
    with torch.no_grad():
        wanted = other(torch.from_numpy(x))
    out = model(paddle.to_tensor(x))
    out, wanted = (one[0] if isinstance(one, tuple) else one for one in (out, wanted))
    np.testing.assert_allclose(out.numpy(), wanted.numpy().reshape(out.shape), atol=1e-4)


MASKED = np.ma.masked_array(np.ones(2, "float32"), [True, False])
KEPT = [  # values, dtype of the model, the error
    (
        np.ones(2, "complex64"),
        "float32",
        (TypeError, "expected float32, .*, got complex64 of bias"),
    ),
    (np.array([1, 7e4], "float32"), "float16", (ValueError, "got 70000.0 in bias$")),
    (np.array([1, 7e4], "float32"), "bfloat16", None),
    (np.array([1, 1e39]), "float32", (ValueError, "float32, .* can hold, got 1e[+]39 in bias")),
    (np.array([1, np.inf]), "float16", None),
    (np.array([1, np.nan]), "float16", None),
    (np.array([1, 70000]), "float16", (ValueError, "float16, .* can hold, got 70000.0 in bias")),
    (MASKED, "float32", (TypeError, "without masked values, got them in bias$")),
]


@pytest.mark.parametrize("values, dtype, error", KEPT, ids=[f"{r[0].dtype} {r[1]}" for r in KEPT])
def test_values_are_rounded_and_never_lost(values, dtype, error):
    model = Net()
    model.bias = model.create_parameter([2], dtype=dtype, is_bias=True)
    if error:
        with pytest.raises(error[0], match=error[1]):
            convert_state_dict({"bias": values}, model)
    else:
        out = convert_state_dict({"bias": values}, model)["bias"].astype("float64").numpy()
        np.testing.assert_allclose(out, values, rtol=2**-8)


@pytest.mark.parametrize("value", [1.5, 300, np.nan])
def test_integers_stay_what_they_are(value):
    model = Net()
    model.register_buffer("count", paddle.zeros([1], "int8"))
    with pytest.raises(ValueError, match=f"values that int8, .* can hold, got {value}"):
        convert_state_dict({"count": np.array([value])}, model)
    assert convert_state_dict({"count": np.array([3.0])}, model)["count"].tolist() == [3]


def test_tensors_without_plain_values():
    torch = pytest.importorskip("torch", reason="pip install torch")
    for tensor, message in (
        (torch.zeros(2, device="meta"), "that hold values, got a meta tensor, a$"),
        (torch.eye(2).to_sparse(), "dense tensors, got the layout torch.sparse_coo of a$"),
        (torch.ones(2).to(torch.uint16), "got torch.uint16 of a$"),
        (paddle.eye(2).to_sparse_coo(2), "expected a dense paddle.Tensor, got a sparse one$"),
    ):
        with pytest.raises(TypeError, match=message):
            convert_state_dict({"a": tensor})
    conjugate = torch.tensor([1 + 2j]).conj()
    assert convert_state_dict({"a": conjugate})["a"].tolist() == [1 - 2j]
    assert convert_state_dict({"a": conjugate.imag})["a"].tolist() == [-2]
    lazy = torch.nn.LazyLinear(2).state_dict()
    assert convert_state_dict(lazy | {"a": torch.ones(1)}).left_over == ["weight", "bias"]


def test_files_that_cannot_be_read(tmp_path):
    pytest.importorskip("safetensors", reason="pip install safetensors")
    for content in (b"", b"\x10" + bytes(7) + b"{damaged"):
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged.safetensors', which cannot be read: "):
            convert_state_dict(path)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"got the folder '.*folder\.safetensors'$"):
        convert_state_dict(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("model", [{}, 3, "name", paddle.nn.Linear, np.ones(1)], ids=repr)
@pytest.mark.parametrize("convert", [convert_state_dict, internimage.convert_state_dict])
def test_a_model_is_a_layer(convert, model):
    with pytest.raises(TypeError, match="^model: expected a paddle.nn.Layer or None, got "):
        convert(STATE, model)


def pack():
    return ModulatedDeformConv2dPack(4, 6, 3)


@pytest.mark.parametrize(
    "prefix, make",
    [
        ("module.", lambda: Net(module=pack())),
        ("module.module.", lambda: Net(module=pack())),
        ("_orig_mod.module.", pack),
        ("module._orig_mod.", pack),
        ("_orig_mod.module.", lambda: Net(module=pack())),
    ],
)
def test_prefixes_that_are_not_the_models(prefix, make):
    load(make(), arrays(prefix))


def test_the_name_that_the_model_has_comes_first():
    """A sibling of a layer that the model lacks may be called as an older name of its own."""
    state = arrays("conv.") | {"conv_offset.weight": np.ones([27, 4, 3, 3], "float32")}
    for order in (list(state), list(state)[::-1]):
        with pytest.warns(UserWarning, match="left over 1 .'conv_offset.weight'.*, missing 0"):
            converted = convert_state_dict({name: state[name] for name in order}, Net(conv=pack()))
        offsets = converted["conv.conv_offset.weight"].numpy()
        np.testing.assert_array_equal(offsets, state["conv.conv_offset.weight"])
