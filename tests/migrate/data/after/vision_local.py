"""Imports in functions, classes, conditions and try statements; several statements in a line."""
import sys; import paddle_dcn; eight = paddle_dcn.DeformConv2D(8, 8, 3)

if sys.version_info >= (3, 9): import paddle_dcn as ops
else:
    import paddle_dcn as ops

try:
    from paddle_dcn import (
        DeformConv2D,  # the layer
        # and its function
        deform_conv2d as dcn
    )
except ImportError:
    DeformConv2D = dcn = None


class Holder:
    from paddle_dcn import deform_conv2d
    convolve = staticmethod(deform_conv2d)


def lazily(*args, **kwargs):
	import paddle_dcn  # tabs here
	return paddle_dcn.deform_conv2d(*args, **kwargs)


def run(x, offset, mask, weight):
    assert isinstance(eight, DeformConv2D) and Holder.convolve is dcn is ops.deform_conv2d
    return lazily(x, offset, weight, padding=1, mask=mask)
