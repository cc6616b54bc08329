"""`fluid.param_attr` of Paddle 1.x."""

from paddle import ParamAttr

from ._moved import module_getattr

__all__ = ["ParamAttr"]

__getattr__ = module_getattr(__name__)
