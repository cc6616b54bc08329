"""Rewrites the deformable convolutions of a program from any form into a given one."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn.functional import pad

from .. import _ops
from .._checks import Attributes, Call, Inference, dtype_name
from ._programs import Program, layer_of, replace, size_of

OPERATORS = {
    "custom_op.paddle_dcn_v1": ("x", "offset", "weight", "bias"),
    "custom_op.paddle_dcn_v2": ("x", "offset", "mask", "weight", "bias"),
    "custom_op.paddle_dcn_inference": ("x", "offset", "mask", "weight", "bias", "flow"),
}
BUILTIN = "pd_op.deformable_conv"
PLAIN = "custom_op.paddle_dcn_plain"


def describe(program: Program) -> list[str]:
    """Return a line for people on each deformable convolution of a program."""
    lines = []
    for operator in deformable(program):
        (x, _, mask, weight, _, attributes), inference, _ = read(operator)
        version = "v2" if inference.joined or mask is not None else "v1"
        height, width = weight.shape[2:]
        parts = [
            f"{layer_of(operator) or 'top level'}: {version}",
            f"{height}x{width}, x {[*x.shape]} {dtype_name(x.dtype)}, weight {[*weight.shape]}",
            f"stride {attributes.stride}, padding {attributes.padding}",
        ]
        for name in ("groups", "deformable_groups"):
            number = getattr(attributes, name)
            parts += [f"{name.replace('_', ' ')} {number}"] * (number > 1)
        lines.append(", ".join([*parts, operator.name().partition(".")[2]]))
    return lines


def deformable(program: Program) -> list[Any]:
    """Return the operators that are deformable convolutions, in order."""
    return [
        each for each in program.operators if each.name() == BUILTIN or each.name() in OPERATORS
    ]


def rewrite(program: Program, form: Callable[[Call], Tensor]) -> None:
    """Put `form` of each deformable convolution in its place."""
    with program.building():
        for operator in deformable(program):
            kept = (form is fast and operator.name() in OPERATORS) or (
                form is portable and operator.name() == BUILTIN
            )
            if not kept:
                replace(operator, functools.partial(_emit, form, *read(operator)))
        for operator in program.operators if form is not fast else ():
            if operator.name() == PLAIN:
                replace(operator, functools.partial(_emit_plain, operator))


def _emit(
    form: Callable[[Call], Tensor], call: Call, inference: Inference, flow: Tensor | None
) -> Tensor:
    """Emit a form of a convolution, and around it what the operator for inference does besides."""
    fields = call.attributes.deformable_groups * math.prod(call.weight.shape[2:])
    if inference.joined:
        planes = call.offset
        mask = nn.functional.sigmoid(planes[:, 2 * fields :])
        call = call._replace(offset=planes[:, : 2 * fields], mask=mask)
    if inference.offset_bound:
        call = call._replace(offset=inference.offset_bound * paddle.tanh(call.offset))
    if flow is not None:
        flows = paddle.split(flow, flow.shape[1] // 2, axis=1)
        repeated = [each.tile([1, fields // len(flows), 1, 1]) for each in flows]
        call = call._replace(offset=call.offset + paddle.concat(repeated, axis=1))
    return _activate(form(call), inference)


def _emit_plain(operator: Any) -> Tensor:
    """Emit Paddle's operators for a plain convolution and what it has taken in."""
    tensors = [each if each.initialized() else None for each in operator.operands_source()]
    x, weight, bias, addend = tensors
    attributes = operator.attrs()
    out = nn.functional.conv2d(x, weight, bias, padding=list(attributes["paddings"]))
    out = out if addend is None else out + addend
    return _activate(out, _inference(attributes))


def _inference(attributes: dict) -> Inference:
    return Inference(**{name: attributes[name] for name in Inference._fields if name in attributes})


def _activate(out: Tensor, inference: Inference) -> Tensor:
    if inference.negative_slope == 0:
        out = nn.functional.relu(out)
    elif inference.negative_slope != 1:
        out = nn.functional.leaky_relu(out, inference.negative_slope)
    return paddle.clip(out, max=inference.upper_bound) if inference.upper_bound else out


def fast(call: Call) -> Tensor:
    """Emit this package's operator."""
    return _ops.deform_conv2d(call)


