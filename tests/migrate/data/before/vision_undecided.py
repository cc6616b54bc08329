"""Only `sure` can be decided: everywhere else the name may be another operator's."""
import paddle
import paddle.vision.ops as ops
from unittest import mock


def sure(*args, **kwargs):
    return ops.deform_conv2d(*args, **kwargs)


def shadowed(ops, *args, **kwargs):
    return ops.deform_conv2d(*args, **kwargs)


def every(modules, *args, **kwargs):
    return [ops.deform_conv2d(*args, **kwargs) for ops in modules][0]


def by_name(*args, name="deform_conv2d", **kwargs):
    return getattr(ops, name)(*args, **kwargs)


def rebound(*args, **kwargs):
    backend = ops
    if args is None:
        backend = object()
    return backend.deform_conv2d(*args, **kwargs)


def run(x, offset, mask, weight):
    with mock.patch("paddle.vision.ops.nms"), mock.patch("paddle.vision.ops.deform_conv2d"):
        pass
    every([ops], x, offset, weight, padding=1)
    for function in (shadowed, by_name, rebound):
        first = [ops] if function is shadowed else []
        out = function(*first, x, offset, weight, padding=1, mask=mask)
    return sure(x, offset, weight, padding=1, mask=mask) + 0 * out
