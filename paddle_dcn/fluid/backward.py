"""`fluid.backward` of Paddle 1.x: gradients without an optimizer."""

from __future__ import annotations

import contextlib
from typing import Any

import paddle

from . import _programs
from ._moved import module_getattr

__all__ = ["append_backward", "gradients"]


def append_backward(
    loss: Any,
    parameter_list: Any = None,
    no_grad_set: Any = None,
    callbacks: Any = None,
    checkpoints: Any = None,
) -> list[tuple[Any, Any]]:
    """Add the backward pass to the program of a loss; see `paddle.static.append_backward`.

    Tensors may be given by their names.

    Returns:
        Pairs of a parameter and its gradient. That of a parameter `w` is called `w@GRAD`.
    """
    program = loss.block.program
    if not _programs.is_pir(program):
        return paddle.static.append_backward(
            loss, parameter_list, no_grad_set, callbacks, checkpoints
        )
    if parameter_list is not None:
        parameter_list = _programs.tensors(program, parameter_list)
    if no_grad_set is not None:
        no_grad_set = set(_programs.tensors(program, no_grad_set))
    with _programs.Marked(program, _programs.BACKWARD):
        pairs = paddle.static.append_backward(
            loss, parameter_list, no_grad_set, callbacks, checkpoints
        )
    found = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
    _programs.name_gradients(found)
    return found


def gradients(
    targets: Any, inputs: Any, target_gradients: Any = None, no_grad_set: Any = None
) -> list[Any]:
    """Add the gradients to the program of the targets; see `paddle.static.gradients`."""
    first = next(iter(targets), None) if isinstance(targets, (list, tuple)) else targets
    block = getattr(first, "block", None)  # of what is no variable Paddle tells
    with paddle.static.program_guard(block.program) if block else contextlib.nullcontext():
        return paddle.static.gradients(targets, inputs, target_gradients, no_grad_set)


__getattr__ = module_getattr(__name__)
