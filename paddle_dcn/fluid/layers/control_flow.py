"""`fluid.layers` of Paddle 1.x: conditions, loops and counters."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paddle
from paddle.base.layer_helper import LayerHelper
from paddle.static.nn import control_flow
from paddle.utils import map_structure

from ...static import _operators
from .. import _programs
from .._flags import check_flags
from ._common import at_least_1d
from .tensor import create_global_var

__all__ = [
    "Print",
    "Switch",
    "While",
    "autoincreased_step_counter",
    "case",
    "cond",
    "increment",
    "is_empty",
    "py_func",
    "switch_case",
    "while_loop",
]


def increment(x: Any, value: float = 1.0, in_place: bool = True) -> Any:
    """Add a number to a tensor of one element, in place or to a copy."""
    return paddle.increment(x if in_place else paddle.assign(x), value)


def autoincreased_step_counter(
    counter_name: str | None = None, begin: int = 1, step: int = 1
) -> Any:
    """Return a counter, int64 [1], that is `begin` in the first run and grows by `step` in each.

    Args:
        counter_name: Its name; None is `@STEP_COUNTER@`. The program has one of each name.
        begin: Its value in the first run.
        step: What each run adds.
    """
    name = counter_name or "@STEP_COUNTER@"
    program = paddle.static.default_main_program()
    if _programs.find(program, name) is not None:
        return _programs.find(program, name)
    counter = create_global_var([1], begin - step, "int64", True, name=name)
    with program._lr_schedule_guard(), _programs.Marked(program, _programs.SCHEDULE):
        paddle.increment(counter, float(step))
    return counter


def cond(
    pred: Any,
    true_fn: Callable | None = None,
    false_fn: Callable | None = None,
    name: str | None = None,
) -> Any:
    """Return what one of two functions returns; see `paddle.static.nn.cond`.

    Raises:
        ValueError: only one of them returns tensors.
    """
    if not _operators.in_old_program():
        return paddle.static.nn.cond(pred, true_fn, false_fn)
    # Paddle's own function negates `pred` by one that refuses tensors of these programs.
    helper, results = LayerHelper("cond"), []
    for holds, function in ((pred, true_fn), (_operators.logical_not(pred), false_fn)):
        result = None
        if function is not None:
            with _block_if(holds):
                result = function()
                if result is not None:
                    result = map_structure(
                        lambda x: control_flow.copy_var_to_parent_block(x, helper), result
                    )
        results.append(result)
    returning = [result is not None for result in results]
    if not any(returning):
        return None
    if not all(returning):
        missing = ("true_fn", "false_fn")[returning.index(False)]
        raise ValueError(f"{missing}: expected tensors, as the other function returns, got None")
    chosen = paddle.cast(pred, "int32")
    return map_structure(
        lambda yes, no: control_flow.select_input([no, yes], chosen), results[0], results[1]
    )


def _block_if(holds: Any) -> contextlib.AbstractContextManager:
    """Have what is added in this context run only where a bool is true."""
    if _operators.in_old_program():
        return control_flow.ConditionalBlock([holds], is_scalar_condition=True).block()
    return control_flow.If(holds).true_block()


def case(
    pred_fn_pairs: Sequence[tuple[Any, Callable]],
    default: Callable | None = None,
    name: str | None = None,
) -> Any:
    """Return what the function of the first true condition returns.

    Args:
        pred_fn_pairs: Conditions, bool [1], and functions of no arguments.
        default: The function for no true condition; None is the last of the others.
        name: Not used.
    """
    pairs = list(pred_fn_pairs)
    if default is None:
        default = pairs.pop()[1]
    for condition, function in reversed(pairs):
        default = functools.partial(cond, condition, function, default)
    return default()


def switch_case(
    branch_index: Any, branch_fns: Any, default: Callable | None = None, name: str | None = None
) -> Any:
    """Return what the function of this number returns.

    Args:
        branch_index: The number, int32 or int64 [1].
        branch_fns: A dict or pairs of numbers and functions, or functions numbered from 0.
        default: The function for another number; None is that of the greatest number.
        name: Not used.
    """
    items = branch_fns.items() if isinstance(branch_fns, dict) else branch_fns
    items = [item if isinstance(item, tuple) else (i, item) for i, item in enumerate(items)]
    items = sorted(items, key=lambda item: item[0])
    numbers = [paddle.full([1], number, branch_index.dtype) for number, _ in items]
    pairs = [
        (paddle.equal(branch_index, number), function)
        for number, (_, function) in zip(numbers, items)
    ]
    return case(pairs, default)


class Switch:
    """Cases of which the first true one runs, each a `with` block that assigns to variables.

    Examples:
        >>> import numpy as np
        >>> import paddle
        >>> import paddle_dcn.fluid as fluid
        >>> paddle.enable_static()
        >>> with fluid.program_guard(fluid.Program(), fluid.Program()):
        ...     x = fluid.layers.data("x", [1], append_batch_size=False)
        ...     y = fluid.layers.create_global_var([1], 0.0, "float32", persistable=True)
        ...     with fluid.layers.Switch() as switch:
        ...         with switch.case(x < 1.0):
        ...             _ = fluid.layers.assign(x * 10.0, y)
        ...         with switch.default():
        ...             _ = fluid.layers.assign(x, y)
        ...     executor = fluid.Executor(fluid.CPUPlace())
        ...     _ = executor.run(fluid.default_startup_program())
        ...     feeds = [{"x": np.array([number], "float32")} for number in (0.5, 3)]
        ...     [executor.run(feed=feed, fetch_list=[y])[0].item() for feed in feeds]
        [5.0, 3.0]
        >>> paddle.disable_static()
    """

    def __init__(self, name: str | None = None) -> None:
        """Make a switch without cases. `name` is not used."""
        self._open: Any = None  # whether no case before was true

    def __enter__(self) -> Switch:
        """Return the switch."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: each case is complete."""

    def case(self, condition: Any) -> contextlib.AbstractContextManager:
        """Return a context whose operators run if this bool [1] is true and none before was."""
        no = _operators.logical_not(condition)
        if self._open is None:
            self._open, holds = no, condition
        else:
            holds = _operators.logical_and(self._open, condition)
            self._open = _operators.logical_and(self._open, no)
        return _block_if(holds)

    def default(self) -> contextlib.AbstractContextManager:
        """Return a context whose operators run if no case was true.

        Raises:
            ValueError: there is no case.
        """
        if self._open is None:
            raise ValueError("default: expected a case before it, got none")
        return _block_if(self._open)


