"""Rewrites what paddle2onnx gets wrong, or does not know, into operators that it converts right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ._programs import Program, replace, size_of, where


def rewrite(program: Program) -> None:
    """Rewrite each operator of a program that has a rule here which applies to it."""
    with program.building():
        for operator in program.operators:
            name = operator.name().partition(".")[2]
            if name in _WRONG:
                raise NotImplementedError(
                    f"model: paddle2onnx gets the operator {name}{where(operator)} wrong"
                )
            rule = _RULES.get(operator.name())
            if rule is not None:
                tensors = [
                    each if each is not None and each.initialized() else None
                    for each in operator.operands_source()
                ]
                replace(operator, lambda rule=rule, t=tensors, o=operator: rule(*t, **o.attrs()))


def _scale(
    x: Tensor, factor: Tensor, *, bias: float, bias_after_scale: bool, **_: Any
) -> Tensor | None:
    """Integers are computed in float32."""
    known = factor.get_defining_op()
    if not _is_integer(x) or known.name() != "pd_op.full":
        return None
    factor = known.attrs()["value"]
    if factor != int(factor) or bias != int(bias):
        return None
    times, plus = (paddle.full([], int(each), x.dtype) for each in (factor, bias))
    return x * times + plus if bias_after_scale else (x + plus) * times


def _floor_divide(x: Tensor, y: Tensor, **_: Any) -> Tensor | None:
    """Integers are computed in float32.

    In float64 a multiple of y divides exactly up to 2**53, and what is left of it beyond, too.
    """
    if not (_is_integer(x) and x.dtype == y.dtype):
        return None
    multiple = x - paddle.remainder(x, y)
    quotient = _nearest_quotient(multiple, y)
    if x.dtype == paddle.int32:
        return quotient
    return quotient + _nearest_quotient(multiple - quotient * y, y)


def _nearest_quotient(x: Tensor, y: Tensor) -> Tensor:
    return (x.astype("float64") / y.astype("float64")).astype(x.dtype)


def _is_integer(x: Tensor) -> bool:
    return x.dtype in (paddle.int32, paddle.int64)


def _hardtanh(x: Tensor, *, t_min: float, t_max: float, **_: Any) -> Tensor:
    """The lower bound is lost."""
    return paddle.clip(x, t_min, t_max)


def _full_batch_size_like(
    x: Tensor,
    *,
    shape: Sequence[int],
    value: float,
    dtype: Any,
    input_dim_idx: int,
    output_dim_idx: int,
    **_: Any,
) -> Tensor:
    """What Paddle makes of the number in 1 / x or 2**x, where the batch is open."""
    sizes = [*shape]
    sizes[output_dim_idx] = size_of(x, input_dim_idx)
    return paddle.full(sizes, value, dtype)


def _gelu(x: Tensor, *, approximate: bool, **_: Any) -> Tensor | None:
    """The approximation by tanh is taken for the exact function."""
    if not approximate:
        return None
    return 0.5 * x * (1 + paddle.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _softplus(x: Tensor, *, beta: float, threshold: float, **_: Any) -> Tensor | None:
    if (beta, threshold) == (1, 20):
        return None
    scaled = x * beta
    # log(1 + exp(a)) without overflow
    smooth = paddle.clip(scaled, min=0.0) + paddle.log(1 + paddle.exp(-paddle.abs(scaled)))
    return paddle.where(scaled > threshold, x, smooth / beta)


def _log_sigmoid(x: Tensor, **_: Any) -> Tensor:
    """The exponential overflows."""
    return paddle.clip(x, max=0.0) - paddle.log(1 + paddle.exp(-paddle.abs(x)))


def _celu(x: Tensor, *, alpha: float, **_: Any) -> Tensor:
    return paddle.clip(x, min=0.0) + alpha * (paddle.exp(paddle.clip(x, max=0.0) / alpha) - 1)


def _rrelu(x: Tensor, *, lower: float, upper: float, is_test: bool, **_: Any) -> Tensor | None:
    return paddle.nn.functional.leaky_relu(x, (lower + upper) / 2) if is_test else None


def _maxout(x: Tensor, *, groups: int, axis: int, **_: Any) -> Tensor | None:
    if axis != 1:
        return None
    out = x[:, ::groups]
    for index in range(1, groups):
        out = paddle.maximum(out, x[:, index::groups])
    return out


def _channel_shuffle(x: Tensor, *, groups: int, data_format: str, **_: Any) -> Tensor:
    axis = 1 if data_format == "NCHW" else 3
    order = np.arange(x.shape[axis]).reshape(groups, -1).T.flatten()
    return paddle.gather(x, paddle.assign(order), axis=axis)


def _flip(x: Tensor, *, axis: Sequence[int], **_: Any) -> Tensor | None:
    """An open size is refused."""
    if all(x.shape[each] >= 0 for each in axis):
        return None
    for each in axis:
        size = size_of(x, each)
        x = paddle.gather(x, size - 1 - paddle.arange(size), axis=each)
    return x


def _extremum(reduce: Callable) -> Callable:
    def rule(x: Tensor, *, axis: Sequence[int], keepdim: bool, **_: Any) -> Tensor:
        return reduce(x, axis=list(axis) or None, keepdim=keepdim)

    return rule


def _logit(x: Tensor, *, eps: float, **_: Any) -> Tensor:
    x = paddle.clip(x, eps, 1 - eps) if eps else x
    return paddle.log(x / (1 - x))


def _label_smooth(x: Tensor, prior: Tensor | None, *, epsilon: float, **_: Any) -> Tensor:
    if prior is None:
        size = size_of(x, -1)
        prior = 1 / (size if isinstance(size, int) else size.astype(x.dtype))
    return x * (1 - epsilon) + prior * epsilon


def _trunc(x: Tensor, **_: Any) -> Tensor:
    return paddle.sign(x) * paddle.floor(paddle.abs(x))


def _lerp(x: Tensor, y: Tensor, weight: Tensor, **_: Any) -> Tensor:
    return x + weight * (y - x)


def _layer_norm(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    *,
    epsilon: float,
    begin_norm_axis: int,
    **_: Any,
) -> Tensor | None:
    """Over several axes the scale and the bias get a shape that does not fit."""
    axes = list(range(begin_norm_axis, len(x.shape)))
    if len(axes) == 1:
        return None
    centred = x - x.mean(axes, keepdim=True)
    out = centred / paddle.sqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    shape = x.shape[begin_norm_axis:]
    out = out if scale is None else out * scale.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


def _pool2d(
    x: Tensor,
    size: Tensor,
    *,
    adaptive: bool,
    pooling_type: str,
    data_format: str,
    **_: Any,
) -> Tensor | None:
    """Averages over regions of an image of open size are refused: they are two matrix products."""
    known = size.get_defining_op()
    if known.name() != "pd_op.full_int_array" or pooling_type != "avg" or data_format != "NCHW":
        return None
    out_sizes = known.attrs()["value"]
    static = min(x.shape[2:]) >= 0
    divides = static and all(a % b == 0 for a, b in zip(x.shape[2:], out_sizes))
    if not adaptive or out_sizes == [1, 1] or divides:
        return None
    rows, columns = (_averages(x, axis, out) for axis, out in zip((2, 3), out_sizes))
    return paddle.matmul(paddle.matmul(rows, x), columns.transpose([1, 0]))


def _averages(x: Tensor, axis: int, out_size: int) -> Tensor:
    """Return the matrix [out_size, size] that averages from i * size / out_size, rounded down,

    to (i + 1) * size / out_size, rounded up.
    """
    size = size_of(x, axis)
    at = paddle.arange(size).astype("int64").reshape([1, -1])
    size = size if isinstance(size, int) else size.astype("int64")
    first = paddle.assign(np.arange(out_size).reshape(-1, 1)) * size
    last = paddle.assign(np.arange(1, out_size + 1).reshape(-1, 1)) * size
    # floor(first / out_size) <= at < ceil(last / out_size)
    inside = paddle.logical_and((at + 1) * out_size > first, at * out_size < last)
    inside = inside.astype(x.dtype)
    return inside / inside.sum(1, keepdim=True)


def _nearest_interp(
    x: Tensor,
    out_size: Tensor | None,
    size_tensor: Any,
    scale_tensor: Tensor | None,
    *,
    scale: Sequence[float],
    out_h: int,
    out_w: int,
    align_corners: bool,
    data_format: str,
    **_: Any,
) -> Tensor | None:
    """Which of two pixels is the nearer one, where both are, depends on rounding.

    Paddle reads pixel floor(i * ratio), in float32, of which it has the ratio of sizes. Halves and
    doubles are exact everywhere.
    """
    if len(x.shape) != 4 or data_format != "NCHW" or align_corners:
        return None
    if size_tensor is not None:
        sizes = size_tensor.get_defining_op().operands_source()
        outs = [each.reshape([]) for each in sizes]
    elif out_size is not None:
        outs = [out_size[0], out_size[1]]
    elif scale_tensor is not None or scale or min(out_h, out_w) <= 0:
        return None
    else:
        outs = [out_h, out_w]
    for axis, out in zip((2, 3), outs):
        size = size_of(x, axis)
        ratio = (
            paddle.full([], size / out, "float32")
            if isinstance(size, int) and isinstance(out, int)
            else _quotient(_as_float(size), _as_float(out))
        )
        index = paddle.floor(paddle.arange(out).astype("float32") * ratio).astype("int64")
        x = paddle.gather(x, index, axis=axis)
    return x


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, rounded once, of integers up to 4096.

    OpenVINO multiplies by a rounded 1 / b. The remainder, of halves of the quotient's digits whose
    products with b are exact, corrects that.
    """
    quotient = a / b
    upper = paddle.floor(quotient * 2.0**12 + 0.5) * 2.0**-12
    return quotient + ((a - upper * b) - (quotient - upper) * b) / b


