"""The layer of static programs behind `static.nn.deform_conv2d` and `fluid.layers`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle

from .. import _checks
from ..functional import convolve
from . import _operators
from ._parameters import Parameters

_DEFAULT_STEP = 64  # what both originals take for an im2col_step of None


def add_layer(
    x: Any,
    offset: Any,
    mask: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    *,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int | None,
    deformable_groups: int | None,
    im2col_step: int | None,
    weight_attr: Any,
    bias_attr: Any,
    name: str | None,
    names: _checks.Names = _checks.OUR_NAMES,
) -> Any:
    """Add a deformable convolution and its parameters to the current static program.

    `mask` None is v1. `names` are the words of the caller; the other arguments, and the errors, are
    documented with the two public functions.
    """
    _checks.check_name(name)
    _checks.check_dtype(names.x, _checks.inspect(names.x, x)[1])
    batch, channels, *_ = _checks.check_shape(names.x, x, "[N, C, H, W]")
    if channels < 1:  # -1 where it is unknown
        _checks.reject(ValueError, names.x, "a known, positive number of channels", channels)
    attributes = _checks.check_attributes(
        stride,
        padding,
        dilation,
        1 if groups is None else groups,
        1 if deformable_groups is None else deformable_groups,
        _DEFAULT_STEP if im2col_step is None else im2col_step,
        names=names,
    )
    num_filters = _checks.check_int("num_filters", num_filters)
    channels_of_x = f"channels of {names.x}"
    _checks.check_divides("groups", attributes.groups, channels, channels_of_x)
    _checks.check_divides("groups", attributes.groups, num_filters, "num_filters")
    deformable_groups = attributes.deformable_groups
    _checks.check_divides(names.deformable_groups, deformable_groups, channels, channels_of_x)
    taps = _checks.check_pair("filter_size", filter_size)
    step = attributes.im2col_step
    if batch != _checks.UNKNOWN:
        _checks.check_step(names.x, batch, step)
    elif step > 1:
        _assert_batch(x, names.x, step)

    # Both originals name their parameters deformable_conv_0.w_0 and deformable_conv_0.b_0.
    parameters = Parameters("deformable_conv", name, x.dtype)
    normal = paddle.nn.initializer.Normal(0.0, math.sqrt(2 / (math.prod(taps) * channels)))
    shape = [num_filters, channels // attributes.groups, *taps]
    weight = parameters.weight(weight_attr, shape, normal, names.weight_attr)
    bias = parameters.bias(bias_attr, [num_filters])
    return convolve(x, offset, mask, weight, bias, attributes, names)


def _assert_batch(x: Any, x_name: str, im2col_step: int) -> None:
    """Have the program check, when it runs, the batch that it does not know while it is built."""
    batch = paddle.shape(x)[0]
    fits = _operators.logical_or(batch < im2col_step, batch % im2col_step == 0)
    _operators.check_when_run(
        fits,
        f"im2col_step: expected a divisor of the batch of {x_name} or a number above it, got "
        f"{im2col_step}",
    )
