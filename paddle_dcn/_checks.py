"""The one place that validates and normalises arguments: every rule and every message is here."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import paddle

try:
    from paddle.jit.sot.utils.exceptions import SotExtraInfo
except ImportError:  # Paddle 2.6 has none
    SotExtraInfo = None

# Tensors of static programs; Paddle 2.6 has no Value.
_STATIC = tuple({paddle.static.Variable, getattr(paddle.pir, "Value", paddle.static.Variable)})

# Whether tensors can lie anywhere but on the CPU: to ask each of them takes 0.5 us.
_HAS_DEVICES = (
    paddle.is_compiled_with_cuda()
    or paddle.is_compiled_with_xpu()
    or len(paddle.device.get_all_custom_device_type()) > 0
)

_INT_MAX = 2**31 - 1  # the operator's attributes are 32-bit ints
_ELEMENTS_MAX = (2**63 - 1) // 8  # float64 elements whose bytes are counted in 64 bits

_UNKNOWN = -1  # a dimension that a static program leaves open
_DTYPES = ("float16", "bfloat16", "float32", "float64")  # narrow to wide
_AUTO_CAST = ("float16", "bfloat16", "float32")  # auto_cast never touches float64


class Arguments(NamedTuple):
    """Normalised parameters of one call, and what its tensors are to be cast to."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    dilation: tuple[int, int]
    deformable_groups: int
    groups: int
    im2col_step: int  # 0: chosen by the implementation
    data_format: str
    # Of x, offset, weight, bias, mask: the dtype to cast it to, or None. Empty: nothing to cast.
    casts: tuple[str | None, ...]


class LayerArguments(NamedTuple):
    """Normalised constructor arguments of a layer."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    deformable_groups: int = 1
    groups: int = 1
    im2col_step: int | None = None
    data_format: str = "NCHW"


def _plain_errors(check: Callable) -> Callable:
    """Let the errors of a check reach the user as they are, under to_static too.

    They tell to_static(full_graph=False) to rerun the call in dynamic mode, where the same error is
    raised again, instead of wrapping it in an InnerError.
    """

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return check(*args, **kwargs)
        except (TypeError, ValueError) as error:
            if SotExtraInfo is not None and not paddle.in_dynamic_mode():
                SotExtraInfo(need_breakgraph=True).attach(error)
            raise

    return checked


@_plain_errors
def check_call(
    x: Any,
    offset: Any,
    weight: Any,
    bias: Any,
    mask: Any,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    deformable_groups: Any,
    groups: Any,
    im2col_step: Any,
    data_format: Any,
    amp_dtype: str | None = None,
) -> Arguments:
    """Validate one call of the operator and normalise its parameters.

    Works on tensors of dynamic mode and of static programs, where a dimension of -1 is unknown and
    is not checked. `amp_dtype` is the dtype that auto_cast asks for, None outside it.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: a wrong shape, value or device.

    """
    inspect = _inspect_dynamic if paddle.in_dynamic_mode() else _inspect_static
    x_shape, x_dtype, place = inspect("x", x, None)
    offset_shape, offset_dtype, _ = inspect("offset", offset, place)
    weight_shape, weight_dtype, _ = inspect("weight", weight, place)
    bias_shape = bias_dtype = mask_shape = mask_dtype = None
    if bias is not None:
        bias_shape, bias_dtype, _ = inspect("bias", bias, place)
    if mask is not None:
        mask_shape, mask_dtype, _ = inspect("mask", mask, place)
    arguments = Arguments(
        _pair("stride", stride),
        _padding(padding),
        _pair("dilation", dilation),
        _int("deformable_groups", deformable_groups),
        _int("groups", groups),
        _im2col_step(im2col_step) or 0,
        _data_format(data_format),
        _casts(x_dtype, offset_dtype, weight_dtype, bias_dtype, mask_dtype, amp_dtype),
    )
    _check_shapes(x_shape, offset_shape, weight_shape, bias_shape, mask_shape, arguments)
    return arguments


@_plain_errors
def check_input(x: Any, weight: Any, layer: LayerArguments, amp_dtype: str | None) -> None:
    """Validate the input of a layer that is yet to predict its offset and mask.

    Raises:
        TypeError: x of a wrong kind or dtype.
        ValueError: a shape of x that does not fit the layer, or a wrong device.

    """
    inspect = _inspect_dynamic if paddle.in_dynamic_mode() else _inspect_static
    x_shape, x_dtype, place = inspect("x", x, None)
    weight_shape, weight_dtype, _ = inspect("weight", weight, place)
    arguments = Arguments(
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.deformable_groups,
        layer.groups,
        0,
        layer.data_format,
        _casts(x_dtype, x_dtype, weight_dtype, None, None, amp_dtype),
    )
    _check_shapes(x_shape, (_UNKNOWN,) * 4, weight_shape, None, None, arguments)


def check_layer(
    in_channels: Any,
    out_channels: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    deformable_groups: Any,
    groups: Any,
    weight_attr: Any,
    im2col_step: Any,
    data_format: Any,
) -> LayerArguments:
    """Validate and normalise the constructor arguments of a layer.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value that no input could make valid.

    """
    if weight_attr is False:
        raise ValueError("weight_attr: expected None, a ParamAttr, initializer or name, got False")
    arguments = LayerArguments(
        _int("in_channels", in_channels),
        _int("out_channels", out_channels),
        _pair("kernel_size", kernel_size),
        _pair("stride", stride),
        _padding(padding),
        _pair("dilation", dilation),
        _int("deformable_groups", deformable_groups),
        _int("groups", groups),
        _im2col_step(im2col_step),
        _data_format(data_format),
    )
    _check_divides("groups", arguments.groups, arguments.in_channels, "in_channels")
    _check_divides("groups", arguments.groups, arguments.out_channels, "out_channels")
    _check_divides(
        "deformable_groups", arguments.deformable_groups, arguments.in_channels, "in_channels"
    )
    return arguments


def check_name(name: Any) -> None:
    """Check the `name` that Paddle's functions take: a str or None."""
    if name is not None and not isinstance(name, str):
        _reject_kind("name", "a str or None", name)