def portable(call: Call) -> Tensor:
    """Emit the builtin, which stock Paddle runs and trains.

    It pads both ends of an axis alike: as the first end asks for. Where the last end asks for more,
    x gets the missing rows. Where it asks for less, the builtin makes rows of output that are cut
    off again, and x gets the rows that make these a whole number of strides. (Padding x in front
    instead would move the samples at -1 inside, where gradients are not 0.)
    """

    def convolve(call: Call) -> Tensor:
        top, bottom, left, right = call.attributes.padding
        surplus_h = max(0, math.ceil((top - bottom) / call.attributes.stride[0]))
        surplus_w = max(0, math.ceil((left - right) / call.attributes.stride[1]))
        rows = bottom - top + surplus_h * call.attributes.stride[0]
        columns = right - left + surplus_w * call.attributes.stride[1]
        x, offset, mask = call.x, call.offset, call.mask
        if rows or columns:
            x = pad(x, [0, columns, 0, rows])
        if surplus_h or surplus_w:
            offset = pad(offset, [0, surplus_w, 0, surplus_h])
            mask = None if mask is None else pad(mask, [0, surplus_w, 0, surplus_h])
        out = _builtin(call._replace(x=x, offset=offset, mask=mask), (top, left))
        if surplus_h or surplus_w:
            out = out[:, :, : -surplus_h or None, : -surplus_w or None]
        return out

    return _in_builtins_terms(convolve, call)


def deform_conv(call: Call) -> Tensor:
    """Emit the builtin in a form that becomes an ONNX DeformConv which every reader takes.

    paddle2onnx needs a mask, TensorRT equal padding at both ends, and all tensors of one dtype.
    """

    def convolve(call: Call) -> Tensor:
        x, mask = call.x, call.mask
        top, bottom, left, right = call.attributes.padding
        if (top, left) != (bottom, right):
            x = pad(x, [0, 0, 0, 0, top, bottom, left, right])
            top = left = 0
        if mask is None:
            fields = call.attributes.deformable_groups * math.prod(call.weight.shape[2:])
            with warnings.catch_warnings():  # of Paddle, at what it does itself here
                warnings.filterwarnings("ignore", "Tensor do not have 'place' interface")
                mask = paddle.ones_like(call.offset[:, :fields])
        return _builtin(call._replace(x=x, mask=mask), (top, left))

    return _in_builtins_terms(convolve, call)


