"""Runs existing Paddle code on this operator: `patch`, `unpatch` and `patched`."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import paddle.static.nn
import paddle.vision.ops

from . import functional
from ._to_static import opaque
from .static import nn as static_nn


def _stand_in(function: Callable) -> Callable:
    """Return a function of its own identity, which no one but `patch` can have put anywhere."""

    @functools.wraps(function)
    def deform_conv2d(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return opaque(deform_conv2d)


_NAME = "deform_conv2d"
_HOMES = {
    paddle.vision.ops: _stand_in(functional.deform_conv2d),
    paddle.static.nn: _stand_in(static_nn.deform_conv2d),
}

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

    From here on `paddle.vision.ops.deform_conv2d` is `paddle_dcn.deform_conv2d` and
    `paddle.static.nn.deform_conv2d` is `paddle_dcn.static.nn.deform_conv2d`, also in modules that
    have imported them under these names. Layers look the function up when they are called, so
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