# --- kinds of object -----------------------------------------------------------------------------


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _reject_kind(name: str, expected: str, value: Any) -> NoReturn:
    got = _kind(value)
    if type(value) in (bool, int, float, str, list, tuple):
        text = repr(value)
        got = f"{text if len(text) <= 60 else text[:60] + '...'} ({got})"
    raise TypeError(f"{name}: expected {expected}, got {got}")


_Inspected = tuple[tuple[int, ...], str, "str | None"]  # shape, dtype, device


def _dtype_name(dtype: Any) -> str:
    # The same in every Paddle and mode, while the enums behind a dtype differ.
    return str(dtype).rpartition(".")[2]


# To compare or hash a dtype takes longer than to look its number up.
_DTYPE_OF = {int(getattr(paddle, name)): name for name in _DTYPES}


def _inspect_dynamic(name: str, tensor: Any, place: str | None) -> _Inspected:
    """Shape, dtype and device of a tensor of dynamic mode, which must be on `place` if given."""
    if not isinstance(tensor, paddle.Tensor):
        _reject_kind(name, "a paddle.Tensor", tensor)
    if not tensor.is_dense() and not tensor.is_dist():
        raise TypeError(f"{name}: expected a dense paddle.Tensor, got a sparse one")
    shape = tuple(tensor.shape)
    if not tensor._is_initialized() and 0 not in shape:
        raise ValueError(f"{name}: expected a tensor that holds data, got one that was cleared")
    tensor_place = tensor._place_str if _HAS_DEVICES else None
    if place is not None and tensor_place != place:
        raise ValueError(f"{name}: expected a tensor on {place} (that of x), got {tensor_place}")
    dtype = tensor.dtype
    return shape, _DTYPE_OF.get(int(dtype)) or _dtype_name(dtype), tensor_place


def _inspect_static(name: str, tensor: Any, place: None) -> _Inspected:
    """Shape and dtype of a tensor of a static program; its device is not known yet."""
    if isinstance(tensor, paddle.Tensor):
        # to_static turns the constants it finds in a function into inputs of the program.
        if not paddle.base.dygraph.base.in_to_static_mode():
            raise TypeError(
                f"{name}: expected a tensor of the static program, got a paddle.Tensor of dynamic "
                "mode"
            )
    elif not isinstance(tensor, _STATIC):
        _reject_kind(name, "a tensor of the static program", tensor)
    elif hasattr(tensor, "is_dense_tensor_type") and not (
        tensor.is_dense_tensor_type() or tensor.is_dist_dense_tensor_type()
    ):
        raise TypeError(f"{name}: expected a dense tensor, got {tensor.type()}")
    shape = tuple(_UNKNOWN if size is None else size for size in tensor.shape)
    return shape, _dtype_name(tensor.dtype), None


