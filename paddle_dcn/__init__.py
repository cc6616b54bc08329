"""Deformable convolution v1 and v2 as a PaddlePaddle operator."""

from importlib.util import find_spec

if find_spec("paddle") is None:
    raise ImportError("paddle_dcn needs PaddlePaddle: install paddlepaddle or paddlepaddle-gpu")

from . import compat as compat
from . import export as export
from ._patch import patch, patched, unpatch
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
    "patch",
    "patched",
    "unpatch",
]
