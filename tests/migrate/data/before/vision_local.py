"""Imports in functions, classes, conditions and try statements; several statements in a line."""
import sys; import paddle; eight = paddle.vision.ops.DeformConv2D(8, 8, 3)

if sys.version_info >= (3, 9): import paddle.vision.ops as ops
else:
    from paddle.vision import ops

try:
    from paddle.vision.ops import (
        DeformConv2D,  # the layer
        # and its function
        deform_conv2d as dcn
    )
except ImportError:
    DeformConv2D = dcn = None


class Holder:
    from paddle.vision.ops import deform_conv2d
    convolve = staticmethod(deform_conv2d)


def lazily(*args, **kwargs):
	import paddle.vision.ops  # tabs here
	return paddle.vision.ops.deform_conv2d(*args, **kwargs)


def run(x, offset, mask, weight):
    assert isinstance(eight, DeformConv2D) and Holder.convolve is dcn is ops.deform_conv2d
    return lazily(x, offset, weight, padding=1, mask=mask)
