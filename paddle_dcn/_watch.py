"""Watches the calls of the operator that a model makes, and in which of its layers."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import paddle
from paddle import nn

from . import _to_static, functional
from ._checks import Call

_to_static.skip(__file__)


_C = TypeVar("_C", bound="Closing")


class Closing:
    """A context that ends with its `close`."""

    def __enter__(self: _C) -> _C:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class Watch(Closing):
    """Shows a function each call of the operator inside a model, until it is closed.

    All calls end in `functional.convolve`, whichever layer or function makes them, in any thread;
    hooks tell which layer of the model that thread is running. Calls while a program is built are
    not shown.

    Args:
        model: The model; calls outside of its forward are not shown.
        see: Takes the name of the innermost layer and the call. It returns the call to make in its
            place, or None for the same.
    """

    def __init__(self, model: nn.Layer, see: Callable[[str, Call], Call | None]) -> None:
        self._see = see
        # Names of the layers that are being run, by thread.
        self._inside: dict[int, list[str]] = collections.defaultdict(list)
        self._hooks = []
        for name, layer in model.named_sublayers(include_self=True):
            for register, hook in (
                (layer.register_forward_pre_hook, self._enter),
                (layer.register_forward_post_hook, self._leave),
            ):
                self._hooks.append(register(functools.partial(hook, name)))
        functional.watchers.append(self._watch)

    def _enter(self, name: str, *_: Any) -> None:
        inside = self._inside[threading.get_ident()]
        if name == "":  # the model itself: whatever an exception has left behind is over
            inside.clear()
        inside.append(name)

    def _leave(self, name: str, *_: Any) -> None:
        inside = self._inside[threading.get_ident()]
        while inside and inside.pop() != name:
            pass

    def _watch(self, call: Call) -> Call:
        inside = self._inside.get(threading.get_ident())
        if not inside or not paddle.in_dynamic_mode():
            return call
        return self._see(inside[-1], call) or call

    def __deepcopy__(self, memo: dict) -> Watch:
        """What the hooks of a copied model belong to: it shows nothing."""
        twin = object.__new__(Watch)
        twin._inside, twin._hooks = collections.defaultdict(list), []
        return twin

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._watch in functional.watchers:
            functional.watchers.remove(self._watch)
