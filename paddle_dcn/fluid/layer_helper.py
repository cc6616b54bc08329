"""`fluid.layer_helper` of Paddle 1.x, which networks with parameters of their own name."""

from ..static._parameters import SharingHelper as LayerHelper
from ._moved import module_getattr

__all__ = ["LayerHelper"]

__getattr__ = module_getattr(__name__)
