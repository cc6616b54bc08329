"""Other libraries' deformable convolutions on this operator: change the import, keep the code.

`compat.torchvision` has
the names, argument orders, defaults and shapes of the original. It translates
arguments and nothing else: every value comes from `paddle_dcn.deform_conv2d`.
"""

from . import npu, torchvision

__all__ = ["npu", "torchvision"]
