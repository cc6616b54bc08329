# Names imported one by one, under aliases, called by position and by keyword.
import numpy as np
from paddle.vision.ops import nms  # nms stays where it is
from paddle_dcn import deform_conv2d as dcn


def run(x, offset, mask, weight):
    first = dcn(x, offset, weight, None, 1, 1, 1, 1, 1, mask)
    second = dcn(
        x,
        offset,
        weight,
        padding=1,  # keeps the size
        mask=mask,
    )
    assert np.array_equal(first.numpy(), second.numpy()) and callable(nms)
    return second