def _as_float(size: int | Tensor) -> Tensor:
    return paddle.full([], size, "float32") if isinstance(size, int) else size.astype("float32")


# What paddle2onnx takes for something else, beyond what is mended here.
_WRONG = {"fft_c2c", "fft_c2r", "fft_r2c", "temporal_shift"}

_RULES = {
    "pd_op.amax": _extremum(paddle.max),
    "pd_op.amin": _extremum(paddle.min),
    "pd_op.celu": _celu,
    "pd_op.channel_shuffle": _channel_shuffle,
    "pd_op.flip": _flip,
    "pd_op.floor_divide": _floor_divide,
    "pd_op.full_batch_size_like": _full_batch_size_like,
    "pd_op.gelu": _gelu,
    "pd_op.hardtanh": _hardtanh,
    "pd_op.label_smooth": _label_smooth,
    "pd_op.layer_norm": _layer_norm,
    "pd_op.lerp": _lerp,
    "pd_op.logit": _logit,
    "pd_op.logsigmoid": _log_sigmoid,
    "pd_op.maxout": _maxout,
    "pd_op.nearest_interp": _nearest_interp,
    "pd_op.pool2d": _pool2d,
    "pd_op.rrelu": _rrelu,
    "pd_op.scale": _scale,
    "pd_op.softplus": _softplus,
    "pd_op.trunc": _trunc,
}
