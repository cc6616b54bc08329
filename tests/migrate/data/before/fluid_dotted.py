import paddle
import paddle.fluid
import paddle.fluid.layers


def build():
    assert not paddle.in_dynamic_mode()
    x = paddle.fluid.layers.data("x", [4, 6, 7])
    offset = paddle.fluid.layers.data("offset", [18, 6, 7])
    mask = paddle.fluid.layers.data("mask", [9, 6, 7])
    out = paddle.fluid.layers.deformable_conv(
        x, offset, mask, 5, 3, padding=1,
        param_attr=paddle.fluid.ParamAttr(name="weight"))  # and a bias
    exe = paddle.fluid.Executor(paddle.fluid.CPUPlace())
    exe.run(paddle.fluid.default_startup_program())
    return exe, out
