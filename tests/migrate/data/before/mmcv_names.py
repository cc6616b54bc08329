"""Functions and layers of mmcv; the tensors may be anyone's."""
from mmcv.ops import (
    # functions
    deform_conv2d,
    modulated_deform_conv2d as mdc,  # v2
    # layers
    ModulatedDeformConv2dPack,
)
from mmcv.ops.deform_conv import DeformConv2d as DCN


def run(x, offset, mask, weight):
    outputs, channels, *kernel = weight.shape
    assert deform_conv2d(x, offset, weight, 1, 1).shape == mdc(
        x, offset, mask, weight, None, 1, 1, 1, 1, 1).shape
    assert DCN(channels, outputs, kernel, padding=1)(x, offset).shape[1] == outputs
    layer = ModulatedDeformConv2dPack(channels, outputs, kernel, padding=1)
    layer(x).mean()
    return mdc(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
