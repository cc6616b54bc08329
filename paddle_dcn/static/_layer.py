"""The layer of static programs behind `static.nn.deform_conv2d` and `fluid.layers`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle.base.layer_helper import LayerHelper
from paddle.static.nn.control_flow import Assert
from paddle.utils import unique_name

from .. import _checks
from ..functional import convolve

_DEFAULT_STEP = 64  # what both originals take for an im2col_step of None


def require_static(function: str) -> None:
    """Refuse a call in dynamic mode, where a layer function has no program to add to.

    Nor has it in a function that to_static traces, which cannot create parameters.
    """
    if paddle.in_dynamic_mode() or paddle.base.dygraph.base.in_to_static_mode():
        raise RuntimeError(
            f"{function} adds to a static program: call paddle.enable_static() first, or use "
            "paddle_dcn.DeformConv2D in dynamic mode and to_static"
        )


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
    names: _checks.Names = _checks.OURS,
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
    _checks.check_weight_attr(weight_attr, names, AssertionError)  # which the originals raise
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
    _checks.check_divides("groups", attributes.groups, channels, f"channels of {names.x}")
    _checks.check_divides("groups", attributes.groups, num_filters, "num_filters")
    taps = _checks.check_pair("filter_size", filter_size)
    step = attributes.im2col_step
    if batch != _checks.UNKNOWN:
        if batch > step and batch % step:
            expected = f"a divisor of {batch} (batch of {names.x}) or a number above it"
            _checks.reject(ValueError, "im2col_step", expected, step)
    elif step > 1:
        _assert_batch(x, names.x, step)

    # Both originals name their parameters deformable_conv_0.w_0 and deformable_conv_0.b_0. The
    # helper would count its layers regardless of unique_name.guard(), as the originals do not.
    helper = LayerHelper("deformable_conv", name=name or unique_name.generate("deformable_conv"))
    normal = paddle.nn.initializer.Normal(0.0, math.sqrt(2 / (math.prod(taps) * channels)))
    weight_shape = [num_filters, channels // attributes.groups, *taps]
    weight = _parameter(helper, weight_attr, weight_shape, x.dtype, default_initializer=normal)
    bias = _parameter(helper, bias_attr, [num_filters], x.dtype, is_bias=True)
    return convolve(x, offset, mask, weight, bias, attributes, names)


def _parameter(helper: LayerHelper, attr: Any, shape: list[int], dtype: Any, **kwargs: Any) -> Any:
    """Create a parameter, or find the one that an earlier layer created under the same name.

    Paddle's programs would get a second parameter of that name, which an optimizer then updates
    twice a step.
    """
    name = getattr(paddle.ParamAttr._to_attr(attr), "name", None)
    parameters = paddle.static.default_main_program().global_block().all_parameters()
    for parameter in parameters if name is not None else ():
        if parameter.name == name:
            if list(parameter.shape) != shape:
                raise ValueError(
                    f"{name}: expected shape {shape}, but the program has a parameter of that name "
                    f"of shape {[*parameter.shape]}"
                )
            return parameter
    return helper.create_parameter(attr=attr, shape=shape, dtype=dtype, **kwargs)


def _assert_batch(x: Any, x_name: str, im2col_step: int) -> None:
    """Have the program check, when it runs, the batch that it does not know while it is built."""
    batch = paddle.shape(x)[0]
    fits = paddle.logical_or(batch < im2col_step, batch % im2col_step == 0)
    assertion = Assert(fits)
    # Paddle shows these lines, usually where the operator was added, above its own message.
    lines = [
        f"  im2col_step: expected a divisor of the batch of {x_name} or a number above it, got "
        f"{im2col_step}"
    ]
    if assertion is None:  # Paddle 3
        (assertion,) = fits.all_used_ops()
        assertion.callstack = lines
    else:
        assertion._set_attr("op_callstack", lines)
