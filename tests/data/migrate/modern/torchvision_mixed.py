"""Other parts of torchvision and torch stay: porting them is not this tool's job."""
import torch
import torchvision
import paddle_dcn.compat.torchvision
from torchvision.ops import (nms,
                             roi_align)
from paddle_dcn.compat.torchvision import (
    DeformConv2d,  # boxes, layer
)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = DeformConv2d(4, 4, 3)

    def forward(self, x, offset, boxes):
        x = paddle_dcn.compat.torchvision.deform_conv2d(self.conv(x, offset), offset, self.conv.weight)
        return torchvision.ops.roi_pool(x, boxes, 3), nms, roi_align
