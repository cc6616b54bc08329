import paddle
import paddle_dcn.fluid


def build():
    assert not paddle.in_dynamic_mode()
    x = paddle_dcn.fluid.layers.data("x", [4, 6, 7])
    offset = paddle_dcn.fluid.layers.data("offset", [18, 6, 7])
    mask = paddle_dcn.fluid.layers.data("mask", [9, 6, 7])
    out = paddle_dcn.fluid.layers.deformable_conv(
        x, offset, mask, 5, 3, padding=1,
        param_attr=paddle_dcn.fluid.ParamAttr(name="weight"))  # and a bias
    exe = paddle_dcn.fluid.Executor(paddle_dcn.fluid.CPUPlace())
    exe.run(paddle_dcn.fluid.default_startup_program())
    return exe, out
