"""`fluid.framework` of Paddle 1.x: programs, and their tensors by name."""

from __future__ import annotations

from typing import Any

import paddle

from .. import _checks
from . import _programs
from ._moved import MOVED, module_getattr

__all__ = ["Parameter", "Variable", *MOVED["fluid.framework"]]


def _get_var(name: str, program: Any = None) -> Any:
    """Return the tensor of a program (None: the default one) that has this name.

    Raises:
        ValueError: there is none.
    """
    program = paddle.static.default_main_program() if program is None else program
    found = _programs.find(program, name)
    if found is None:
        raise ValueError(f"name: expected the name of a tensor of the program, got {name!r}")
    return found


class _AnyTensor(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, (paddle.Tensor, *_checks.STATIC))


class Variable(metaclass=_AnyTensor):
    """What `isinstance` takes tensors of every mode for."""


class _AnyParameter(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        if _programs.Value is not None and isinstance(instance, _programs.Value):
            operation = instance.get_defining_op()
            return operation is not None and operation.name() == "builtin.parameter"
        base = paddle.base.framework
        return isinstance(instance, (base.Parameter, base.EagerParamBase))


class Parameter(metaclass=_AnyParameter):
    """What `isinstance` takes parameters of every mode for."""


__getattr__ = module_getattr(__name__)
