"""`fluid.layers` of Paddle 1.x: losses, which keep the batch unless they say otherwise."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F

from ...static import _operators
from ._common import at_least_1d

__all__ = [
    "cross_entropy",
    "dice_loss",
    "huber_loss",
    "kldiv_loss",
    "log_loss",
    "margin_rank_loss",
    "mse_loss",
    "rank_loss",
    "sigmoid_cross_entropy_with_logits",
    "smooth_l1",
    "softmax_with_cross_entropy",
    "square_error_cost",
    "warpctc",
]


def cross_entropy(
    input: Any, label: Any, soft_label: bool = False, ignore_index: int = -100
) -> Any:
    """Return -log of the probability that the input gives to the label.

    Args:
        input: Probabilities [N, ..., C]; no softmax is applied.
        label: The right classes [N, ..., 1], int64; with `soft_label` their probabilities, in the
            shape of the input.
        soft_label: Sum over the classes, weighted with their probabilities.
        ignore_index: A class whose loss is 0.

    Returns:
        [N, ..., 1].
    """
    return F.cross_entropy(
        input,
        label,
        ignore_index=ignore_index,
        reduction="none",
        soft_label=soft_label,
        use_softmax=False,
    )


def softmax_with_cross_entropy(
    logits: Any,
    label: Any,
    soft_label: bool = False,
    ignore_index: int = -100,
    numeric_stable_mode: bool = True,
    return_softmax: bool = False,
    axis: int = -1,
) -> Any:
    """Return :func:`cross_entropy` of the softmax of the logits.

    Args:
        logits: A tensor with the classes along `axis`.
        label: The right classes, int64, of size 1 along `axis`; with `soft_label` their
            probabilities, in the shape of the logits.
        soft_label: Sum over the classes, weighted with their probabilities.
        ignore_index: A class whose loss is 0.
        numeric_stable_mode: Not used.
        return_softmax: Return the softmax, too.
        axis: The dimension of the classes.

    Returns:
        The loss, of size 1 along `axis`, or the loss and the softmax.
    """
    loss = F.cross_entropy(
        logits,
        label,
        ignore_index=ignore_index,
        reduction="none",
        soft_label=soft_label,
        axis=axis,
    )
    return (loss, F.softmax(logits, axis)) if return_softmax else loss


def sigmoid_cross_entropy_with_logits(
    x: Any,
    label: Any,
    ignore_index: int = -100,
    name: str | None = None,
    normalize: bool = False,
) -> Any:
    """Return -label * log(sigmoid(x)) - (1 - label) * log(1 - sigmoid(x)) of each element.

    Args:
        x: Logits.
        label: Probabilities, in shape and dtype of x.
        ignore_index: A label whose loss is 0.
        name: Not used.
        normalize: Divide by the number of the other labels.
    """
    # Paddle's own function leaves labels of -100 out, whatever else is to be.
    loss = _operators.softplus(x) - _operators.multiply(x, label)
    kept = _operators.greater_than(
        _operators.abs(label - float(ignore_index)), paddle.full_like(label, 1e-5)
    ).astype(x.dtype)
    kept.stop_gradient = True
    loss = _operators.multiply(loss, kept)
    if not normalize:
        return loss
    count = _operators.sum(kept, None, False)
    return paddle.divide(loss, _operators.maximum(count, paddle.full_like(count, 1e-5)))


def square_error_cost(input: Any, label: Any) -> Any:
    """Return the square of the difference of each element."""
    return paddle.square(input - label)


def mse_loss(input: Any, label: Any) -> Any:
    """Return the mean of the squares of the differences, of shape [1]."""
    return at_least_1d(paddle.mean(paddle.square(input - label)))


def smooth_l1(
    x: Any,
    y: Any,
    inside_weight: Any = None,
    outside_weight: Any = None,
    sigma: float | None = None,
) -> Any:
    """Return the sum of smooth L1 losses (arXiv 1504.08083) of each example.

    With d = inside_weight * (x - y), an element's loss is outside_weight times
    0.5 * (sigma * d)^2 where |d| < 1 / sigma^2, and |d| - 0.5 / sigma^2 elsewhere.

    Args:
        x: [N, ...].
        y: In the shape of x.
        inside_weight: In the shape of x; None is ones.
        outside_weight: In the shape of x; None is ones.
        sigma: None is 1.

    Returns:
        [N, 1].
    """
    square = 1.0 if sigma is None else float(sigma) ** 2
    difference = x - y
    if inside_weight is not None:
        difference = _operators.multiply(difference, inside_weight)
    size = _operators.abs(difference)
    near = paddle.less_than(size, paddle.full_like(size, 1.0 / square))
    loss = paddle.where(near, paddle.square(difference) * (0.5 * square), size - 0.5 / square)
    if outside_weight is not None:
        loss = _operators.multiply(loss, outside_weight)
    return _operators.sum(paddle.flatten(loss, 1), [1], True)


def huber_loss(input: Any, label: Any, delta: float) -> Any:
    """Return 0.5 * d^2 where |d| is at most delta, delta * (|d| - 0.5 * delta) elsewhere.

    d is the difference of each element.
    """
    difference = label - input
    size = _operators.abs(difference)
    near = paddle.less_equal(size, paddle.full_like(size, delta))
    return paddle.where(near, paddle.square(difference) * 0.5, (size - 0.5 * delta) * delta)


def log_loss(input: Any, label: Any, epsilon: float = 1e-4, name: str | None = None) -> Any:
    """Return -label * log(input + epsilon) - (1 - label) * log(1 - input + epsilon)."""
    first = _operators.multiply(label, _operators.log(input + epsilon))
    return -first - _operators.multiply(1.0 - label, _operators.log(1.0 - input + epsilon))


def kldiv_loss(x: Any, target: Any, reduction: str = "mean", name: str | None = None) -> Any:
    """Return target * (log(target) - x), 0 where the target is not positive.

    Args:
        x: Logarithms of probabilities.
        target: Probabilities.
        reduction: `"none"`, `"mean"`, `"sum"` or `"batchmean"`.
        name: Not used.
    """
    if reduction not in ("none", "mean", "sum", "batchmean"):
        raise ValueError(
            f"reduction: expected 'none', 'mean', 'sum' or 'batchmean', got {reduction!r}"
        )
    positive = _operators.greater_than(target, paddle.zeros_like(target))
    safe = paddle.where(positive, target, paddle.ones_like(target))
    loss = _operators.multiply(target, _operators.log(safe) - x)
    loss = paddle.where(positive, loss, paddle.zeros_like(loss))
    if reduction == "none":
        return loss
    if reduction == "mean":
        return at_least_1d(paddle.mean(loss))
    if reduction == "batchmean":
        loss = paddle.divide(loss, paddle.shape(x)[0].astype(loss.dtype))
    return at_least_1d(_operators.sum(loss, None, False))


def dice_loss(input: Any, label: Any, epsilon: float = 1e-5) -> Any:
    """Return 1 - 2 * overlap / total of probabilities [N, ..., C] and classes [N, ..., 1]."""
    hot = F.one_hot(paddle.squeeze(label, -1), input.shape[-1])
    axes = list(range(1, len(input.shape)))
    overlap = _operators.sum(_operators.multiply(input, hot), axes, False)
    total = _operators.sum(input, axes, False) + _operators.sum(hot, axes, False)
    return at_least_1d(paddle.mean(1.0 - paddle.divide(overlap * 2.0, total + epsilon)))


def rank_loss(label: Any, left: Any, right: Any, name: str | None = None) -> Any:
    """Return log(1 + exp(o)) - label * o, o = left - right (RankNet)."""
    order = left - right
    return _operators.softplus(order) - _operators.multiply(label, order)


def margin_rank_loss(
    label: Any, left: Any, right: Any, margin: float = 0.1, name: str | None = None
) -> Any:
    """Return max(0, margin - label * (left - right))."""
    return F.relu(margin - _operators.multiply(label, left - right))


def warpctc(
    input: Any,
    label: Any,
    blank: int = 0,
    norm_by_times: bool = False,
    input_length: Any = None,
    label_length: Any = None,
) -> Any:
    """Return the CTC loss (Graves et al. 2006) of padded sequences.

    Args:
        input: Logits [T, N, C], to which softmax is applied.
        label: The right classes [N, L], int32.
        blank: The class that stands for none.
        norm_by_times: Divide gradients by the length.
        input_length: Lengths [N] of the logits' sequences, int64.
        label_length: Lengths [N] of the labels, int64.

    Returns:
        [N, 1].

    Raises:
        ValueError: no lengths, which Paddle 1.x could take from a level of detail.
    """
    for name, length in (("input_length", input_length), ("label_length", label_length)):
        if length is None:
            raise ValueError(f"{name}: expected a tensor, as there is no level of detail, got None")
    loss = F.ctc_loss(input, label, input_length, label_length, blank, "none", norm_by_times)
    return paddle.reshape(loss, [-1, 1])
