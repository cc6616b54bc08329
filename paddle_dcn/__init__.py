"""Deformable convolution v1 and v2 as a PaddlePaddle operator."""

from .functional import deform_conv2d
from .layers import DeformConv2D, DeformConv2DPack, ModulatedDeformConv2DPack
from .reference import deform_conv2d_reference

__version__ = "0.1.0"

__all__ = [
    "DeformConv2D",
    "DeformConv2DPack",
    "ModulatedDeformConv2DPack",
    "deform_conv2d",
    "deform_conv2d_reference",
]
