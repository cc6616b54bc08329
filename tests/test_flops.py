"""paddle.flops and paddle.summary count deformable layers as a formula does."""

from __future__ import annotations

import math

import paddle
import pytest
from paddle import nn

from paddle_dcn import (
    DCNv3,
    DCNv4,
    DeformConv2D,
    DeformConv2DPack,
    ModulatedDeformConv2DPack,
    compat,
)


@pytest.fixture(autouse=True)
def _whole_numbers(monkeypatch):
    """Paddle 3.3 makes ints of arrays with one element, as NumPy no longer does from 2.5 on."""
    monkeypatch.setattr(paddle.Tensor, "__int__", lambda tensor: int(tensor.item()))


class Beside(nn.Layer):
    """A layer that takes its offset besides x, with another that predicts it."""

    def __init__(self, kind):
        super().__init__()
        self.predict, self.inner = nn.Conv2D(4, 18, 3), kind(4, 6, 3)

    def forward(self, x):
        return self.inner(x, self.predict(x))


# Products of a 3x3 layer from 4 to 6 channels, its bias, the four for each sample, and the
# convolution that predicts, at each of 8 x 10 output pixels.
PRODUCTS, BIAS, SAMPLES = 4 * 6 * 9, 6, 4 * 4 * 9
OFFSET, FIELD = 18 * (4 * 9 + 1), 27 * (4 * 9 + 1)
PIXELS = 8 * 10

ROWS = {
    "pack": (lambda: DeformConv2DPack(4, 6, 3), PRODUCTS + BIAS + SAMPLES + OFFSET),
    "modulated": (lambda: ModulatedDeformConv2DPack(4, 6, 3), PRODUCTS + BIAS + SAMPLES + FIELD),
    "groups": (
        lambda: DeformConv2DPack(4, 6, 3, groups=2, bias_attr=False),
        PRODUCTS // 2 + SAMPLES + OFFSET,
    ),
    "mmcv": (lambda: compat.mmcv.DeformConv2dPack(4, 6, 3), PRODUCTS + SAMPLES + OFFSET),
    "layer": (lambda: Beside(DeformConv2D), PRODUCTS + BIAS + SAMPLES + OFFSET),
    "paddle's": (
        lambda: Beside(paddle.vision.ops.DeformConv2D),
        PRODUCTS + BIAS + SAMPLES + OFFSET,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_flops(name, capsys):
    build, each = ROWS[name]
    layer = build()
    parameters = sum(parameter.size for parameter in layer.parameters())
    model = nn.Sequential(layer, nn.ReLU())
    plain = nn.Sequential(nn.Conv2D(4, 6, 3))
    children, hooks = list(layer.children()), len(layer._forward_post_hooks)
    assert paddle.flops(model, [1, 4, 10, 12], print_detail=True) == each * PIXELS
    layer.eval()
    assert paddle.flops(layer, [1, 4, 10, 12]) == each * PIXELS
    assert not layer.training and not any(child.training for child in layer.sublayers())
    assert f"Total Params: {parameters}" in capsys.readouterr().out
    assert list(layer.children()) == children and len(layer._forward_post_hooks) == hooks
    assert not layer._buffers
    assert paddle.flops(plain, [1, 4, 10, 12]) == (PRODUCTS + BIAS) * PIXELS  # in the same unit
    assert paddle.summary(model, (1, 4, 10, 12))["total_params"] == parameters


def test_flops_of_channels_last_and_of_own_functions():
    model = nn.Sequential(DeformConv2DPack(4, 6, 3, data_format="NHWC"))
    expected = (PRODUCTS + BIAS + SAMPLES + OFFSET) * PIXELS
    assert paddle.flops(model, [1, 10, 12, 4]) == expected

    def count(layer, inputs, out):
        layer.total_ops += 7

    assert paddle.flops(model, [1, 10, 12, 4], custom_ops={DeformConv2DPack: count}) == 7


LINEAR = 12 * 12 + 12  # of as many channels as there are


@pytest.mark.parametrize(
    ("layer", "shape", "predicted", "taps"),
    [
        # A 3x3 depthwise convolution with bias and norm, then offsets and masks of 3 groups.
        (DCNv3(12, group=3), [1, 10, 9, 12], 12 * (9 + 1 + 2) + 3 * 27 * 13, 9),
        (
            DCNv3(12, group=3, norm_layer="BN", remove_center=True),
            [1, 10, 9, 12],
            12 * (9 + 1 + 2) + 3 * 24 * 13,
            8,
        ),
        (DCNv4(12, group=3), [1, 81, 12], 88 * 13, 9),  # 3 * 27 planes, padded
    ],
)
def test_flops_of_aggregation(layer, shape, predicted, taps):
    expected = 2 * LINEAR + predicted + 4 * taps * 12
    pixels = math.prod(shape[1:-1])
    assert paddle.flops(nn.Sequential(layer), shape) == expected * pixels
