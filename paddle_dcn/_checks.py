"""The rules of a call, in the caller's words: validates arguments and makes the call object."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, NoReturn

import numpy as np
import paddle
from paddle import Tensor

from ._to_static import breaks_graph

# Tensors of static programs; Paddle 2.6 has no Value.
STATIC = tuple({paddle.static.Variable, getattr(paddle.pir, "Value", paddle.static.Variable)})

# Whether tensors can lie anywhere but on the CPU: to ask each of them takes 0.5 us.
HAS_DEVICES = (
    paddle.is_compiled_with_cuda()
    or paddle.is_compiled_with_xpu()
    or len(paddle.device.get_all_custom_device_type()) > 0
)

_INT_MAX = 2**31 - 1  # the operator's attributes are 32-bit ints
_SIDE_MAX = 2**31 - 2  # the kernels number rows and columns with 32 bits
_ELEMENTS_MAX = (2**63 - 1) // 8  # float64 elements whose bytes are counted in 64 bits

UNKNOWN = -1  # a dimension that a static program leaves open
DTYPES = ("float16", "bfloat16", "float32", "float64")  # narrow to wide
_AUTO_CAST = ("float16", "bfloat16", "float32")  # auto_cast never touches float64


class Names(NamedTuple):
    """What a caller calls the arguments that go by several names."""

    x: str = "x"
    deformable_groups: str = "deformable_groups"
    weight_attr: str = "weight_attr"
    offset: str = "offset"


OUR_NAMES = Names()


class Attributes(NamedTuple):
    """The normalised parameters of a call: the operator's attributes, in their order."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deformable_groups: int = 1
    im2col_step: int = 0  # chosen by the implementation
    data_format: str = "NCHW"
    weighted: bool = True  # False: the weight is of ones and has no gradient; see `_ops`
    planes_last: bool = False  # offset and mask are as in DCNv3, or one as in DCNv4; for the CPU


class Aggregation(NamedTuple):
    """The normalised parameters of DCNv3 and DCNv4; pairs are (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]
    group: int
    group_channels: int  # UNKNOWN: told by the input
    offset_scale: float
    im2col_step: int
    remove_center: bool

    @property
    def taps(self) -> int:
        """Samples that a group takes for an output pixel."""
        return math.prod(self.kernel) - self.remove_center

    @property
    def packed_planes(self) -> int:
        """Channels of the offset_mask of the original of DCNv4, which pads them."""
        return -(-3 * self.group * self.taps // 8) * 8


class Call(NamedTuple):
    """One valid call: the operator's inputs, in their order and cast, and its attributes."""

    x: Tensor
    offset: Tensor
    mask: Tensor | None  # None: v1
    weight: Tensor
    bias: Tensor | None
    attributes: Attributes


class Inference(NamedTuple):
    """What the operator for inference does besides: its further attributes, in their order."""

    joined: bool = False  # offset holds offsets, then the mask's logits; there is no mask
    offset_bound: float = 0.0  # offsets are offset_bound * tanh(offset), unless it is 0
    negative_slope: float = 1.0  # the activation min(y < 0 ? negative_slope * y : y, upper_bound)
    upper_bound: float = 0.0  # none
    constant: bool = False  # the weight never changes, so it is packed once


