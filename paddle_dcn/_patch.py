"""Runs existing Paddle code on this operator: `patch`, `unpatch` and `patched`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle.static.nn
import paddle.vision.ops
from paddle import Tensor

from . import _checks, functional
from ._to_static import opaque
from .static import nn as static_nn


def _stand_in(name: str, function: Callable) -> Callable:
    """Return a function of its own identity, which no one but `patch` can have put anywhere.

    It is pickled by the name that it has in this module.
    """

    @functools.wraps(function)
    def deform_conv2d(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    deform_conv2d.__module__, deform_conv2d.__qualname__ = __name__, name
    # to_static does not look for a signature behind wrappers.
    deform_conv2d.__signature__ = inspect.signature(function)
    return opaque(deform_conv2d)


def _integers(value: Any) -> Any:
    """Make a list of what else Paddle takes for two ints: arrays, generators and the like."""
    if not isinstance(value, (int, str, list, tuple, Tensor, *_checks.STATIC)):
        with contextlib.suppress(TypeError):
            return [_whole(each) for each in value]
    return value


def _whole(value: Any) -> Any:
    """Make an int of a float that is one: Paddle 2 takes arrays of floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> Any:
    """Make an int of a tensor or array of one whole number; Paddle 2 takes them with axes, too."""
    kinds = (np.ndarray, Tensor) if paddle.in_dynamic_mode() else np.ndarray
    one = isinstance(value, kinds) and math.prod(value.shape) == 1
    return _whole(value.item()) if one else value


def _dtype_of(name: str, value: Any) -> str | None:
    """Return the dtype of a tensor, None of anything else."""
    return _checks.inspect(name, value)[1] if isinstance(value, (Tensor, *_checks.STATIC)) else None


def _added(bias: Any, x: Any, weight: Any) -> bool:
    """Tell whether a bias is none of the operator's, but one that can be added to its result."""
    dtypes = [_dtype_of(*named) for named in (("bias", bias), ("x", x), ("weight", weight))]
    if None in dtypes or dtypes[1] not in _checks.DTYPES:
        return False
    if dtypes[0] not in (*_checks.DTYPES, "complex64", "complex128"):
        return False
    of_outputs = len(bias.shape) == 1 and bias.shape[0] in (*weight.shape[:1], _checks.UNKNOWN)
    same = dtypes[0] == dtypes[1] or functional.amp_dtype() is not None
    return len(bias.shape) <= 4 and not (of_outputs and same)


def _broadcast(bias: Any, x: Any, offset: Any, weight: Any, data_format: Any) -> Any:
    """Return a bias as it is added to the result: its axes are N, M, Ho, Wo from the second on."""
    if _dtype_of("offset", offset) is None or {len(t.shape) for t in (x, offset, weight)} != {4}:
        return bias  # which the operator's checks will say
    shape = list(bias.shape) if len(bias.shape) == 4 else [1, *bias.shape]
    shape += [1] * (4 - len(shape))
    result = [x.shape[0], weight.shape[0], *offset.shape[2:]]
    if any(len({*pair} - {1, _checks.UNKNOWN}) > 1 for pair in zip(shape, result)):
        expected = f"a shape that can be broadcast to {result} from its second axis on"
        _checks.reject(ValueError, "bias", expected, [*bias.shape])
    bias = bias.reshape(shape)
    return bias.transpose([0, 2, 3, 1]) if data_format == "NHWC" else bias


