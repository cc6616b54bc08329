"""What Paddle must know of this package where it traces: what to leave alone, how it fails."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import paddle
from paddle.base import core

try:
    from paddle.jit.sot.utils.exceptions import SotExtraInfo
except ImportError:  # Paddle 2.6 has none
    SotExtraInfo = None


def opaque(function: Callable) -> Callable:
    """Keep to_static from looking inside: the function is the same in both modes."""
    marker = getattr(paddle.jit, "marker", None)
    if hasattr(marker, "unified"):
        return marker.unified(function)
    return paddle.jit.not_to_static(function)  # before Paddle 3.1


class Constant:
    """Hands a value to an opaque function as one thing.

    to_static(full_graph=False) takes tuples apart, and leaves an int of theirs open once it has
    seen two values of it, as if it were the size of a tensor. No attribute of an operator may be
    open: Paddle ends the process.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


def skip(*files: str) -> None:
    """Keep to_static(full_graph=False) from translating functions of these files and of this one.

    After a graph break it translates every Python function it meets, which makes nothing here
    faster and takes seconds in the argument checks.
    """
    if hasattr(core, "eval_frame_skip_file_prefix"):
        core.eval_frame_skip_file_prefix((__file__, *files))


def breaks_graph(error: Exception) -> Exception:
    """Let an error of a traced call reach the user as it is.

    It tells to_static(full_graph=False) to rerun the call in dynamic mode, where the same error is
    raised again, instead of wrapping it in an InnerError.
    """
    if SotExtraInfo is not None and not paddle.in_dynamic_mode():
        SotExtraInfo(need_breakgraph=True).attach(error)
    return error


def _patch_call_vjp() -> None:
    """Have Paddle 3's programs raise an error for second derivatives.

    Paddle marks the gradients of a custom operator as constants, so that what depends on them gets
    a gradient of 0 without a word. Here they are marked as what they are. When Paddle then asks for
    their gradients, which it cannot build in a program, that is an error.
    """
    original = getattr(core, "call_vjp", None)
    if original is None:  # Paddle 2's programs differentiate them
        return

    @functools.wraps(original)
    def call_vjp(op: Any, inputs: Any, outputs: Any, out_grads: Any, constants: Any) -> Any:
        if op.name() in ("custom_op.paddle_dcn_v1_grad", "custom_op.paddle_dcn_v2_grad"):
            raise NotImplementedError(
                "deform_conv2d has no second derivatives in to_static and static programs, only in "
                "dynamic mode; deform_conv2d_reference has them, from Paddle 3.1 on"
            )
        gradients = original(op, inputs, outputs, out_grads, constants)
        if op.name() in ("custom_op.paddle_dcn_v1", "custom_op.paddle_dcn_v2"):
            for gradient, constant in zip(gradients, constants):
                for value, stops in zip(gradient, constant):
                    value.stop_gradient = stops
        return gradients

    core.call_vjp = call_vjp


_patch_call_vjp()