class LayerArguments(NamedTuple):
    """What a layer's constructor takes besides its attributes, normalised."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]


def check_attributes(
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    deformable_groups: Any,
    im2col_step: Any = None,
    data_format: Any = "NCHW",
    names: Names = OUR_NAMES,
) -> Attributes:
    """Validate and normalise the parameters of a call.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value out of its range.

    """
    return Attributes(
        check_pair("stride", stride),
        _check_padding(padding),
        check_pair("dilation", dilation),
        check_int("groups", groups),
        check_int(names.deformable_groups, deformable_groups),
        0 if im2col_step is None else check_int("im2col_step", im2col_step),
        check_data_format(data_format),
    )


def check_call(
    x: Any,
    offset: Any,
    mask: Any,
    weight: Any,
    bias: Any,
    attributes: Attributes,
    amp_dtype: str | None = None,
    names: Names = OUR_NAMES,
) -> Call:
    """Validate the tensors of one call, cast them where need be, and return the call.

    Works on tensors of dynamic mode and of static programs, where a dimension of -1 is unknown and
    is not checked. `amp_dtype` is the dtype that auto_cast asks for, None outside it.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: a wrong shape or device.

    """
    found = _inspect_dynamic if paddle.in_dynamic_mode() else _inspect_static
    casts = check_found(
        found(names.x, x),
        found(names.offset, offset),
        None if mask is None else found("mask", mask),
        found("weight", weight),
        None if bias is None else found("bias", bias),
        attributes,
        amp_dtype,
        names,
    )
    tensors = (x, offset, mask, weight, bias)
    if HAS_DEVICES:
        _check_devices(tensors, names)
    if casts:
        tensors = (t if dtype is None else t.astype(dtype) for t, dtype in zip(tensors, casts))
    return Call(*tensors, attributes)


def check_input(
    x: Any,
    weight: Any,
    attributes: Attributes,
    amp_dtype: str | None = None,
    names: Names = OUR_NAMES,
) -> None:
    """Validate the input of a layer that is yet to predict its offset and mask.

    Raises:
        TypeError: x of a wrong kind or dtype.
        ValueError: a shape of x that does not fit the layer, or a wrong device.

    """
    found = inspect(names.x, x)
    offset = (UNKNOWN,) * 4, found[1]
    filters = inspect("weight", weight)
    check_found(found, offset, None, filters, None, attributes, amp_dtype, names)
    if HAS_DEVICES:
        _check_devices((x, None, None, weight, None), names)


def check_layer(
    in_channels: Any,
    out_channels: Any,
    kernel_size: Any,
    attributes: Attributes,
    weight_attr: Any = None,
    names: Names = OUR_NAMES,
) -> LayerArguments:
    """Validate and normalise the constructor arguments of a layer.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value that no input could make valid.

    """
    check_weight_attr(weight_attr, names)
    layer = LayerArguments(
        check_int("in_channels", in_channels),
        check_int("out_channels", out_channels),
        check_pair("kernel_size", kernel_size),
    )
    check_divides("groups", attributes.groups, layer.in_channels, "in_channels")
    check_divides("groups", attributes.groups, layer.out_channels, "out_channels")
    check_divides(
        names.deformable_groups, attributes.deformable_groups, layer.in_channels, "in_channels"
    )
    return layer


def check_weight_attr(weight_attr: Any, names: Names, kind: type[Exception] = ValueError) -> None:
    """Refuse what is no attribute, and False: there is no layer without a weight."""
    if weight_attr is False:
        reject(kind, names.weight_attr, "None, a ParamAttr, initializer or name", weight_attr)
    check_attr(names.weight_attr, weight_attr)


def check_attr(name: str, attr: Any) -> None:
    """Refuse what Paddle makes no attribute of a parameter of."""
    try:
        one = not isinstance(paddle.ParamAttr._to_attr(attr), (list, tuple))
    except Exception:  # what it raises depends on the Paddle
        one = False
    if not one:
        reject_kind(name, "None, a ParamAttr, initializer or name", attr)


def check_name(name: Any) -> None:
    """Check the `name` that Paddle's functions take: a str or None."""
    if name is not None and not isinstance(name, str):
        reject_kind("name", "a str or None", name)


# --- DCNv3 and DCNv4 -----------------------------------------------------------------------------


def check_aggregation(
    kernel_h: Any,
    kernel_w: Any,
    stride_h: Any,
    stride_w: Any,
    pad_h: Any,
    pad_w: Any,
    dilation_h: Any,
    dilation_w: Any,
    group: Any,
    group_channels: Any,
    offset_scale: Any,
    im2col_step: Any,
    remove_center: Any,
) -> Aggregation:
    """Validate and normalise the parameters of DCNv3 and DCNv4.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value out of its range.

    """
    kernel = check_int("kernel_h", kernel_h), check_int("kernel_w", kernel_w)
    return Aggregation(
        kernel,
        (check_int("stride_h", stride_h), check_int("stride_w", stride_w)),
        (check_ints("pad_h", pad_h, 0)[0], check_ints("pad_w", pad_w, 0)[0]),
        (check_int("dilation_h", dilation_h), check_int("dilation_w", dilation_w)),
        check_int("group", group),
        UNKNOWN if group_channels is None else check_int("group_channels", group_channels),
        check_number("offset_scale", offset_scale),
        0 if im2col_step is None else check_int("im2col_step", im2col_step),
        _check_remove_center(remove_center, kernel),
    )


