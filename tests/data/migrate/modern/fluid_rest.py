"""Part of a network: what is used of fluid is only partly there again, so both stand here."""
import paddle.fluid as fluid
import paddle_dcn.fluid
from paddle.fluid.dygraph import Conv2D


def block(x, filters, name):
    attr = fluid.ParamAttr(name=name + "_offset")
    offset_mask = fluid.layers.conv2d(x, 27, 3, padding=1, param_attr=attr)
    offset, mask = fluid.layers.split(offset_mask, [18, 9], dim=1)
    mask = fluid.layers.sigmoid(mask)
    x = paddle_dcn.fluid.layers.deformable_conv(input=x, offset=offset, mask=mask,
                                     num_filters=filters, filter_size=3, padding=1)
    return fluid.layers.relu(x), Conv2D
