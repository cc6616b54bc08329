"""`fluid.optimizer` of Paddle 1.x: Paddle's optimizers with the names and order of 1.x."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
from paddle.utils import unique_name

from .. import _checks
from ..static import _operators
from . import _programs
from ._flags import check_flags
from ._moved import module_getattr
from .layers.tensor import assign, create_global_var

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
                default=getattr(defaults.get(_RENAMED.get(name, name)), "default", None),
            )
            for name in order.split()
        ]
    )

    class Optimizer(modern):
        __signature__ = signature

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = signature.bind(*args, **kwargs).arguments
            for name in given:
                if isinstance(signature.parameters[name].default, bool):
                    given[name] = _checks.check_flag(name, given[name], optional=True)
            if "parameter_list" in given:
                given["parameter_list"] = _parameters(given["parameter_list"])
            rate = given.get("learning_rate")
            if hasattr(rate, "stop_gradient"):  # a tensor, as the schedules of 1.x return
                given["learning_rate"] = 0.0
            elif isinstance(rate, int):
                given["learning_rate"] = float(rate)
            known = {_RENAMED.get(name, name): given[name] for name in given}
            decay = None if "weight_decay" in defaults else known.pop("weight_decay", None)
            super().__init__(**known)
            if decay is not None:  # Lamb has one of its own, and current Paddle no other
                self.regularization = decay
            self._scheduled = hasattr(rate, "stop_gradient")
            if self._scheduled:
                # Paddle looks here for the tensor that it would make of a number.
                self._learning_rate_map[rate.block.program] = rate

        def _create_global_learning_rate(self) -> None:
            program = paddle.static.default_main_program()
            known = self._global_learning_rate() is not None or paddle.in_dynamic_mode()
            if not known and self._scheduled:  # Paddle would make a rate of 0 of it
                raise ValueError(
                    "learning_rate: expected a tensor of the loss's program, got one of another"
                )
            if isinstance(self._learning_rate, float) and not known:
                # Paddle's has no dimension, and does not load from files of 1.x.
                name, rate = unique_name.generate("learning_rate"), self._learning_rate
                dtype = "float64" if "64" in str(self._dtype) else "float32"
                tensor = create_global_var([1], rate, dtype, persistable=True, name=name)
                self._learning_rate_map[program] = tensor
            super()._create_global_learning_rate()

        def backward(
            self,
            loss: Any,
            startup_program: Any = None,
            parameter_list: Any = None,
            no_grad_set: Any = None,
            callbacks: Any = None,
            parameters: Any = None,
        ) -> list[tuple[Any, Any]]:
            """Add the backward pass alone; see :meth:`minimize`.

            `apply_gradients` adds the rest. `parameters` is Paddle's word for `parameter_list`.
            """
            program = loss.block.program
            if self._grad_clip is None:
                self._grad_clip = getattr(program, "_gradient_clip", None)
            if no_grad_set is not None and _programs.is_pir(program):
                no_grad_set = set(_programs.tensors(program, no_grad_set))
            parameters = _parameters(parameter_list or parameters, loss)
            with _programs.Marked(program, _programs.BACKWARD, startup_program):
                pairs = super().backward(loss, startup_program, parameters, no_grad_set, callbacks)
            if _programs.is_pir(program):
                _programs.name_gradients(pairs)
            return pairs

        def apply_gradients(self, params_grads: Any) -> Any:
            """Add the update of parameters by gradients, pairs of both, to their program."""
            program = paddle.static.default_main_program()
            if params_grads and not paddle.in_dynamic_mode():
                program = params_grads[0][0].block.program
            with _programs.Marked(program, _programs.BACKWARD):
                return super().apply_gradients(params_grads)

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
            with _programs.Marked(program, _programs.BACKWARD, startup_program):
                return super().minimize(loss, startup_program, parameters, no_grad_set)

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


class _Lamb(paddle.optimizer.Lamb):
    @functools.wraps(paddle.optimizer.Lamb.__init__)  # whose signature is asked for
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # As in 1.x also where there is no weight decay.
        super().__init__(*args, always_adapt=True, **kwargs)


Lamb = _with_old_arguments(
    _Lamb,
    "learning_rate lamb_weight_decay beta1 beta2 epsilon parameter_list regularization grad_clip "
    "exclude_from_weight_decay_fn name",
)


class _Composed(paddle.optimizer.Optimizer):
    """An optimizer that current Paddle has no operator for: its update is made of operations."""

    _kept: tuple[str, ...] = ()  # what it keeps of a parameter, from zeros on

    def _create_accumulators(self, block: Any, parameters: Any) -> None:
        for parameter in parameters:
            for name in self._kept:
                self._add_accumulator(name, parameter)

    def _append_optimize_op(self, block: Any, param_and_grad: Any) -> None:
        variables = [self._get_accumulator(name, param_and_grad[0]) for name in self._kept]
        rate = self._create_param_lr(param_and_grad)
        updated = self._update(*param_and_grad, rate, *variables)
        for value, variable in zip(updated, [param_and_grad[0], *variables]):
            assign(value, variable)

    def _update(self, parameter: Any, gradient: Any, rate: Any, *kept: Any) -> tuple[Any, ...]:
        """Return the parameter's next value and those of what is kept."""
        raise NotImplementedError


