import paddle_dcn.compat.torchvision
from paddle_dcn.compat import torchvision as ops


def run(x, offset, mask, weight):
    layer = ops.DeformConv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    assert layer(x, offset, mask).shape == ops.deform_conv2d(x, offset, weight, padding=1).shape
    return paddle_dcn.compat.torchvision.deform_conv2d(
        x, offset, weight, padding=(1, 1), mask=mask)