class While:
    """A loop whose body, the `with` block of `block()`, assigns to variables from outside.

    One of them is the condition: `less_than(i, n, cond=condition)` at the end of the body.
    """

    @check_flags
    def __init__(self, cond: Any, is_test: bool = False, name: str | None = None) -> None:
        """Take the condition, a bool [1]. The other arguments are not used."""
        self._condition = cond

    def block(self) -> contextlib.AbstractContextManager:
        """Return the context of the loop's body."""
        if _operators.in_old_program():
            return control_flow.While(self._condition).block()
        return self._body()

    @contextlib.contextmanager
    def _body(self) -> Iterator[None]:
        with control_flow.build_while_op(self._condition, []).body():
            yield
            control_flow.cf_yield([paddle.assign(self._condition)])


def while_loop(
    cond: Callable,
    body: Callable,
    loop_vars: Sequence[Any],
    is_test: bool = False,
    name: str | None = None,
) -> Any:
    """Repeat a function of variables while a condition holds; see `paddle.static.nn.while_loop`."""
    return paddle.static.nn.while_loop(cond, body, list(loop_vars), is_test)


def is_empty(x: Any, cond: Any = None) -> Any:
    """Return whether a tensor has no elements; a tensor `cond` takes the result."""
    empty = at_least_1d(paddle.equal(paddle.numel(x), paddle.zeros([], "int64")))
    return empty if cond is None else paddle.assign(empty, cond)


def py_func(
    func: Callable,
    x: Any,
    out: Any,
    backward_func: Callable | None = None,
    skip_vars_in_backward_input: Any = None,
) -> Any:
    """Call a function of arrays when the program runs; see `paddle.static.py_func`.

    Raises:
        RuntimeError: a program of Paddle 3, which has no such operator.
    """
    if not _operators.in_old_program():
        raise RuntimeError("paddle_dcn.fluid.layers.py_func needs FLAGS_enable_pir_api=0")
    return paddle.static.py_func(func, x, out, backward_func, skip_vars_in_backward_input)


def Print(  # noqa: N802
    input: Any,
    first_n: int = -1,
    message: str | None = None,
    summarize: int = 20,
    print_tensor_name: bool = True,
    print_tensor_type: bool = True,
    print_tensor_shape: bool = True,
    print_tensor_lod: bool = True,
    print_phase: str = "both",
) -> Any:
    """Print a tensor when the program runs; see `paddle.static.Print`."""
    return paddle.static.Print(
        input,
        first_n,
        message,
        summarize,
        print_tensor_name,
        print_tensor_type,
        print_tensor_shape,
        print_tensor_layout=False,
        print_tensor_lod=print_tensor_lod,
        print_phase=print_phase,
    )
