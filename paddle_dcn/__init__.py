"""Deformable convolution v1 and v2 as a PaddlePaddle operator."""

__version__ = "0.1.0"
