"""`fluid.layers` of Paddle 1.x, as thin names over current Paddle.

Functions without parameters of their own take tensors of every mode. Layers with parameters add
to a static program; they create their parameters under the names, with the shapes and with the
initial values of Paddle 1.8. Arguments called `name` that say nothing else, `use_cudnn`,
`force_cpu` and `in_place` are taken for the sake of Paddle 1.x's scripts and not used.

Tensors without dimensions do not exist in Paddle 1.x: where current Paddle would return one, these
functions return a tensor of shape [1].
"""

from typing import Any

from .._flags import check_flags
from .._moved import module_getattr
from . import (
    control_flow,
    detection,
    io,
    learning_rate_scheduler,
    loss,
    metric_op,
    nn,
    ops,
    tensor,
)

_PARTS = (nn, ops, tensor, loss, control_flow, detection, io, metric_op, learning_rate_scheduler)
__all__ = sorted(name for part in _PARTS for name in part.__all__)
for _part in _PARTS:
    for _name in _part.__all__:
        if not isinstance(getattr(_part, _name), type):
            setattr(_part, _name, check_flags(getattr(_part, _name)))
        globals()[_name] = getattr(_part, _name)

_gone = module_getattr(__name__)


def __getattr__(name: str) -> Any:
    return globals()[name] if name in __all__ else _gone(name)


for _part in _PARTS:  # 1.x has some functions in other ones
    _part.__getattr__ = __getattr__
