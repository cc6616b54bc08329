"""A module under its own name and under two aliases, in all of which only the operator is used."""
import paddle_dcn as ops
import paddle_dcn as vision_ops, functools
import paddle_dcn

same_size = functools.partial(ops.deform_conv2d, padding=1)
convolve = vision_ops.deform_conv2d


def run(x, offset, mask, weight, conv=convolve):
    assert conv is ops.deform_conv2d is paddle_dcn.deform_conv2d
    return same_size(x,
                     offset,  # dy, dx
                     weight, mask=mask)
