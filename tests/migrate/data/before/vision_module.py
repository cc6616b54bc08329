"""A module under its own name and under two aliases, in all of which only the operator is used."""
from paddle.vision import ops
import paddle.vision.ops as vision_ops, functools
from paddle import vision

same_size = functools.partial(ops.deform_conv2d, padding=1)
convolve = vision_ops.deform_conv2d


def run(x, offset, mask, weight, conv=convolve):
    assert conv is ops.deform_conv2d is vision.ops.deform_conv2d
    return same_size(x,
                     offset,  # dy, dx
                     weight, mask=mask)