def _norm(x: Any) -> Any:
    return _operators.sqrt(_operators.sum(paddle.square(x), None, False))


class _LarsMomentum(_Composed):
    _kept = ("velocity",)

    def __init__(
        self,
        learning_rate: Any,
        momentum: float,
        lars_coeff: float = 0.001,
        lars_weight_decay: float = 0.0005,
        parameters: Any = None,
        weight_decay: Any = None,
        grad_clip: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)
        self._momentum, self._coefficient, self._decay = momentum, lars_coeff, lars_weight_decay

    def _update(self, parameter: Any, gradient: Any, rate: Any, *kept: Any) -> tuple[Any, ...]:
        if self._decay > 0:  # which 1.x asked for on the CPU
            size, slope = _norm(parameter), _norm(gradient)
            trust = size * self._coefficient / (slope + size * self._decay)
            known = _operators.greater_than(size * slope, paddle.zeros_like(size))
            rate = rate * paddle.where(known, trust, paddle.ones_like(trust))
        velocity = kept[0] * self._momentum + (gradient + parameter * self._decay) * rate
        return parameter - velocity, velocity


class _Ftrl(_Composed):
    _kept = ("squared", "linear")

    def __init__(
        self,
        learning_rate: Any,
        l1: float = 0.0,
        l2: float = 0.0,
        lr_power: float = -0.5,
        parameters: Any = None,
        weight_decay: Any = None,
        grad_clip: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)
        # The operator of 1.x adds this, so that nothing is divided by zero.
        self._l1, self._l2, self._power = l1 + 1e-10, l2 + 1e-10, lr_power

    def _update(self, parameter: Any, gradient: Any, rate: Any, *kept: Any) -> tuple[Any, ...]:
        squared = kept[0] + paddle.square(gradient)
        before, after = (paddle.pow(s, -self._power) / rate for s in (kept[0], squared))
        linear = kept[1] + gradient - (after - before) * parameter
        limit = paddle.full_like(linear, self._l1)
        moved = (_operators.sign(linear) * self._l1 - linear) / (after + 2 * self._l2)
        kept_out = _operators.greater_than(_operators.abs(linear), limit)
        return paddle.where(kept_out, moved, paddle.zeros_like(moved)), squared, linear


class LarsMomentum(
    _with_old_arguments(
        _LarsMomentum, f"learning_rate momentum lars_coeff lars_weight_decay {_LAST}"
    )
):
    """The optimizer of arXiv 1708.03888.

    With a parameter p and its gradient g, the rate r is the learning rate times
    lars_coeff * |p| / (|g| + lars_weight_decay * |p|), and

        velocity = momentum * velocity + r * (g + lars_weight_decay * p)
        p = p - velocity
    """


