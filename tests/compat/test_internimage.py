"""compat.internimage: the originals' calls, and their checkpoints."""

import inspect
import warnings

import numpy as np
import paddle
import pytest

import paddle_dcn
from paddle_dcn.compat import internimage

# The parameters of the originals, with PyTorch's shapes: Linear is [out, in].
V3 = {
    "dw_conv.0.weight": (12, 1, 5, 5),
    "dw_conv.0.bias": (12,),
    "dw_conv.1.1.weight": (12,),
    "dw_conv.1.1.bias": (12,),
    "offset.weight": (48, 12),
    "offset.bias": (48,),
    "mask.weight": (24, 12),
    "mask.bias": (24,),
    "input_proj.weight": (12, 12),
    "input_proj.bias": (12,),
    "output_proj.weight": (12, 12),
    "output_proj.bias": (12,),
    "center_feature_scale_proj_weight": (3, 12),
    "center_feature_scale_proj_bias": (3,),
}
V4 = {
    "offset_mask_dw.weight": (12, 1, 3, 3),
    "offset_mask_dw.bias": (12,),
    "offset_mask.weight": (88, 12),  # 3 groups * 9 taps * 3 = 81, padded
    "offset_mask.bias": (88,),
    "value_proj.weight": (12, 12),
    "value_proj.bias": (12,),
    "output_proj.weight": (12, 12),
    "output_proj.bias": (12,),
    "center_feature_scale_proj_weight": (3, 12),
    "center_feature_scale_proj_bias": (3,),
}
MODELS = {
    "DCNv3": (
        V3,
        lambda: internimage.DCNv3(
            12, group=3, dw_kernel_size=5, center_feature_scale=True, remove_center=True
        ),
    ),
    "DCNv4": (
        V4,
        lambda: internimage.DCNv4(12, group=3, dw_kernel_size=3, center_feature_scale=True),
    ),
}


def checkpoint(shapes, prefix=""):
    rng = np.random.default_rng(0)
    return {prefix + n: rng.normal(0, 1, s).astype("float32") for n, s in shapes.items()}


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_checkpoints(name, with_model):
    shapes, build = MODELS[name]
    model = paddle.nn.Sequential(build())
    state = checkpoint(shapes, "0.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = internimage.convert_state_dict(
            {"model": state, "epoch": 3}, model if with_model else None
        )
        assert model.set_state_dict(converted) == ([], [])
    assert not converted.left_over and not converted.missing and not converted.renamed
    linear = {f"0.{n}" for n, s in shapes.items() if n.endswith(".weight") and len(s) == 2}
    for key, value in model.state_dict().items():
        wanted = state[key].T if key in linear else state[key]
        np.testing.assert_array_equal(value.numpy(), wanted, err_msg=key)


def test_one_linear_layer():
    """A model that is itself one has its weight under no prefix."""
    state = checkpoint({"weight": (3, 2), "bias": (3,)})
    converted = internimage.convert_state_dict(state, paddle.nn.Linear(2, 3))
    np.testing.assert_array_equal(converted["weight"].numpy(), state["weight"].T)


def test_what_does_not_fit_is_told():
    """A Linear weight in Paddle's layout already is one of another shape."""
    state = checkpoint(V3 | {"mask.weight": (12, 24)})
    with pytest.warns(UserWarning, match=r"left over 1 \('mask.weight'\), missing 1") as caught:
        internimage.convert_state_dict(state, MODELS["DCNv3"][1]())
    assert caught[0].filename == __file__


ORIGINAL = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h",
            "dilation_w", "group", "group_channels", "offset_scale", "im2col_step",
            "remove_center")  # fmt: skip


def test_signatures():
    for function, tensors in (
        (internimage.DCNv3Function.apply, ("input", "offset", "mask")),
        (internimage.DCNv4Function.apply, ("input", "offset_mask")),
    ):
        assert (*inspect.signature(function).parameters,) == tensors + ORIGINAL
    names = inspect.signature(internimage.DCNv3).parameters
    assert {name: parameter.default for name, parameter in names.items()} == {
        "channels": 64, "kernel_size": 3, "dw_kernel_size": None, "stride": 1, "pad": 1,
        "dilation": 1, "group": 4, "offset_scale": 1.0, "act_layer": "GELU", "norm_layer": "LN",
        "center_feature_scale": False, "remove_center": False,
    }  # fmt: skip
    names = list(inspect.signature(internimage.DCNv4).parameters.items())[:12]
    assert {name: parameter.default for name, parameter in names} == {
        "channels": 64, "kernel_size": 3, "stride": 1, "pad": 1, "dilation": 1, "group": 4,
        "offset_scale": 1.0, "dw_kernel_size": None, "center_feature_scale": False,
        "remove_center": False, "output_bias": True, "without_pointwise": False,
    }  # fmt: skip


def test_initial_values():
    """Sampling starts at zero; the depthwise convolution within PyTorch's bounds."""
    for layer in (paddle_dcn.DCNv3(16), paddle_dcn.DCNv4(16, dw_kernel_size=3)):
        state = layer.state_dict()
        for name, value in state.items():
            if name.startswith(("offset.", "mask.", "offset_mask.")):
                assert not value.any(), name
            elif name.startswith(("dw_conv.0", "offset_mask_dw")):
                assert 0 < float(value.abs().max()) <= 1 / 3, name
            elif "proj.weight" in name:
                assert 0 < float(value.abs().max()) <= (6 / 32) ** 0.5, name
