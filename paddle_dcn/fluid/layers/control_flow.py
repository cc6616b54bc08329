"""`fluid.layers` of Paddle 1.x: conditions, loops and counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle

from ...static import _operators
from .. import _programs
from .tensor import create_global_var

__all__ = [
    "Print",
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
    """Return what one of two functions returns; see `paddle.static.nn.cond`."""
    return paddle.static.nn.cond(pred, true_fn, false_fn)


def case(
    pred_fn_pairs: Sequence[tuple[Any, Callable]],
    default: Callable | None = None,
    name: str | None = None,
) -> Any:
    """Return what the function of the first true condition returns; `paddle.static.nn.case`."""
    return paddle.static.nn.case(pred_fn_pairs, default)


def switch_case(
    branch_index: Any, branch_fns: Any, default: Callable | None = None, name: str | None = None
) -> Any:
    """Return what the function of this number returns; see `paddle.static.nn.switch_case`."""
    return paddle.static.nn.switch_case(branch_index, branch_fns, default)


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
    empty = paddle.equal(paddle.numel(x), paddle.zeros([], "int64"))
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
