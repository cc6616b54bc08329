"""`fluid.clip` of Paddle 1.x: Paddle's clipping of gradients, with the arguments of 1.x."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import paddle

from ..static import _operators
from ._moved import module_getattr
from .layers.tensor import scaled_to_norm, square_sum

__all__ = [
    "GradientClipByGlobalNorm",
    "GradientClipByNorm",
    "GradientClipByValue",
    "set_gradient_clip",
]


class _Clip(paddle.nn.clip.ClipGradBase):
    """Clips gradients in every kind of program, which not all of Paddle's own classes do."""

    _need_clip: Callable[[Any], bool] | None = None

    def __call__(self, params_grads: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Return the pairs of parameters and gradients with the gradients clipped."""
        chosen = [
            (parameter, gradient)
            for parameter, gradient in params_grads
            if gradient is not None
            and getattr(parameter, "need_clip", True)
            and (self._need_clip is None or self._need_clip(parameter))
        ]
        if not chosen:
            return params_grads
        with self._as_training(chosen):
            clipped = self._clipped([gradient for _, gradient in chosen])
        clipped = {id(pair[1]): gradient for pair, gradient in zip(chosen, clipped)}
        return [
            (parameter, clipped.get(id(gradient), gradient)) for parameter, gradient in params_grads
        ]

    @staticmethod
    def _as_training(pairs: list[tuple[Any, Any]]) -> contextlib.AbstractContextManager:
        """Have Paddle 2's programs know what tests have no use for."""
        if not _operators.in_old_program():
            return contextlib.nullcontext()
        return pairs[0][0].block.program._optimized_guard(list(pairs[0]))

    def _clipped(self, gradients: list[Any]) -> list[Any]:
        raise NotImplementedError


class GradientClipByGlobalNorm(_Clip):
    """Scale all gradients down so that their L2 norm together is at most `clip_norm`."""

    def __init__(
        self,
        clip_norm: float,
        group_name: str = "default_group",
        need_clip: Callable[[Any], bool] | None = None,
    ) -> None:
        """Take the norm, a name, and a function that chooses parameters; None is all of them."""
        super().__init__()
        self.clip_norm, self.group_name, self._need_clip = float(clip_norm), group_name, need_clip

    def _clipped(self, gradients: list[Any]) -> list[Any]:
        total = paddle.add_n([square_sum(gradient) for gradient in gradients])
        return [scaled_to_norm(gradient, total, self.clip_norm) for gradient in gradients]


class GradientClipByNorm(_Clip):
    """Scale each gradient down so that its L2 norm is at most `clip_norm`."""

    def __init__(self, clip_norm: float, need_clip: Callable[[Any], bool] | None = None) -> None:
        """Take the norm, and a function that chooses parameters; None is all of them."""
        super().__init__()
        self.clip_norm, self._need_clip = float(clip_norm), need_clip

    def _clipped(self, gradients: list[Any]) -> list[Any]:
        return [
            scaled_to_norm(gradient, square_sum(gradient), self.clip_norm) for gradient in gradients
        ]


class GradientClipByValue(_Clip):
    """Move each element of the gradients into the range from `min` to `max`; None is -max."""

    def __init__(
        self,
        max: float,
        min: float | None = None,
        need_clip: Callable[[Any], bool] | None = None,
    ) -> None:
        """Take the range, and a function that chooses parameters; None is all of them."""
        super().__init__()
        self.max = float(max)
        self.min = -self.max if min is None else float(min)
        self._need_clip = need_clip

    def _clipped(self, gradients: list[Any]) -> list[Any]:
        return [paddle.clip(gradient, self.min, self.max) for gradient in gradients]


def set_gradient_clip(clip: Any, param_list: Any = None, program: Any = None) -> None:
    """Clip the gradients of a program, for the optimizers that have no `grad_clip` of their own.

    Args:
        clip: One of the classes of this module.
        param_list: Parameters or their names, the others are not clipped; None is all of them.
        program: The program; None is the default one.

    Raises:
        TypeError: a `clip` of another kind.
    """
    if not isinstance(clip, paddle.nn.clip.GradientClipBase):
        raise TypeError(f"clip: expected one of paddle_dcn.fluid.clip, got {type(clip).__name__}")
    program = paddle.static.default_main_program() if program is None else program
    program._gradient_clip = clip
    if param_list is not None:
        names = {getattr(item, "name", item) for item in param_list}
        for parameter in program.global_block().all_parameters():
            parameter.need_clip = parameter.name in names


__getattr__ = module_getattr(__name__)
