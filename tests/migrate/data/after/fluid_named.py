"""Calls that name their parameters, in place or by **kwargs."""
import paddle_dcn.fluid as fluid
from paddle_dcn.fluid import ParamAttr


def conv(x, offset, mask, filters, name, **kwargs):
    if kwargs:
        return fluid.layers.deformable_conv(x, offset, mask, filters, 3, padding=1, **kwargs)
    x = fluid.layers.deformable_conv(
        input=x,  # features
        offset=offset, mask=mask,
        num_filters=filters,
        filter_size=3,  # square
        padding=1,
        groups=1,
        deformable_groups=1,
        im2col_step=1,
        param_attr=ParamAttr(name=name + "_weights"),
        bias_attr=ParamAttr(name="{}_bias".format(name)),
        name=name + ".conv2d")
    return x


def build():
    x = fluid.layers.data("x", [4, 6, 7])
    offset = fluid.layers.data("offset", [18, 6, 7])
    mask = fluid.layers.data("mask", [9, 6, 7])
    out = conv(x, offset, mask, 5, "dcn")
    conv(x, offset, mask, 5, "other", param_attr=ParamAttr(name="other_weights"))
    (fluid.layers.deformable_conv(x, offset, None, 5, 3, 1, 1, param_attr="v1", bias_attr=False,
                                  modulated=False))
    exe = fluid.Executor(fluid.CPUPlace())
    exe.run(fluid.default_startup_program())
    return exe, out
