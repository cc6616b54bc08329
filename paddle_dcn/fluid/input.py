"""`fluid.input` of Paddle 1.x: `embedding` and `one_hot` of numbers of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._flags import check_flags
from .layers import nn, tensor

__all__ = ["embedding", "one_hot"]


@check_flags
def embedding(
    input: Any,
    size: Sequence[int],
    is_sparse: bool = False,
    is_distributed: bool = False,
    padding_idx: int | None = None,
    param_attr: Any = None,
    dtype: str = "float32",
) -> Any:
    """Look rows of a table up: as `layers.embedding`, for numbers of any shape."""
    return nn.look_up("embedding", input, size, padding_idx, param_attr, dtype)


@check_flags
def one_hot(input: Any, depth: Any, allow_out_of_range: bool = False) -> Any:
    """Return rows of zeros with a one each: as `layers.one_hot`, for places of any shape."""
    return tensor.hot(input, depth, allow_out_of_range)
