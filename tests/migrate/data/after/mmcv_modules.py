"""Modules of mmcv."""
import paddle_dcn.compat.mmcv
import paddle_dcn.compat.mmcv as dcn  # short
from paddle_dcn.compat import mmcv as modulated_deform_conv

LAYERS = {"DCN": dcn.DeformConv2dPack, "DCNv2": paddle_dcn.compat.mmcv.ModulatedDeformConv2dPack}


def run(x, offset, mask, weight):
    arguments = [1, 1, 1, 1, 1]
    outputs, channels, *kernel = weight.shape
    layer = LAYERS["DCNv2"](channels, outputs, kernel, padding=1)
    assert isinstance(layer, modulated_deform_conv.ModulatedDeformConv2d)
    return paddle_dcn.compat.mmcv.modulated_deform_conv2d(x, offset, mask, weight, None, *arguments)
