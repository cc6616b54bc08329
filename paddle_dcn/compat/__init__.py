"""Other libraries' deformable convolutions on this operator: change the import, keep the code.

`compat.mmcv` (with `convert_state_dict` for its checkpoints), `compat.torchvision` and
`compat.npu` have the names, argument orders, defaults and shapes of the originals. They translate
arguments and nothing else: every value comes from `paddle_dcn.deform_conv2d`.
"""

from . import mmcv, npu, torchvision

__all__ = ["mmcv", "npu", "torchvision"]
