"""`fluid.framework` of Paddle 1.x: programs, and their tensors by name."""

from __future__ import annotations

from typing import Any

import paddle

from . import _programs
from ._moved import MOVED, module_getattr

__all__ = ["Variable", *MOVED["fluid.framework"]]  # noqa: F822


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


_elsewhere = module_getattr(__name__)


def __getattr__(name: str) -> Any:
    if name == "Variable":  # the class of tensors in the kind of programs that is built now
        current = _programs.is_pir(paddle.static.default_main_program())
        return _programs.Value if current else paddle.static.Variable
    return _elsewhere(name)
