"""Lets `paddle.flops` count deformable convolutions, which it takes for nothing."""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import paddle
from paddle import Tensor, nn

from .aggregation import AggregationLayer
from .compat._shared import Convolution
from .layers import DeformConv2D

# Not the function of the same name that the package holds.
_module = importlib.import_module("paddle.hapi.dynamic_flops")


def _count(layer: nn.Layer, inputs: tuple[Tensor, ...], out: Tensor) -> None:
    """Add the multiply-adds of one call, which is what Paddle calls FLOPs.

    As in Paddle's count of conv2d, every parameter takes part in one for each output pixel; here
    those of what predicts offsets as well, and every sample of every channel is the sum of four
    products.
    """
    if isinstance(layer, AggregationLayer):
        pixels, samples = out.size // layer.channels, layer.taps * layer.channels
    else:
        pixels = out.size // layer.weight.shape[0]
        samples = math.prod(layer.weight.shape[2:]) * inputs[0].shape[_channel_axis(layer)]
    statistics = ("._mean", "._variance")  # of BatchNorm, which Paddle keeps as parameters
    named = layer.named_parameters()
    parameters = sum(each.size for name, each in named if not name.endswith(statistics))
    layer.total_ops += pixels * (parameters + 4 * samples)


def _channel_axis(layer: nn.Layer) -> int:
    attributes = getattr(layer, "_attributes", None)
    return 3 if getattr(attributes, "data_format", "NCHW") == "NHWC" else 1


def _install() -> None:
    """Have the function that counts take our layers, packs and all, as single ones."""
    original = _module.dynamic_flops

    @functools.wraps(original)
    def dynamic_flops(
        model: nn.Layer, inputs: Any, custom_ops: dict | None = None, print_detail: bool = False
    ) -> int:
        kinds = (DeformConv2D, Convolution, AggregationLayer, paddle.vision.ops.DeformConv2D)
        if isinstance(model, kinds):  # it counts what is inside of a model only
            layer, model = model, nn.Sequential(model)
            model.training = layer.training
        layers = [layer for layer in model.sublayers() if isinstance(layer, kinds)]
        custom_ops = {**{type(layer): _count for layer in layers}, **(custom_ops or {})}
        try:
            for layer in layers:  # it looks at layers without children only
                object.__setattr__(layer, "children", tuple)
            return original(model, inputs, custom_ops, print_detail)
        finally:
            for layer in layers:
                layer.__dict__.pop("children", None)

    _module.dynamic_flops = dynamic_flops


_install()
