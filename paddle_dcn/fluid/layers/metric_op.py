"""`fluid.layers` of Paddle 1.x: metrics that a program computes."""

from __future__ import annotations

from typing import Any

import paddle

from ...static import _operators
from ...static._parameters import require_static
from ._common import at_least_1d
from .tensor import assign, create_global_var

__all__ = ["accuracy", "auc"]


def accuracy(input: Any, label: Any, k: int = 1, correct: Any = None, total: Any = None) -> Any:
    """Return the share of examples whose label is among the k greatest scores, of shape [1].

    Args:
        input: Scores [N, C].
        label: The right classes [N, 1], int64.
        k: How many scores count.
        correct: A tensor that takes the number of these examples, [1].
        total: A tensor that takes the number of all of them, [1].
    """
    if correct is not None:
        places = paddle.topk(input, k)[1]
        hits = _operators.sum(paddle.equal(places, label).astype("int64"), None, False)
        assign(at_least_1d(hits).astype(correct.dtype), correct)
    if total is not None:
        assign(paddle.shape(input)[:1].astype(total.dtype), total)
    return at_least_1d(paddle.static.accuracy(input, label, k))


def auc(
    input: Any,
    label: Any,
    curve: str = "ROC",
    num_thresholds: int = 2**12 - 1,
    topk: int = 1,
    slide_steps: int = 1,
) -> tuple[Any, Any, list[Any]]:
    """Return the area under the curve of two classes: of all runs so far, and of the last ones.

    Args:
        input: Probabilities [N, 2] of the classes.
        label: The right classes [N, 1], int64.
        curve: `"ROC"` or `"PR"`.
        num_thresholds: In how many steps the probabilities are counted.
        topk: Not used.
        slide_steps: How many runs the second area is of.

    Returns:
        The areas, float64 of shape [1], and the four variables that hold the counts.

    Raises:
        RuntimeError: a call in dynamic mode.
    """
    # Paddle's own function counts in programs of Paddle 2's kind only.
    require_static("paddle_dcn.fluid.layers.auc", "paddle.metric.Auc")
    bins = num_thresholds + 1
    areas, variables = [], []
    for steps, shape in ((slide_steps, [(1 + slide_steps) * bins + 1]), (0, [1, bins])):
        counts = [create_global_var(shape, 0, "int64", persistable=True) for _ in range(2)]
        area, *counted = _operators.auc(input, label, *counts, curve, num_thresholds, steps)
        for new, variable in zip(counted, counts):
            assign(new, variable)
        areas.append(at_least_1d(area))
        variables += counts
    return areas[1], areas[0], variables
