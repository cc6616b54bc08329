# A script of Paddle 1.x: everything it uses of fluid is there again.
import paddle.fluid as fluid


def build():
    data = fluid.data(name="x", shape=[None, 4, 6, 7], dtype="float32")
    offset = fluid.layers.data("offset", [18, 6, 7])
    mask = fluid.layers.data("mask", [9, 6, 7])
    out = fluid.layers.deformable_conv(input=data, offset=offset, mask=mask,
                                       num_filters=5, filter_size=3, padding=1)
    exe = fluid.Executor(fluid.CPUPlace())
    exe.run(fluid.default_startup_program())
    return exe, out
