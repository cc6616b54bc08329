"""Aliases of the module, of its layers and of the operator."""
from paddle import fluid
from paddle.fluid.initializer import Constant
from paddle.fluid.param_attr import ParamAttr as Attr

layers = fluid.layers
conv = fluid.layers.deformable_conv


def build():
    offset, mask = layers.data("offset", [18, 6, 7]), layers.data("mask", [9, 6, 7])
    attr = Attr(name="shared", initializer=Constant(0.25))
    out = conv(layers.data("x", [4, 6, 7]), offset, mask, 5, 3, 1, 1, 1, 1, 1, 1, attr, False)
    exe = fluid.Executor(fluid.CPUPlace())
    exe.run(fluid.default_startup_program())
    return exe, out