def _check_remove_center(value: Any, kernel: tuple[int, int]) -> bool:
    """Check the flag against the kernel, which must have a center."""
    removes = check_flag("remove_center", value)
    height, width = kernel
    if removes and (height != width or height % 2 == 0 or height == 1):
        expected = f"False, as only square, odd kernels from 3x3 have a center (kernel {height}x"
        reject(ValueError, "remove_center", f"{expected}{width})", value)
    return removes


def check_aggregation_layer(
    channels: Any,
    kernel_size: Any,
    stride: Any,
    pad: Any,
    dilation: Any,
    group: Any,
    offset_scale: Any,
    remove_center: Any,
) -> Aggregation:
    """Validate and normalise the constructor arguments that the layers of DCNv3 and DCNv4 share.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: a value out of its range.

    """
    channels = check_int("channels", channels)
    group = check_int("group", group)
    check_divides("group", group, channels, "channels")
    size = check_int("kernel_size", kernel_size)
    if check_int("stride", stride) != 1:
        expected = "1, as each pixel of the input samples for one of the output"
        reject(ValueError, "stride", expected, stride)
    dilation = check_int("dilation", dilation)
    pad = check_ints("pad", pad, 0)[0]
    if 2 * pad != dilation * (size - 1):
        expected = f"dilation {dilation} * (kernel_size {size} - 1) / 2, as outputs have the "
        reject(ValueError, "pad", f"{expected}size of the input", pad)
    return check_aggregation(
        *(size, size, 1, 1, pad, pad, dilation, dilation),
        *(group, channels // group, offset_scale, None, remove_center),
    )


def check_odd(name: str, size: Any) -> int:
    """One odd positive int: the size of a kernel that keeps the size of images."""
    size = check_int(name, size)
    if size % 2 == 0:
        reject(ValueError, name, "an odd number, which keeps the size of images", size)
    return size


DCNV3 = Names(x="input", deformable_groups="group")
DCNV4 = DCNV3._replace(offset="offset_mask")


def check_aggregated(
    input: Any, sampling: tuple[Any, ...], how: Aggregation, amp_dtype: str | None = None
) -> int:
    """Validate the tensors of one call: offset and mask of DCNv3, or the offset_mask of DCNv4.

    Returns the channels of the input.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: a wrong shape or device.

    """
    packed = len(sampling) == 1
    names = DCNV4 if packed else DCNV3
    found = inspect(names.x, input)
    _check_rank(names.x, found[0], "[N, H, W, C]")
    channels = found[0][3]
    if how.group_channels != UNKNOWN:
        formula = f"group {how.group} * group_channels {how.group_channels}"
        _check_size(names.x, "channels", channels, how.group * how.group_channels, formula)
        channels = how.group * how.group_channels
    elif channels == UNKNOWN:
        reject(ValueError, names.x, "known channels, as group_channels is None", [*found[0]])

    # Beyond their channels they are held against each other as in the convolution that they become.
    converted: list[Found | None] = []
    for name, tensor, planes in zip((names.offset, "mask"), sampling, (3 if packed else 2, 1)):
        shape, dtype = inspect(name, tensor)
        _check_rank(name, shape, f"[N, Ho, Wo, group * taps * {planes}]")
        _check_planes(name, shape[3], planes, how, packed)
        full = (2 if packed else planes) * how.group * math.prod(how.kernel)
        converted.append(((shape[0], full, *shape[1:3]), dtype))
    pads = (how.pad[0], how.pad[0], how.pad[1], how.pad[1])
    attributes = Attributes(how.stride, pads, how.dilation, channels, how.group, 0, "NHWC")
    weight = (channels, 1, *how.kernel), found[1]
    offset, mask = (*converted, None)[:2]
    check_found(found, offset, mask, weight, None, attributes, amp_dtype, names)
    if HAS_DEVICES:
        _check_devices((input, *sampling), names)
    return channels


def _check_planes(name: str, got: int, planes: int, how: Aggregation, padded: bool) -> None:
    """Check the channels of offset, mask or both, which may be padded."""
    least = how.group * how.taps * planes
    most = how.packed_planes if padded else least
    if got in (UNKNOWN, least, most):
        return
    formula = f"group {how.group} * taps {how.taps} * {planes}"
    padding = f", or that padded to {most}" if most > least else ""
    reject(ValueError, name, f"{least} channels ({formula}{padding})", got)


def check_features(
    name: str, tensor: Any, axes: str, channels: int, dtype: str, amp_dtype: str | None
) -> tuple[int, ...]:
    """Validate what a layer with parameters of a dtype is given, channels last; return its shape.

    Raises:
        TypeError: an argument of a wrong kind or dtype.
        ValueError: a wrong shape.

    """
    shape, got = inspect(name, tensor)
    check_dtype(name, got)
    if got != dtype and not (amp_dtype and {got, dtype} <= set(_AUTO_CAST)):
        reject(TypeError, name, f"dtype {dtype} (that of the layer)", got)
    _check_rank(name, shape, axes)
    _check_size(name, "channels", shape[-1], channels, "those of the layer")
    if 0 in shape[1:]:
        reject(ValueError, name, "positive sizes", [*shape])
    return shape


def check_sides(shape: Any, pixels: int) -> tuple[Any, ...]:
    """(height, width) of so many pixels, which a program may leave open; None: equal sides.

    Raises:
        TypeError: what is neither None nor two ints or tensors of a program.
        ValueError: sides of another product, or None where there are no equal ones.

    """
    expected = "(height, width) or None"
    if shape is None:
        side = math.isqrt(max(pixels, 0))
        if side * side != pixels:
            what = "are open" if pixels < 0 else f"are {pixels}, no square"
            reject(ValueError, "shape", f"(height, width), as the pixels {what}", None)
        return side, side
    if not isinstance(shape, (list, tuple)) or len(shape) != 2:
        reject_kind("shape", expected, shape)
    # A program that leaves sizes open has tensors for them.
    sides = tuple(side if isinstance(side, (Tensor, *STATIC)) else integer(side) for side in shape)
    if any(side is None for side in sides):
        reject_kind("shape", expected, shape)
    known = [side for side in sides if isinstance(side, int)]
    if min(known, default=1) < 1:
        reject(ValueError, "shape", "positive", [*shape])
    if pixels >= 0 and len(known) == 2 and math.prod(known) != pixels:
        reject(ValueError, "shape", f"a product of {pixels} (pixels of input)", [*shape])
    return sides


# --- errors --------------------------------------------------------------------------------------


def reject(kind: type[Exception], name: str, expected: str, got: Any) -> NoReturn:
    """Raise what a user gets for an argument: its name, what was expected and what it was."""
    raise breaks_graph(kind(f"{name}: expected {expected}, got {shown(got)}"))


def shown(value: Any, form: Callable[[Any], str] = str) -> str:
    """Write a value down in an error."""
    try:
        return form(value)
    except ValueError:  # Python writes no int of more than 4300 digits
        return "a number of thousands of digits"


def reject_kind(name: str, expected: str, value: Any) -> NoReturn:
    """Raise what a user gets for an argument of a wrong kind."""
    kind = type(value)
    got = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if value is None:
        got = "None"
    elif kind in (bool, int, float, str, list, tuple):
        text = shown(value, repr)
        got = f"{text if len(text) <= 60 else text[:60] + '...'} ({got})"
    reject(TypeError, name, expected, got)


# --- tensors -------------------------------------------------------------------------------------

Found = tuple[tuple[int, ...], str]  # shape, dtype

# To compare or hash a dtype takes longer, and Paddle 3 has one object for each.
_DTYPE_OF = {id(getattr(paddle, name)): name for name in DTYPES}


def dtype_name(dtype: Any) -> str:
    """Return the name, the same in every Paddle and mode, while the enums behind it differ."""
    return _DTYPE_OF.get(id(dtype)) or str(dtype).rpartition(".")[2]


def inspect(name: str, tensor: Any) -> Found:
    """Return the shape (-1: left open by a static program) and dtype of a tensor."""
    return (_inspect_dynamic if paddle.in_dynamic_mode() else _inspect_static)(name, tensor)


def check_step(name: str, batch: int, im2col_step: int, kind: type[Exception] = ValueError) -> None:
    """Refuse a step that does not divide a larger batch, as Paddle 1 and mmcv do.

    This package's operator computes with any.
    """
    if batch > im2col_step and batch % im2col_step:
        expected = f"a divisor of {batch} (batch of {name}) or a number above it"
        reject(kind, "im2col_step", expected, im2col_step)


def check_shape(name: str, tensor: Any, axes: str) -> tuple[int, ...]:
    """Return the shape of a tensor, which must have these axes."""
    shape = inspect(name, tensor)[0]
    _check_rank(name, shape, axes)
    return shape


def _inspect_dynamic(name: str, tensor: Any) -> Found:
    if not isinstance(tensor, Tensor):
        reject_kind(name, "a paddle.Tensor", tensor)
    if not tensor.is_dense() and not tensor.is_dist():
        reject(TypeError, name, "a dense paddle.Tensor", "a sparse one")
    shape = tuple(tensor.shape)
    if not tensor._is_initialized() and 0 not in shape:
        reject(ValueError, name, "a tensor that holds data", "one that was cleared")
    dtype = tensor.dtype
    return shape, _DTYPE_OF.get(id(dtype)) or dtype_name(dtype)


def _inspect_static(name: str, tensor: Any) -> Found:
    expected = "a tensor of the static program"
    if isinstance(tensor, Tensor):
        # to_static turns the constants it finds in a function into inputs of the program.
        if not paddle.base.dygraph.base.in_to_static_mode():
            reject(TypeError, name, expected, "a paddle.Tensor of dynamic mode")
    elif not isinstance(tensor, STATIC):
        reject_kind(name, expected, tensor)
    elif hasattr(tensor, "is_dense_tensor_type") and not (
        tensor.is_dense_tensor_type() or tensor.is_dist_dense_tensor_type()
    ):
        reject(TypeError, name, "a dense tensor", tensor.type())
    shape = tuple(UNKNOWN if size is None else size for size in tensor.shape)
    return shape, dtype_name(tensor.dtype)


def _check_devices(tensors: tuple[Any, ...], names: Names) -> None:
    """Check that all tensors of a call are on the device of x; in a program none is known yet."""
    if not paddle.in_dynamic_mode():
        return
    place = tensors[0]._place_str
    for name, tensor in zip((names.x, names.offset, *Call._fields[2:]), tensors):
        if tensor is not None and tensor._place_str != place:
            reject(ValueError, name, f"a tensor on {place} (that of {names.x})", tensor._place_str)


# --- parameters ----------------------------------------------------------------------------------


def integer(value: Any) -> int | None:
    """Return the value as an int, None if it is no integer.

    NumPy's integers are, and arrays and tensors of integers without axes; bool is none.
    """
    if type(value) is int:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    elif isinstance(value, Tensor) and paddle.in_dynamic_mode() and len(value.shape) == 0:
        value = value.item()
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return None


def is_row(value: Any) -> bool:
    """Tell whether a value is a list, a tuple or an array with one axis."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def check_ints(name: str, value: Any, least: int, counts: tuple[int, ...] = ()) -> tuple[int, ...]:
    """One int, or as many as `counts` allows in a list, tuple or array, as a tuple."""
    if type(value) is int and least <= value <= _INT_MAX:
        return (value,)
    several = is_row(value) and len(counts) > 0
    integers = tuple(map(integer, value)) if several else (integer(value),)
    if None in integers or (several and len(integers) not in counts):
        expected = " or ".join(["an int", *(f"{count} ints" for count in counts)])
        if None in integers:
            reject_kind(name, expected, value)
        reject(ValueError, name, expected, value)
    if min(integers) < least:
        reject(ValueError, name, "positive" if least == 1 else "non-negative", value)
    if max(integers) > _INT_MAX:
        reject(ValueError, name, f"at most {_INT_MAX}", value)
    return integers


def check_int(name: str, value: Any) -> int:
    """One positive int."""
    return check_ints(name, value, 1)[0]


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """(height, width) from one positive int or two."""
    integers = check_ints(name, value, 1, (2,))
    return integers if len(integers) == 2 else integers * 2


def check_number(name: str, value: Any, positive: bool = False) -> float:
    """One finite number, above 0 if it has to be."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        reject_kind(name, "a number", value)
    try:
        number = float(value)
    except OverflowError:  # of an int
        number = math.inf
    if not math.isfinite(number) or (positive and number <= 0):
        reject(ValueError, name, f"a finite number{' above 0' if positive else ''}", value)
    return number


def _check_padding(value: Any) -> tuple[int, int, int, int]:
    """Top, bottom, left, right from one int, (height, width), or all four."""
    integers = check_ints("padding", value, 0, (2, 4))
    if len(integers) == 4:
        return integers
    height, width = integers if len(integers) == 2 else integers * 2
    return height, height, width, width


def check_flag(name: str, value: Any, optional: bool = False) -> bool:
    """One bool, also NumPy's, or 0 or 1; a text such as "False" would be true.

    `optional`: None is False, as it is in other libraries.
    """
    if optional and value is None:
        return False
    number = int(value) if isinstance(value, (bool, np.bool_)) else integer(value)
    if number is None:
        reject_kind(name, "a bool", value)
    if number not in (0, 1):
        reject(ValueError, name, "False or True", value)
    return bool(number)


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """One of some texts."""
    if isinstance(value, str) and value in choices:
        return value
    expected = " or ".join(map(repr, choices))
    if isinstance(value, str):
        reject(ValueError, name, expected, repr(value))
    reject_kind(name, expected, value)


def check_data_format(value: Any) -> str:
    """One of the two layouts of images."""
    return check_choice("data_format", value, ("NCHW", "NHWC"))


# --- dtypes --------------------------------------------------------------------------------------


def check_dtype(name: str, dtype: str) -> None:
    """Check that the operator has a dtype at all."""
    if dtype not in DTYPES:
        reject(TypeError, name, f"dtype {', '.join(DTYPES[:-1])} or {DTYPES[-1]}", dtype)


def _casts(dtypes: tuple[str | None, ...], amp_dtype: str | None, names: Names) -> tuple:
    """Check the dtypes of a call's tensors (None: no such tensor), return what to cast them to.

    None leaves a tensor as it is; empty if none of them needs a cast. Outside auto_cast only an
    offset and a mask that differ from each other need one: the narrower takes the dtype of the
    other.
    """
    x, offset, mask, weight, bias = dtypes
    check_dtype(names.x, x)
    automatic = amp_dtype is not None and x in _AUTO_CAST
    dtype = amp_dtype if automatic else x
    like_x = _AUTO_CAST if automatic else (dtype,)
    like_offset = _AUTO_CAST if automatic else tuple(dict.fromkeys((dtype, "float32")))
    for name, got, allowed in (
        ("weight", weight, like_x),
        ("bias", bias, like_x),
        (names.offset, offset, like_offset),
        ("mask", mask, like_offset),
    ):
        if got is not None and got not in allowed:
            reason = f"{names.x} is {x}{', under auto_cast' if automatic else ''}"
            reject(TypeError, name, f"dtype {' or '.join(allowed)} ({reason})", got)

    sampling = {got if got in (dtype, "float32") else dtype for got in (offset, mask) if got}
    # Where they differ one of them is float32: narrower than float64, wider than the halves.
    coordinate = max(sampling, key=DTYPES.index)
    targets = (dtype, coordinate, coordinate, dtype, dtype)
    casts = tuple(None if got in (None, to) else to for got, to in zip(dtypes, targets))
    return casts if any(casts) else ()


# --- shapes --------------------------------------------------------------------------------------


def check_divides(name: str, divisor: int, size: int, whose: str) -> None:
    """Check that a number of groups divides what is grouped."""
    if size != UNKNOWN and size % divisor:
        reject(ValueError, name, f"a divisor of {size} ({whose})", divisor)


def _check_rank(name: str, shape: tuple[int, ...], axes: str) -> None:
    rank = axes.count(",") + 1
    if len(shape) != rank:
        reject(ValueError, name, f"{rank}-D {axes}", f"{len(shape)}-D {[*shape]}")


def _check_size(name: str, what: str, got: int, expected: int, formula: str) -> None:
    if got != expected and UNKNOWN not in (got, expected):
        reject(ValueError, name, f"{expected} {what} ({formula})", got)


def _output_size(
    name: str, axis: str, size: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int]
) -> tuple[int, str]:
    """Output size along one axis, and the formula that gives it."""
    before, after = pad
    formula = f"({size} + {before} + {after} - ({dilation} * ({kernel} - 1) + 1)) // {stride} + 1"
    if UNKNOWN in (size, kernel):
        return UNKNOWN, formula
    output = (size + before + after - (dilation * (kernel - 1) + 1)) // stride + 1
    if output < 1:
        reject(ValueError, name, f"an output {axis} of at least 1", f"{formula} = {output}")
    return output, formula


