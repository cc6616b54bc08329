"""convert_state_dict: containers, the names of several libraries, a model that decides, reports."""

import warnings

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn.compat import dcn_v2, detectron2
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
