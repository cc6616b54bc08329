"""Flags of Paddle 1.x's functions: bools, as a text such as "False" would be true."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .. import _checks


def check_flags(function: Callable) -> Callable:
    """Have a function refuse what is no bool where its signature has one.

    None is False, as it is in Paddle 1.x.
    """
    signature = inspect.signature(function)
    kinds = ("bool", "bool | None")
    flags = {name for name, each in signature.parameters.items() if each.annotation in kinds}
    if not flags:
        return function

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # which the function says in its own words
            given = {}
        for name in flags & given.keys():
            _checks.check_flag(name, given[name], optional=True)
        return function(*args, **kwargs)

    return checked
