"""Calls whose parameters have names of their own can be layers; others have to stay calls."""
import paddle_dcn.fluid as fluid
import paddle_dcn
from paddle_dcn.fluid import ParamAttr


def conv(x, offset, mask, filters, name, **kwargs):
    if kwargs:
        return fluid.layers.deformable_conv(x, offset, mask, filters, 3, padding=1, **kwargs)
    x = paddle_dcn.DeformConv2D(
        in_channels=x.shape[1],  # features
        out_channels=filters,
        kernel_size=3,  # square
        padding=1,
        groups=1,
        deformable_groups=1,
        im2col_step=1,
        weight_attr=ParamAttr(name=name + "_weights"),
        bias_attr=ParamAttr(name="{}_bias".format(name)))(x, offset, mask)
    return x


def build():
    x = fluid.layers.data("x", [4, 6, 7])
    offset = fluid.layers.data("offset", [18, 6, 7])
    mask = fluid.layers.data("mask", [9, 6, 7])
    out = conv(x, offset, mask, 5, "dcn")
    conv(x, offset, mask, 5, "other", param_attr=ParamAttr(name="other_weights"))
    (paddle_dcn.DeformConv2D(in_channels=x.shape[1], out_channels=5, kernel_size=3, stride=1, padding=1, weight_attr="v1", bias_attr=False)(x, offset))
    exe = fluid.Executor(fluid.CPUPlace())
    exe.run(fluid.default_startup_program())
    return exe, out
