"""Errors in the words of the caller, for functions that call arguments by other names."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import paddle

from . import _checks, _ops


def says(**names: str) -> Callable:
    """Decorate an adapter whose caller knows arguments by other names, e.g. `x="input"`.

    An error out of the adapter then names them as the caller does.
    """
    # In quotes there are values, and what a wrong keyword was called.
    pattern = re.compile(rf"(?<!')\b({'|'.join(names)})\b(?!')")

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def adapter(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (TypeError, ValueError) as error:
                error.args = tuple(pattern.sub(lambda m: names[m[0]], str(a)) for a in error.args)
                if _checks.SotExtraInfo is not None and not paddle.in_dynamic_mode():
                    # As in check_call, here also for what an adapter cannot do in a program.
                    _checks.SotExtraInfo(need_breakgraph=True).attach(error)
                raise

        return _ops._unified(adapter)

    return decorate
