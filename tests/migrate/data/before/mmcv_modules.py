"""Modules of mmcv."""
import mmcv.ops
import mmcv.ops as dcn  # short
from mmcv.ops import modulated_deform_conv

LAYERS = {"DCN": dcn.DeformConv2dPack, "DCNv2": mmcv.ops.ModulatedDeformConv2dPack}


def run(x, offset, mask, weight):
    arguments = [1, 1, 1, 1, 1]
    outputs, channels, *kernel = weight.shape
    layer = LAYERS["DCNv2"](channels, outputs, kernel, padding=1)
    assert isinstance(layer, modulated_deform_conv.ModulatedDeformConv2d)
    return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, *arguments)
