"""The static graph's spelling of Paddle 2.x: `paddle_dcn.static.nn.deform_conv2d`."""

from . import nn

__all__ = ["nn"]
