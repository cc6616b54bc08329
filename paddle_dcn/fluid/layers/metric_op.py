"""`fluid.layers` of Paddle 1.x: metrics that a program computes."""

from __future__ import annotations

from typing import Any

import paddle

from ._common import at_least_1d

__all__ = ["accuracy"]


def accuracy(input: Any, label: Any, k: int = 1, correct: Any = None, total: Any = None) -> Any:
    """Return the share of examples whose label is among the k greatest scores, of shape [1].

    Args:
        input: Scores [N, C].
        label: The right classes [N, 1], int64.
        k: How many scores count.
        correct: Not used.
        total: Not used.
    """
    return at_least_1d(paddle.static.accuracy(input, label, k))