# --- parameters ----------------------------------------------------------------------------------


def _integer(value: Any) -> int | None:
    """Return the value as an int, None if it is no integer: bool is none, NumPy's integers are."""
    if type(value) is int:
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return None


def _ints(name: str, value: Any, least: int, counts: tuple[int, ...] = ()) -> tuple[int, ...]:
    """One int, or as many as `counts` allows in a list or tuple, as a tuple."""
    if type(value) is int and least <= value <= _INT_MAX:
        return (value,)
    several = isinstance(value, (list, tuple)) and len(counts) > 0
    integers = tuple(map(_integer, value)) if several else (_integer(value),)
    if None in integers or (several and len(integers) not in counts):
        expected = " or ".join(["an int", *(f"{count} ints" for count in counts)])
        if None in integers:
            _reject_kind(name, expected, value)
        raise ValueError(f"{name}: expected {expected}, got {value}")
    if min(integers) < least:
        sign = "positive" if least == 1 else "non-negative"
        raise ValueError(f"{name}: expected {sign}, got {value}")
    if max(integers) > _INT_MAX:
        raise ValueError(f"{name}: expected at most {_INT_MAX}, got {value}")
    return integers


def _int(name: str, value: Any) -> int:
    return _ints(name, value, 1)[0]


def _pair(name: str, value: Any) -> tuple[int, int]:
    integers = _ints(name, value, 1, (2,))
    return integers if len(integers) == 2 else integers * 2


def _padding(value: Any) -> tuple[int, int, int, int]:
    """Top, bottom, left, right from one int, (height, width), or all four."""
    integers = _ints("padding", value, 0, (2, 4))
    if len(integers) == 4:
        return integers
    height, width = integers if len(integers) == 2 else integers * 2
    return height, height, width, width


def _im2col_step(value: Any) -> int | None:
    return None if value is None else _int("im2col_step", value)


def _data_format(value: Any) -> str:
    if not isinstance(value, str):
        _reject_kind("data_format", "'NCHW' or 'NHWC'", value)
    if value not in ("NCHW", "NHWC"):
        raise ValueError(f"data_format: expected 'NCHW' or 'NHWC', got {value!r}")
    return value


# --- dtypes --------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _casts(
    x: str,
    offset: str,
    weight: str,
    bias: str | None,
    mask: str | None,
    amp_dtype: str | None,
) -> tuple[str | None, ...]:
    """Check the dtypes of a call (None: no such tensor); empty if none of them needs a cast.

    Outside auto_cast only an offset and a mask that differ from each other need one: the narrower
    takes the dtype of the other.
    """
    if x not in _DTYPES:
        raise TypeError(f"x: expected dtype {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, got {x}")
    automatic = amp_dtype is not None and x in _AUTO_CAST
    dtype = amp_dtype if automatic else x
    like_x = _AUTO_CAST if automatic else (dtype,)
    like_offset = _AUTO_CAST if automatic else tuple(dict.fromkeys((dtype, "float32")))
    for name, got, allowed in (
        ("weight", weight, like_x),
        ("bias", bias, like_x),
        ("offset", offset, like_offset),
        ("mask", mask, like_offset),
    ):
        if got is not None and got not in allowed:
            reason = f"x is {x}, under auto_cast" if automatic else f"x is {x}"
            raise TypeError(f"{name}: expected dtype {' or '.join(allowed)} ({reason}), got {got}")

    sampling = {got if got in (dtype, "float32") else dtype for got in (offset, mask) if got}
    # Where they differ one of them is float32: narrower than float64, wider than the halves.
    coordinate = max(sampling, key=_DTYPES.index)
    given = (x, offset, weight, bias, mask)
    targets = (dtype, coordinate, dtype, dtype, coordinate)
    casts = tuple(None if got in (None, to) else to for got, to in zip(given, targets))
    return casts if any(casts) else ()


# --- shapes --------------------------------------------------------------------------------------


def _check_divides(name: str, divisor: int, size: int, whose: str) -> None:
    if size != _UNKNOWN and size % divisor:
        raise ValueError(f"{name}: expected a divisor of {size} ({whose}), got {divisor}")


