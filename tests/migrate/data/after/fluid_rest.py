"""What is used of fluid is only partly there again, so that both stand here."""
import paddle.fluid as fluid
import paddle_dcn.fluid
from paddle.fluid.dygraph import Conv2D


def build():
    x = fluid.layers.data("x", [4, 6, 7])
    offset = fluid.layers.roll(fluid.layers.data("offset", [18, 6, 7]), 0)
    mask = fluid.layers.nan_to_num(fluid.layers.data("mask", [9, 6, 7]), 0.0)
    out = paddle_dcn.fluid.layers.deformable_conv(x, offset, mask, 5, 3, padding=1,  # same size
                                       bias_attr=fluid.ParamAttr(name="bias"))
    exe = fluid.Executor(fluid.CPUPlace())
    exe.run(fluid.default_startup_program())
    assert callable(Conv2D)
    return exe, out