class Ftrl(_with_old_arguments(_Ftrl, f"learning_rate l1 l2 lr_power {_LAST}")):
    """The optimizer FTRL-Proximal of McMahan et al. 2013.

    With a parameter p, its gradient g and the learning rate r,

        squared' = squared + g^2
        linear = linear + g - (squared'^-lr_power - squared^-lr_power) / r * p
        p = (sign(linear) * l1 - linear) / (squared'^-lr_power / r + 2 * l2)

    and p is 0 where |linear| is at most l1.
    """


class LookaheadOptimizer:
    """The optimizer of arXiv 1907.08610 around another one.

    Every k runs, the slow copy s of a parameter p and the parameter itself become
    alpha * p + (1 - alpha) * s. The copies are the variables `<parameter>@SLOW`.
    """

    def __init__(self, inner_optimizer: Any, alpha: float = 0.5, k: int = 5) -> None:
        """Take the other optimizer and the settings.

        Raises:
            ValueError: no optimizer, an alpha outside 0 to 1, or a k that is no positive int.
        """
        if inner_optimizer is None:
            raise ValueError("inner_optimizer: expected an optimizer, got None")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected 0 to 1, got {alpha}")
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k: expected a positive int, got {k!r}")
        self.inner_optimizer, self.alpha, self.k = inner_optimizer, alpha, k

    def minimize(self, loss: Any, startup_program: Any = None) -> Any:
        """Add the other optimizer's update and that of the copies to the program of the loss.

        Returns:
            What the other optimizer's `minimize` returns.
        """
        program = loss.block.program
        parameters = program.global_block().all_parameters()
        copies = []
        with self._updating(program, startup_program):
            step = create_global_var([1], 0, "int32", True, name="lookahead_step")
            first = paddle.equal(step, paddle.zeros_like(step))
            for parameter in parameters:
                dtype = "float64" if "64" in str(parameter.dtype) else "float32"
                name, shape = f"{parameter.name}@SLOW", [*parameter.shape]
                copies.append(create_global_var(shape, 0.0, dtype, True, name=name))
                assign(paddle.where(first, parameter, copies[-1]), copies[-1])
        result = self.inner_optimizer.minimize(loss, startup_program)
        with self._updating(program, startup_program):
            paddle.increment(step, 1)
            rest = paddle.remainder(step, paddle.full_like(step, self.k))
            due = paddle.equal(rest, paddle.zeros_like(rest))
            for parameter, copy in zip(parameters, copies):
                mixed = parameter * self.alpha + copy * (1.0 - self.alpha)
                assign(paddle.where(due, mixed, copy), copy)
                assign(paddle.where(due, mixed, parameter), parameter)
        return result

    @staticmethod
    @contextlib.contextmanager
    def _updating(program: Any, startup: Any) -> Iterator[None]:
        with program._lr_schedule_guard(), _programs.Marked(program, _programs.SCHEDULE, startup):
            yield


class ModelAverage(paddle.incubate.ModelAverage):
    """`paddle.incubate.ModelAverage` with the arguments of Paddle 1.x."""

    def __init__(
        self,
        average_window_rate: float,
        min_average_window: int = 10000,
        max_average_window: int = 10000,
        regularization: Any = None,
        name: str | None = None,
    ) -> None:
        """Average the parameters of the default program; `regularization` is not used."""
        super().__init__(
            average_window_rate,
            min_average_window=min_average_window,
            max_average_window=max_average_window,
            name=name,
        )


