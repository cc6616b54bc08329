"""The static call of Paddle 2.x, by three spellings."""
import paddle
import paddle.static.nn as nn
from paddle.static.nn import deform_conv2d, fc


def build():
    shapes = {"x": [-1, 4, 6, 7], "offset": [-1, 18, 6, 7], "mask": [-1, 9, 6, 7]}
    x, offset, mask = (paddle.static.data(*item) for item in shapes.items())
    v1 = deform_conv2d(x, offset, None, 5, 3, padding=1, weight_attr="v1", bias_attr=False)
    v2 = nn.deform_conv2d(x, offset, mask, 5, 3, padding=1)
    out = paddle.static.nn.deform_conv2d(x=x, offset=offset, mask=mask, num_filters=5,
                                         filter_size=3, padding=1, weight_attr="weight",
                                         bias_attr="bias", name="third")
    assert v1.shape == v2.shape == out.shape and callable(fc)
    exe = paddle.static.Executor(paddle.CPUPlace())
    exe.run(paddle.static.default_startup_program())
    return exe, out
