"""What the layers of Paddle 1.x share: activations by name, tensors of at least one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle

from ... import _checks
from ...static._parameters import require_static

# The functions that `act` may name; `ops` and `nn` enter theirs.
ACTIVATIONS: dict[str, Any] = {}


def activated(x: Any, act: str | None) -> Any:
    """Apply the function that `act` names."""
    if act is None:
        return x
    if not isinstance(act, str):
        raise TypeError(f"act: expected a str or None, got {type(act).__name__}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act: expected one of {', '.join(sorted(ACTIVATIONS))}, got {act!r}")
    return ACTIVATIONS[act](x)


def at_least_1d(x: Any) -> Any:
    """Give a tensor without dimensions one, as Paddle 1.x has no others."""
    return x if len(x.shape) else paddle.reshape(x, [1])


def is_tensor(x: Any) -> bool:
    """Tell a tensor of any mode from numbers and lists."""
    return hasattr(x, "stop_gradient")


def ints(value: int | Sequence[int], count: int) -> list[int]:
    """Return `count` ints for one int, a list of ints as it is."""
    return [value] * count if isinstance(value, int) else [int(item) for item in value]


def count_channels(
    layer: str,
    counterpart: str,
    x: Any,
    ranks: Sequence[int],
    channel_axis: int = 1,
    argument: str = "input",
) -> int:
    """Check the tensor that a layer with parameters is applied to, and return its channels.

    Raises:
        RuntimeError: a call in dynamic mode or inside `to_static`.
        TypeError: not a tensor of the static program.
        ValueError: a wrong number of dimensions, or an unknown number of channels.
    """
    require_static(f"paddle_dcn.fluid.layers.{layer}", counterpart)
    shape = _checks.inspect(argument, x)[0]
    if len(shape) not in ranks:
        expected = " or ".join(f"{rank}-D" for rank in ranks)
        raise ValueError(f"{argument}: expected {expected}, got {len(shape)}-D {[*shape]}")
    channels = shape[channel_axis]
    if channels < 1:
        raise ValueError(
            f"{argument}: expected a known, positive size of dimension {channel_axis}, got "
            f"{channels}"
        )
    return channels