class ExponentialMovingAverage:
    """Averages of a program's parameters in which older values count less and less.

    After t runs the average of a parameter is that of its values so far, the one of k runs ago with
    weight decay^k. It is kept in the variable `<name><parameter>_ema_0`.

    Examples:
        >>> import numpy as np
        >>> import paddle
        >>> import paddle_dcn.fluid as fluid
        >>> paddle.enable_static()
        >>> with fluid.program_guard(fluid.Program(), fluid.Program()):
        ...     one = fluid.initializer.Constant(1.0)
        ...     w = fluid.layers.create_parameter([1], "float32", "w", default_initializer=one)
        ...     _ = fluid.optimizer.SGD(0.5).minimize(fluid.layers.mean(w))
        ...     average = fluid.optimizer.ExponentialMovingAverage(0.5)
        ...     average.update()
        ...     executor = fluid.Executor(fluid.CPUPlace())
        ...     _ = executor.run(fluid.default_startup_program())
        ...     _ = [executor.run() for _ in range(2)]  # w is 0.5, then 0
        ...     value = fluid.global_scope().find_var("w").get_tensor()
        ...     with average.apply(executor):
        ...         print(np.array(value).round(4))
        ...     print(np.array(value))
        [0.1667]
        [0.]
        >>> paddle.disable_static()
    """

    def __init__(self, decay: float = 0.999, thres_steps: Any = None, name: str | None = None):
        """Take the decay, of the parameters of the default program.

        `thres_steps`, a tensor t, limits the decay to (t + 1) / (t + 10). `name` begins the
        variables' names.
        """
        self._program, self._name = paddle.static.default_main_program(), name or ""
        self._averages: dict[str, str] = {}
        self._saved: dict[str, Any] = {}
        with _programs.Marked(self._program, _programs.SCHEDULE):
            self._rate = create_global_var(
                [1], decay, "float32", True, name=unique_name.generate("scheduled_ema_decay_rate")
            )
            if thres_steps is not None:
                step = thres_steps.astype("float32")
                least = paddle.divide(step + 1.0, step + 10.0)
                limit = paddle.full_like(least, decay)
                assign(_operators.minimum(least, limit), self._rate)
        self._steps = self._counter()

    def _counter(self) -> Any:
        name = unique_name.generate("@EMA_STEP_COUNTER@")
        return create_global_var([1], 0, "int64", True, name=name)

    def update(self) -> None:
        """Have each run of the program that follows move the averages."""
        program = self._program
        with program._lr_schedule_guard(), _programs.Marked(program, _programs.SCHEDULE):
            paddle.increment(self._steps, 1.0)
            for parameter in program.global_block().all_parameters():
                if not getattr(parameter, "trainable", True):
                    continue
                average = create_global_var(
                    [*parameter.shape],
                    0.0,
                    "float64" if "64" in str(parameter.dtype) else "float32",
                    True,
                    name=unique_name.generate(f"{self._name}{parameter.name}_ema"),
                )
                self._averages[parameter.name] = average.name
                moved = average * self._rate + parameter * (1.0 - self._rate)
                assign(moved, average)

    @check_flags
    @contextlib.contextmanager
    def apply(self, executor: Any, need_restore: bool = True) -> Iterator[None]:
        """Put the averages in the place of the parameters, inside a `with` block.

        `need_restore=False` leaves them there until :meth:`restore`.
        """
        self._place = executor.place
        steps = int(self._value(self._steps.name)[0])
        weight = 1.0 - float(self._value(self._rate.name)[0]) ** steps if steps else 1.0
        for parameter, average in self._averages.items():
            self._saved[parameter] = self._value(parameter)
            self._set(parameter, self._value(average) / self._saved[parameter].dtype.type(weight))
        try:
            yield
        finally:
            if need_restore:
                self.restore(executor)

    def restore(self, executor: Any) -> None:
        """Put the parameters back that :meth:`apply` replaced."""
        while self._saved:
            self._set(*self._saved.popitem())

    @staticmethod
    def _value(name: str) -> Any:
        return np.array(paddle.static.global_scope().find_var(name).get_tensor())

    def _set(self, name: str, array: Any) -> None:
        paddle.static.global_scope().find_var(name).get_tensor().set(array, self._place)


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
LambOptimizer = Lamb
LarsMomentumOptimizer = LarsMomentum
FtrlOptimizer = Ftrl

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
    "ExponentialMovingAverage",
    "Ftrl",
    "FtrlOptimizer",
    "Lamb",
    "LambOptimizer",
    "LarsMomentum",
    "LarsMomentumOptimizer",
    "LookaheadOptimizer",
    "ModelAverage",
    "Momentum",
    "MomentumOptimizer",
    "RMSProp",
    "RMSPropOptimizer",
    "SGDOptimizer",
]

__getattr__ = module_getattr(__name__)
