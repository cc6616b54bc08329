"""Base classes, attributes of classes, annotations, isinstance."""
from __future__ import annotations

import paddle
import paddle_dcn as ops


class Sharp(ops.DeformConv2D):
    """Starts from given weights."""

    operator = staticmethod(ops.deform_conv2d)

    def __init__(self, weight, **kwargs):
        outputs, channels, *kernel = weight.shape
        super().__init__(channels, outputs, kernel, bias_attr=False, **kwargs)
        self.weight.set_value(weight)

    def like(self, other: "ops.DeformConv2D") -> ops.DeformConv2D:
        return other if isinstance(other, ops.DeformConv2D) else self


class Net(paddle.nn.Layer):
    def __init__(self, weight):
        super().__init__()
        self.conv = Sharp(weight, padding=1)

    def forward(self, x, offset, mask):
        return self.conv.like(None)(x, offset, mask)


def run(x, offset, mask, weight):
    return Net(weight)(x, offset, mask)
