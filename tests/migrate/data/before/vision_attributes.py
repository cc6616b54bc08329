#!/usr/bin/env python
# -*- coding: utf-8 -*-
"""Full names: nested calls, a decorator, a default, an f-string, a chain over two lines."""
import paddle  # the framework


def checked(function, of=paddle.vision.ops.deform_conv2d):
    def wrapper(*args, **kwargs):
        return (paddle.vision.ops
                .deform_conv2d)(*args, **kwargs) if of is function else function(*args)
    return wrapper


@checked
def identity(x):
    return x


def run(x, offset, mask, weight):
    label = f"{paddle.vision.ops.deform_conv2d.__name__}: {x.shape}"
    assert label.startswith("deform_conv2d")
    one_by_one = paddle.ones([x.shape[1], 1, 1, 1])
    shifts = paddle.zeros([x.shape[0], 2, *x.shape[2:]])
    return paddle.vision.ops.deform_conv2d(
        # without offsets this changes nothing
        identity(paddle.vision.ops.deform_conv2d(x, shifts, one_by_one, groups=x.shape[1])),
        offset, weight, padding=1, mask=mask)
