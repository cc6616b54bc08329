"""`fluid.layers` of Paddle 1.x: learning rates that a program computes from the number of runs.

Each is a tensor [1] that an optimizer of `fluid.optimizer` takes as its `learning_rate`. The number
of runs before is kept in the variable `@LR_DECAY_COUNTER@`, of which a program has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle

from ...static import _operators
from .control_flow import autoincreased_step_counter

__all__ = [
    "cosine_decay",
    "exponential_decay",
    "inverse_time_decay",
    "linear_lr_warmup",
    "natural_exp_decay",
    "noam_decay",
    "piecewise_decay",
    "polynomial_decay",
]


def _decay_step_counter(begin: int = 0) -> Any:
    """Return the number of runs before plus `begin`, float32 [1]."""
    return autoincreased_step_counter("@LR_DECAY_COUNTER@", begin).astype("float32")


def _power(base: float, exponent: Any) -> Any:
    return paddle.pow(paddle.full([1], base, "float32"), exponent)


def _steps(decay_steps: int, staircase: bool) -> Any:
    steps = _decay_step_counter() / float(decay_steps)
    return _operators.floor(steps) if staircase else steps


def noam_decay(d_model: float, warmup_steps: int, learning_rate: float = 1.0) -> Any:
    """Return learning_rate * d_model^-0.5 * min(t^-0.5, t * warmup_steps^-1.5), t from 1.

    This is the schedule of arXiv 1706.03762.
    """
    step = _decay_step_counter(1)
    least = _operators.minimum(paddle.pow(step, -0.5), step * float(warmup_steps) ** -1.5)
    return least * (learning_rate * float(d_model) ** -0.5)


def exponential_decay(
    learning_rate: Any, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Any:
    """Return learning_rate * decay_rate^(t / decay_steps); `staircase` rounds the exponent down."""
    return _power(decay_rate, _steps(decay_steps, staircase)) * learning_rate


def natural_exp_decay(
    learning_rate: Any, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Any:
    """Return learning_rate * exp(-decay_rate * t / decay_steps); `staircase` rounds the quotient.

    It is rounded down.
    """
    return _operators.exp(_steps(decay_steps, staircase) * -decay_rate) * learning_rate


def inverse_time_decay(
    learning_rate: Any, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Any:
    """Return learning_rate / (1 + decay_rate * t / decay_steps); `staircase` rounds the quotient.

    It is rounded down.
    """
    return paddle.reciprocal(_steps(decay_steps, staircase) * decay_rate + 1.0) * learning_rate


def polynomial_decay(
    learning_rate: Any,
    decay_steps: int,
    end_learning_rate: float = 1e-4,
    power: float = 1.0,
    cycle: bool = False,
) -> Any:
    """Return (learning_rate - end) * (1 - t / decay_steps)^power + end, t up to decay_steps.

    With `cycle`, decay_steps grows to its next multiple whenever t has reached it.
    """
    step = _decay_step_counter()
    total = paddle.full([1], float(decay_steps), "float32")
    if cycle:
        one = paddle.full([1], 1.0, "float32")
        total = total * _operators.maximum(_operators.ceil(step / float(decay_steps)), one)
    share = paddle.divide(_operators.minimum(step, total), total)
    return paddle.pow(1.0 - share, power) * (learning_rate - end_learning_rate) + end_learning_rate


def piecewise_decay(boundaries: Sequence[int], values: Sequence[float]) -> Any:
    """Return `values[i]` from t = `boundaries[i - 1]` on, before `boundaries[i]`.

    Raises:
        ValueError: not one value more than boundaries.
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"values: expected {len(boundaries) + 1} of them, got {len(values)}")
    step = _decay_step_counter()
    rate = paddle.full([1], float(values[-1]), "float32")
    for boundary, value in reversed(list(zip(boundaries, values))):
        before = paddle.less_than(step, paddle.full([1], float(boundary), "float32"))
        rate = paddle.where(before, paddle.full([1], float(value), "float32"), rate)
    return rate


def cosine_decay(learning_rate: Any, step_each_epoch: int, epochs: int) -> Any:
    """Return learning_rate * 0.5 * (1 + cos(pi * epoch / epochs)), epoch = t // step_each_epoch."""
    epoch = _operators.floor(_decay_step_counter() / float(step_each_epoch))
    return (_operators.cos(epoch * (math.pi / epochs)) + 1.0) * 0.5 * learning_rate


def linear_lr_warmup(learning_rate: Any, warmup_steps: int, start_lr: float, end_lr: float) -> Any:
    """Return a rate that grows from start_lr to end_lr, and from t = warmup_steps on another one.

    Args:
        learning_rate: The rate afterwards, a number or one of these schedules.
        warmup_steps: Length of the warm-up in runs.
        start_lr: The rate in the first run.
        end_lr: The rate that the warm-up leads to.
    """
    step = _decay_step_counter()
    early = step * ((end_lr - start_lr) / warmup_steps) + start_lr
    if isinstance(learning_rate, (int, float)):
        learning_rate = paddle.full([1], float(learning_rate), "float32")
    warming = paddle.less_than(step, paddle.full([1], float(warmup_steps), "float32"))
    return paddle.where(warming, early, learning_rate)