@functools.wraps(functional.deform_conv2d)
def _as_paddle_takes(
    x: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    deformable_groups: Any = 1,
    groups: Any = 1,
    mask: Any = None,
    name: Any = None,
    **ours: Any,
) -> Any:
    """Take the forms of arguments that Paddle's function takes besides those of this package's.

    They are listed in the differential table of the tests. What Paddle does with them is done
    here: a tensor of float16 beside others is cast to the dtype of x, and whatever can be broadcast
    to the result, from its second axis on, is a bias.
    """
    wide = _dtype_of("x", x)
    if wide in ("float32", "float64"):
        others = {"offset": offset, "weight": weight, "bias": bias, "mask": mask}
        offset, weight, bias, mask = (
            tensor.astype(wide) if _dtype_of(name, tensor) == "float16" else tensor
            for name, tensor in others.items()
        )
    added = _added(bias, x, weight)
    if added:
        bias = _broadcast(bias, x, offset, weight, ours.get("data_format"))
    out = functional.deform_conv2d(
        x,
        offset,
        weight,
        None if added else bias,
        *map(_integers, (stride, padding, dilation)),
        *map(_number, (deformable_groups, groups)),
        mask,
        **ours,
    )
    return out + bias if added else out


_NAME = "deform_conv2d"
vision_deform_conv2d = _stand_in("vision_deform_conv2d", _as_paddle_takes)
static_deform_conv2d = _stand_in("static_deform_conv2d", static_nn.deform_conv2d)
_HOMES = {paddle.vision.ops: vision_deform_conv2d, paddle.static.nn: static_deform_conv2d}

_lock = threading.Lock()
_depth = 0
_originals: dict[Any, Callable] = {}


def _rebind(old: Callable, new: Callable) -> None:
    """Let the name stand for `new` in every module where it stands for `old`."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(_NAME) is old:
            # What cannot be changed stays as it is, so that the others all follow.
            with contextlib.suppress(Exception):
                setattr(module, _NAME, new)


def patch() -> None:
    """Make Paddle's own deformable convolution run on this operator, in the whole process.

    From here on `paddle.vision.ops.deform_conv2d` is a function that calls
    `paddle_dcn.deform_conv2d`, and takes what else Paddle's own does, and
    `paddle.static.nn.deform_conv2d` one that calls `paddle_dcn.static.nn.deform_conv2d`, also in
    modules that have imported them under these names. They can be pickled; where they are loaded
    they are these functions, patched or not. Layers look the function up when they are called, so
    every `paddle.vision.ops.DeformConv2D` follows, built before or after. Not reached are copies
    under another name, and what `to_static` has already traced.

    Calls nest: the builtin returns with the last `unpatch`. Any thread may call.

    Examples:
        >>> import paddle, paddle_dcn
        >>> layer = paddle.vision.ops.DeformConv2D(4, 6, 3)
        >>> paddle_dcn.patch()
        >>> out = layer(paddle.rand([1, 4, 8, 8]), paddle.zeros([1, 18, 6, 6]))  # on this operator
        >>> paddle_dcn.unpatch()

    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            for home, ours in _HOMES.items():
                _originals[home] = getattr(home, _NAME)
                _rebind(_originals[home], ours)


def unpatch() -> None:
    """Undo one `patch`; the last one puts Paddle's own functions back where `patch` found them.

    Modules that imported the names in between get them as well. Does nothing without a `patch`.

    Examples:
        >>> import paddle, paddle_dcn
        >>> builtin = paddle.vision.ops.deform_conv2d
        >>> paddle_dcn.patch()
        >>> paddle_dcn.unpatch()
        >>> paddle.vision.ops.deform_conv2d is builtin
        True

    """
    global _depth
    with _lock:
        if _depth == 0:
            return
        _depth -= 1
        if _depth == 0:
            for home, ours in _HOMES.items():
                _rebind(ours, _originals.pop(home))


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Run the block, or the decorated function, between `patch` and `unpatch`.

    A decorated generator or coroutine function is only called in between: its body runs later. Use
    `with` inside of it.

    Examples:
        >>> import paddle, paddle_dcn
        >>> layer = paddle.vision.ops.DeformConv2D(4, 6, 3)
        >>> with paddle_dcn.patched():
        ...     out = layer(paddle.rand([1, 4, 8, 8]), paddle.zeros([1, 18, 6, 6]))

    """
    patch()
    try:
        yield
    finally:
        unpatch()
