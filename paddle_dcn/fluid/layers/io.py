"""`fluid.layers` of Paddle 1.x: inputs of programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from ..._checks import integer, reject, reject_kind
from ...static._parameters import require_static

__all__ = ["data"]


def data(
    name: str,
    shape: Sequence[int | None],
    append_batch_size: bool = True,
    dtype: str = "float32",
    lod_level: int = 0,
    type: Any = None,
    stop_gradient: bool = True,
) -> Any:
    """Declare an input of the current static program.

    Args:
        name: Its key in the feed of `Executor.run`.
        shape: Its shape; None or -1 stands for a size that is known only when the program runs.
        append_batch_size: Put such a size, the batch, before a shape that has none itself.
        dtype: The dtype that will be fed.
        lod_level: For the sake of Paddle 1.x's scripts; only 0 is left in current Paddle.
        type: For the sake of Paddle 1.x's scripts; the input is a dense tensor.
        stop_gradient: Whether no gradient is wanted.

    Returns:
        The tensor of the static program.

    Raises:
        RuntimeError: a call in dynamic mode or inside `to_static`.
        TypeError: a shape that is no list of ints and None.
        ValueError: a `lod_level` other than 0, or a size that is none.
    """
    require_static("paddle_dcn.fluid.layers.data", "paddle.to_tensor")
    if lod_level != 0:
        raise ValueError(f"lod_level: expected 0, got {lod_level}")
    expected = "sizes from 0 to 2147483647, None or -1 where one is open"
    listed = isinstance(shape, (list, tuple))
    sizes = [-1 if size is None else integer(size) for size in (shape if listed else [])]
    if not listed or None in sizes:
        reject_kind("shape", f"a list of {expected}", shape)
    if not all(-1 <= size < 2**31 for size in sizes):  # Paddle may crash at those
        reject(ValueError, "shape", expected, shape)
    if append_batch_size and all(size >= 0 for size in sizes):
        sizes = [-1, *sizes]
    tensor = paddle.static.data(name, sizes, dtype)
    tensor.stop_gradient = stop_gradient
    return tensor
