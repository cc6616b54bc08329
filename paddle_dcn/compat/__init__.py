"""Other libraries' deformable convolutions on this operator: change the import, keep the code.

`compat.mmcv` (with `convert_state_dict` for checkpoints of PyTorch), `compat.mmdet` (1.x),
`compat.detectron2`, `compat.dcn_v2` (CharlesShang's), `compat.torchvision`, `compat.npu` and
`compat.internimage` (DCNv3 and DCNv4) have the names, argument orders, defaults and shapes of the
originals. Every sample and sum is this package's operator's; around it stands only what an original
does to its arguments and results: casts, padding of small images, another layout.
"""

from . import dcn_v2, detectron2, internimage, mmcv, mmdet, npu, torchvision

__all__ = ["dcn_v2", "detectron2", "internimage", "mmcv", "mmdet", "npu", "torchvision"]