def grid_sample(call: Call) -> Tensor:
    """Emit standard operators: one bilinear GridSample over all taps, and a matrix product.

    GridSample (align_corners=False) reads pixel `((g + 1) * size - 1) / 2` for a coordinate g, so
    position p becomes `(2 * p + 1) / size - 1`, after positions further out than where samples are
    0 anyway have come as near as that. Each deformable group counts as an image. Shapes
    below are of K taps and P = Ho * Wo output pixels; 0 in a reshape keeps a size.
    """

    def convolve(call: Call) -> Tensor:
        x, offset, weight = call.x, call.offset, call.weight
        groups, (group_channels, filter_h, filter_w) = call.attributes.groups, weight.shape[1:]
        channels = groups * group_channels  # which x may leave open
        taps = filter_h * filter_w
        # Sizes that are open are given: with an empty batch -1 would be ambiguous. (ONNX Runtime
        # makes -1 of one open size beside zeros, so the batch must be given with it.)
        batch, out_h, out_w = (size_of(offset, axis) for axis in (0, 2, 3))
        images, points = batch * call.attributes.deformable_groups, out_h * out_w
        offset = offset.reshape([images, 2 * taps, 0, 0])
        grid = []
        for axis, tap in zip((0, 1), np.divmod(np.arange(taps), filter_w)):
            size = size_of(x, axis + 2)
            start = tap * call.attributes.dilation[axis] - call.attributes.padding[2 * axis]
            shape = [1, 1, 1, 1]
            shape[axis + 2] = -1
            step = (
                paddle.arange((out_h, out_w)[axis]).astype(x.dtype).reshape(shape)
                * call.attributes.stride[axis]
            )
            base = step + paddle.assign(start.reshape(1, -1, 1, 1).astype(dtype_name(x.dtype)))
            position = offset[:, axis::2] + base  # [N * deformable_groups, K, Ho, Wo]
            if not isinstance(size, int):
                size = size.astype(x.dtype)
                last = size + 1.0
            else:
                last = paddle.full([], size + 1, x.dtype)
            position = paddle.minimum(paddle.clip(position, min=-2.0), last)
            grid.append((position * 2.0 + 1.0) / size - 1.0)
        grid = paddle.stack(
            [each.reshape([images, taps, points]) for each in reversed(grid)], axis=-1
        )
        x = x.reshape([images, channels // call.attributes.deformable_groups, 0, 0])
        columns = nn.functional.grid_sample(x, grid, align_corners=False)
        if call.mask is not None:  # [N * deformable_groups, C / deformable_groups, K, P]
            columns = columns * call.mask.reshape([images, 1, taps, points])
        columns = columns.reshape([batch, groups, group_channels * taps, points])
        filters = weight.reshape([groups, -1, group_channels * taps])
        return paddle.matmul(filters, columns).reshape([batch, size_of(weight, 0), out_h, out_w])

    return _in_builtins_terms(convolve, call)


def read(operator: Any) -> tuple[Call, Inference, Any]:
    """Return what an operator is told to do: at last the flow, or None."""
    flow = None
    operands = [each if each.initialized() else None for each in operator.operands_source()]
    attributes = operator.attrs()
    if operator.name() in OPERATORS:
        tensors = dict(zip(OPERATORS[operator.name()], operands))
        zeros = tensors["bias"].get_defining_op()
        if zeros.name() == "pd_op.full" and zeros.attrs()["value"] == 0:
            tensors["bias"] = None
        tensors.setdefault("mask", None)
        flow = tensors.pop("flow", None)
        paddings = attributes["paddings"]
        chosen = {name: attributes[name] for name in ("im2col_step", "data_format")}
        chosen["weighted"] = _ops.has_weight(attributes["wanted"])
    else:
        tensors = dict(zip(("x", "offset", "weight", "mask"), operands), bias=None)
        height, width = attributes["paddings"]
        paddings = (height, height, width, width)
        chosen = {}  # the builtin's im2col_step bounds nothing that needs bounds here
    call = Call(
        **tensors,
        attributes=Attributes(
            stride=tuple(attributes["strides"]),
            padding=tuple(paddings),
            dilation=tuple(attributes["dilations"]),
            groups=attributes["groups"],
            deformable_groups=attributes["deformable_groups"],
            **chosen,
        ),
    )
    return call, _inference(attributes), flow


def _in_builtins_terms(convolve: Callable[[Call], Tensor], call: Call) -> Tensor:
    """Emit `convolve` for a call as the builtin knows it: NCHW, one dtype of 32 bits, no bias."""
    dtype = call.x.dtype
    wide = paddle.float64 if dtype == paddle.float64 else paddle.float32
    x, offset, mask, weight, bias = (
        tensor if tensor is None or tensor.dtype == wide else tensor.astype(wide)
        for tensor in call[:-1]
    )
    if call.attributes.data_format == "NHWC":
        x = x.transpose([0, 3, 1, 2])
    out = convolve(Call(x, offset, mask, weight, None, call.attributes))
    if bias is not None:
        out = out + bias.reshape([1, -1, 1, 1])
    if call.attributes.data_format == "NHWC":
        out = out.transpose([0, 2, 3, 1])
    return out if dtype == wide else out.astype(dtype)


def _builtin(call: Call, padding: tuple[int, int]) -> Tensor:
    """Emit the builtin with a padding of height and width.

    It insists that deformable_groups divide the output channels, for no reason in the formula: each
    group gets filters of zeros until they do, whose output is left out.
    """
    weight, groups = call.weight, call.attributes.groups
    out_channels, *filter_shape = weight.shape
    missing = 0
    if out_channels >= 0:
        filters = out_channels // groups
        missing = -filters % (
            call.attributes.deformable_groups // math.gcd(groups, call.attributes.deformable_groups)
        )
    if missing:
        zeros = paddle.zeros([groups, missing, *filter_shape], weight.dtype)
        weight = paddle.concat([weight.reshape([groups, filters, *filter_shape]), zeros], axis=1)
        weight = weight.reshape([groups * (filters + missing), *filter_shape])
    out = paddle._C_ops.deformable_conv(
        call.x,
        call.offset,
        weight,
        call.mask,
        list(call.attributes.stride),
        list(padding),
        list(call.attributes.dilation),
        call.attributes.deformable_groups,
        groups,
        1,  # with another im2col_step the builtin's gradients are wrong
    )
    if missing:
        starts = range(0, groups * (filters + missing), filters + missing)
        out = paddle.concat([out[:, first : first + filters] for first in starts], axis=1)
    return out
