"""`fluid.layer_helper_base` of Paddle 1.x, whose methods scripts replace."""

from paddle.base.layer_helper_base import LayerHelperBase

from ._moved import module_getattr

__all__ = ["LayerHelperBase"]

__getattr__ = module_getattr(__name__)
