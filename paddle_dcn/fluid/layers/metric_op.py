"""`fluid.layers` of Paddle 1.x: metrics that a program computes."""

from __future__ import annotations

from typing import Any

import paddle

from ...static import _operators
from ._common import at_least_1d
from .tensor import assign

__all__ = ["accuracy"]


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