def _check_rank(name: str, shape: tuple[int, ...], axes: str) -> None:
    rank = axes.count(",") + 1
    if len(shape) != rank:
        raise ValueError(f"{name}: expected {rank}-D {axes}, got {len(shape)}-D {[*shape]}")


def _check_size(name: str, what: str, got: int, expected: int, formula: str) -> None:
    if got != expected and _UNKNOWN not in (got, expected):
        raise ValueError(f"{name}: expected {expected} {what} ({formula}), got {got}")


def _output_size(
    axis: str, size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> tuple[int, str]:
    """Output size along one axis, and the formula that gives it."""
    formula = f"({size} + {before} + {after} - ({dilation} * ({kernel} - 1) + 1)) // {stride} + 1"
    if _UNKNOWN in (size, kernel):
        return _UNKNOWN, formula
    output = (size + before + after - (dilation * (kernel - 1) + 1)) // stride + 1
    if output < 1:
        raise ValueError(f"x: expected an output {axis} of at least 1, got {formula} = {output}")
    return output, formula


@functools.lru_cache(maxsize=1024)
def _check_shapes(
    x: tuple[int, ...],
    offset: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    mask: tuple[int, ...] | None,
    arguments: Arguments,
) -> None:
    """Hold every dimension that is known against what the others ask for."""
    channels_last = arguments.data_format == "NHWC"
    _check_rank("x", x, "[N, H, W, C]" if channels_last else "[N, C, H, W]")
    _check_rank("offset", offset, "[N, deformable_groups * 2 * kh * kw, Ho, Wo]")
    _check_rank("weight", weight, "[M, C / groups, kh, kw]")
    if bias is not None:
        _check_rank("bias", bias, "[M]")
    if mask is not None:
        _check_rank("mask", mask, "[N, deformable_groups * kh * kw, Ho, Wo]")
    batch, channels, height, width = (x[0], x[3], x[1], x[2]) if channels_last else x
    out_channels, group_channels, kernel_h, kernel_w = weight
    for name, what, size in (
        ("x", "channels", channels),
        ("x", "height", height),
        ("x", "width", width),
        ("weight", "output channels", out_channels),
        ("weight", "kernel height", kernel_h),
        ("weight", "kernel width", kernel_w),
    ):
        if size == 0:
            raise ValueError(f"{name}: expected positive {what}, got 0")

    groups, deformable_groups = arguments.groups, arguments.deformable_groups
    _check_divides("groups", groups, channels, "channels of x")
    _check_divides("groups", groups, out_channels, "output channels of weight")
    _check_divides("deformable_groups", deformable_groups, channels, "channels of x")
    if channels != _UNKNOWN:
        formula = f"channels {channels} of x / groups {groups}"
        _check_size("weight", "input channels", group_channels, channels // groups, formula)
    if bias is not None:
        _check_size("bias", "entries", bias[0], out_channels, "output channels of weight")

    top, bottom, left, right = arguments.padding
    (stride_h, stride_w), (dilation_h, dilation_w) = arguments.stride, arguments.dilation
    out_h, formula_h = _output_size("height", height, kernel_h, stride_h, dilation_h, top, bottom)
    out_w, formula_w = _output_size("width", width, kernel_w, stride_w, dilation_w, left, right)
    taps = _UNKNOWN if _UNKNOWN in (kernel_h, kernel_w) else kernel_h * kernel_w
    for name, shape, planes, factor in (("offset", offset, 2, "2 * "), ("mask", mask, 1, "")):
        if shape is not None:
            expected = _UNKNOWN if taps == _UNKNOWN else planes * deformable_groups * taps
            kernel = f"kernel {kernel_h}x{kernel_w}"
            formula = f"{factor}deformable_groups {deformable_groups} * {kernel}"
            _check_size(name, "images", shape[0], batch, "batch of x")
            _check_size(name, "channels", shape[1], expected, formula)
            _check_size(name, "rows", shape[2], out_h, formula_h)
            _check_size(name, "columns", shape[3], out_w, formula_w)
    if mask is not None:  # where x leaves a size open, these two must still agree
        for axis, what in ((0, "images"), (2, "rows"), (3, "columns")):
            _check_size("mask", what, mask[axis], offset[axis], f"{what} of offset")

    output = [batch, out_channels, out_h, out_w]
    if _UNKNOWN not in output and math.prod(output) > _ELEMENTS_MAX:
        raise ValueError(f"x: expected an output of at most {_ELEMENTS_MAX} elements, got {output}")
