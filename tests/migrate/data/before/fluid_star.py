from paddle.fluid import *
from paddle.fluid.layers import *


def build():
    shapes = {"x": [4, 6, 7], "offset": [18, 6, 7], "mask": [9, 6, 7]}
    x, offset, mask = (data(name, shape) for name, shape in shapes.items())
    out = deformable_conv(x, offset, mask, num_filters=5, filter_size=3, padding=1)
    exe = Executor(CPUPlace())
    exe.run(default_startup_program())
    return exe, out
