"""`fluid.optimizer` of Paddle 1.x: Paddle's optimizers with the names and order of 1.x."""

from __future__ import annotations

import inspect
from typing import Any

import paddle

from . import _programs
from ._moved import module_getattr

# Arguments that current Paddle calls differently.
_RENAMED = {"parameter_list": "parameters", "regularization": "weight_decay"}


def _parameters(given: Any, loss: Any = None) -> Any:
    """Return a `parameter_list` with the program's parameters in place of their names."""
    if isinstance(given, str):
        raise TypeError(f"parameter_list: expected a list of parameters or names, got {given!r}")
    if not isinstance(given, (list, tuple)) or paddle.in_dynamic_mode():
        return given
    program = paddle.static.default_main_program() if loss is None else loss.block.program
    known = {parameter.name: parameter for parameter in program.global_block().all_parameters()}
    for name in given:
        if isinstance(name, str) and name not in known:
            raise ValueError(
                f"parameter_list: expected parameters of the program, {sorted(known)}, got {name!r}"
            )
    return [known[item] if isinstance(item, str) else item for item in given]


def _with_old_arguments(modern: type, order: str) -> type:
    """Derive from an optimizer of Paddle one that takes these arguments in this order."""
    defaults = inspect.signature(modern).parameters
    signature = inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=defaults[_RENAMED.get(name, name)].default,
            )
            for name in order.split()
        ]
    )

    class Optimizer(modern):
        __signature__ = signature

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = signature.bind(*args, **kwargs).arguments
            if "parameter_list" in given:
                given["parameter_list"] = _parameters(given["parameter_list"])
            rate = given.get("learning_rate")
            if hasattr(rate, "stop_gradient"):  # a tensor, as the schedules of 1.x return
                given["learning_rate"] = 0.0
            elif isinstance(rate, int):
                given["learning_rate"] = float(rate)
            super().__init__(**{_RENAMED.get(name, name): given[name] for name in given})
            if hasattr(rate, "stop_gradient"):
                # Paddle looks here for the tensor that it would make of a number.
                self._learning_rate_map[rate.block.program] = rate

        def minimize(
            self,
            loss: Any,
            startup_program: Any = None,
            parameter_list: Any = None,
            no_grad_set: Any = None,
        ) -> Any:
            """Add the backward pass and the update to the program of the loss.

            `parameter_list` holds the parameters to update, or their names; None is all of them.
            `no_grad_set` holds tensors that get no gradient, or their names. The gradient of a
            parameter `w` is called `w@GRAD`; in programs of Paddle 3 that is the one before
            clipping and regularization.

            Returns:
                The operators of the update, and pairs of a parameter and its gradient.
            """
            parameters = _parameters(parameter_list, loss)
            program = loss.block.program
            if self._grad_clip is None:
                self._grad_clip = getattr(program, "_gradient_clip", None)
            if no_grad_set is not None and _programs.is_pir(program):
                no_grad_set = set(_programs.tensors(program, no_grad_set))
            with _programs.Marked(program, _programs.BACKWARD):
                found = super().minimize(loss, startup_program, parameters, no_grad_set)
            if _programs.is_pir(program):
                _programs.name_gradients(found[1])
            return found

    Optimizer.__name__ = Optimizer.__qualname__ = modern.__name__
    Optimizer.__doc__ = (
        f"`paddle.optimizer.{modern.__name__}` with the arguments of Paddle 1.x: `parameter_list` "
        "is its `parameters`, which may be given by their names, `regularization` its "
        "`weight_decay`; `learning_rate` may be one of the schedules of `fluid.layers`."
    )
    return Optimizer


_LAST = "parameter_list regularization grad_clip name"

SGD = _with_old_arguments(paddle.optimizer.SGD, f"learning_rate {_LAST}")
Momentum = _with_old_arguments(
    paddle.optimizer.Momentum,
    "learning_rate momentum parameter_list use_nesterov regularization grad_clip name",
)
Adagrad = _with_old_arguments(
    paddle.optimizer.Adagrad, f"learning_rate epsilon {_LAST} initial_accumulator_value"
)
Adam = _with_old_arguments(
    paddle.optimizer.Adam, f"learning_rate beta1 beta2 epsilon {_LAST} lazy_mode"
)
Adamax = _with_old_arguments(paddle.optimizer.Adamax, f"learning_rate beta1 beta2 epsilon {_LAST}")


class Adadelta(
    _with_old_arguments(paddle.optimizer.Adadelta, f"learning_rate epsilon rho {_LAST}")
):
    """`paddle.optimizer.Adadelta` as in Paddle 1.x, where the learning rate has no effect.

    It moves a parameter by the update of arXiv 1212.5701 itself, current Paddle by the update times
    the rate. The arguments are those of :class:`Adam` but for its betas.
    """

    def _create_param_lr(self, param_and_grad: Any) -> Any:
        return paddle.ones_like(super()._create_param_lr(param_and_grad))


RMSProp = _with_old_arguments(
    paddle.optimizer.RMSProp, f"learning_rate rho epsilon momentum centered {_LAST}"
)

SGDOptimizer = SGD
MomentumOptimizer = Momentum
AdagradOptimizer = Adagrad
AdamOptimizer = Adam
AdamaxOptimizer = Adamax
AdadeltaOptimizer = Adadelta
RMSPropOptimizer = RMSProp

__all__ = [
    "SGD",
    "Adadelta",
    "AdadeltaOptimizer",
    "Adagrad",
    "AdagradOptimizer",
    "Adam",
    "AdamOptimizer",
    "Adamax",
    "AdamaxOptimizer",
    "Momentum",
    "MomentumOptimizer",
    "RMSProp",
    "RMSPropOptimizer",
    "SGDOptimizer",
]

__getattr__ = module_getattr(__name__)