@functools.lru_cache(maxsize=1024)
def check_found(
    x: Found,
    offset: Found,
    mask: Found | None,
    weight: Found,
    bias: Found | None,
    attributes: Attributes,
    amp_dtype: str | None,
    names: Names,
) -> tuple[str | None, ...]:
    """Hold the tensors of a call against each other, return `_casts`; remembered when all fit."""
    inspected = (x, offset, mask, weight, bias)
    casts = _casts(tuple(found and found[1] for found in inspected), amp_dtype, names)
    _check_shapes(*(found and found[0] for found in inspected), attributes, names)
    return casts


def _check_shapes(
    x: tuple[int, ...],
    offset: tuple[int, ...],
    mask: tuple[int, ...] | None,
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    attributes: Attributes,
    names: Names,
) -> None:
    """Hold every dimension that is known against what the others ask for."""
    (stride_h, stride_w), padding, (dilation_h, dilation_w), groups, deformable_groups, *_ = (
        attributes
    )
    channels_last = attributes.data_format == "NHWC"
    _check_rank(names.x, x, "[N, H, W, C]" if channels_last else "[N, C, H, W]")
    _check_rank(names.offset, offset, f"[N, {names.deformable_groups} * 2 * kh * kw, Ho, Wo]")
    _check_rank("weight", weight, "[M, C / groups, kh, kw]")
    if bias is not None:
        _check_rank("bias", bias, "[M]")
    if mask is not None:
        _check_rank("mask", mask, f"[N, {names.deformable_groups} * kh * kw, Ho, Wo]")
    if attributes.planes_last:
        offset, mask = (each and (each[0], UNKNOWN, each[1], each[2]) for each in (offset, mask))
    batch, channels, height, width = (x[0], x[3], x[1], x[2]) if channels_last else x
    out_channels, group_channels, kernel_h, kernel_w = weight
    for name, what, size in (
        (names.x, "channels", channels),
        (names.x, "height", height),
        (names.x, "width", width),
        ("weight", "output channels", out_channels),
        ("weight", "kernel height", kernel_h),
        ("weight", "kernel width", kernel_w),
    ):
        if size == 0:
            reject(ValueError, name, f"positive {what}", 0)
    for what, size in (("height", height), ("width", width)):
        if size > _SIDE_MAX:
            reject(ValueError, names.x, f"a {what} of at most {_SIDE_MAX}", size)

    channels_of_x = f"channels of {names.x}"
    check_divides("groups", groups, channels, channels_of_x)
    check_divides("groups", groups, out_channels, "output channels of weight")
    check_divides(names.deformable_groups, deformable_groups, channels, channels_of_x)
    if channels != UNKNOWN:
        formula = f"channels {channels} of {names.x} / groups {groups}"
        _check_size("weight", "input channels", group_channels, channels // groups, formula)
    if bias is not None:
        _check_size("bias", "entries", bias[0], out_channels, "output channels of weight")

    out_h, formula_h = _output_size(
        names.x, "height", height, kernel_h, stride_h, dilation_h, padding[:2]
    )
    out_w, formula_w = _output_size(
        names.x, "width", width, kernel_w, stride_w, dilation_w, padding[2:]
    )
    taps = UNKNOWN if UNKNOWN in (kernel_h, kernel_w) else kernel_h * kernel_w
    for name, shape, planes, factor in ((names.offset, offset, 2, "2 * "), ("mask", mask, 1, "")):
        if shape is not None:
            expected = UNKNOWN if taps == UNKNOWN else planes * deformable_groups * taps
            kernel = f"kernel {kernel_h}x{kernel_w}"
            formula = f"{factor}{names.deformable_groups} {deformable_groups} * {kernel}"
            _check_size(name, "images", shape[0], batch, f"batch of {names.x}")
            _check_size(name, "channels", shape[1], expected, formula)
            _check_size(name, "rows", shape[2], out_h, formula_h)
            _check_size(name, "columns", shape[3], out_w, formula_w)
    if mask is not None:  # where x leaves a size open, these two must still agree
        for axis, what in ((0, "images"), (2, "rows"), (3, "columns")):
            _check_size("mask", what, mask[axis], offset[axis], f"{what} of {names.offset}")

    output = [batch, out_channels, out_h, out_w]
    if UNKNOWN not in output and math.prod(output) > _ELEMENTS_MAX:
        reject(ValueError, names.x, f"an output of at most {_ELEMENTS_MAX} elements", output)
