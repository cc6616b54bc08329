"""Finds the operator, and its layer, at which what is written of a program fails or differs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import pir

from .._checks import dtype_name
from . import _files
from ._programs import Program, where
from ._words import Refusal, advice

Arrays = dict[str, np.ndarray]
Write = Callable[[Program, Path], None]
Runner = Callable[[Arrays], list[np.ndarray]]
Load = Callable[[Path], Runner]

# What only hands values on: no program ends with these.
_SOURCES = {"pd_op.data", "pd_op.full", "pd_op.full_int_array", "pd_op.assign_value_"}


@contextlib.contextmanager
def explained(
    program: Program, write: Write, load: Load, feed: Arrays | None = None
) -> Iterator[None]:
    """Turn a Refusal into an error that names the operator and layer which are refused."""
    try:
        yield
    except Refusal as refusal:

        def attempt(part: Program) -> None:
            _run(part, write, load, feed)

        operator = first_failing(program, attempt)
        what = "it" if operator is None else f"the operator {named(operator)}"
        raise NotImplementedError(f"model: {refusal.verb} {what}: {refusal.reason}") from refusal


def first_failing(program: Program, attempt: Callable[[Program], Any]) -> Any | None:
    """Return the operator that `attempt` begins to raise at, or None where there is none.

    The program is cut off after ever other operators, by halves.
    """
    operators = _computing(program)
    passes, fails = 0, len(operators)
    if not _raises(attempt, _cut(program, fails)):
        return None
    while fails - passes > 1:
        middle = (passes + fails) // 2
        if _raises(attempt, _cut(program, middle)):
            fails = middle
        else:
            passes = middle
    return operators[fails - 1]


def first_differing(
    program: Program,
    write: Write,
    load: Load,
    feed: Arrays,
    differs: Callable[[Program, Arrays, list[np.ndarray]], Iterator[bool]],
) -> Any | None:
    """Return the first operator whose results differ, or None where it is not to be found.

    `differs` tells, for a program, a feed, and what was found, which outputs differ.
    """
    probe = program.clone()
    values = [
        (operator, value)
        for operator in _computing(probe)
        for value in operator.results()
        if _can_leave(value) and not value.use_empty()
    ]
    with probe.building():
        _remove_outputs(probe)
        _add_outputs(probe, [value for _, value in values])
    try:
        found = _run(probe, write, load, feed)
        verdicts = zip(values, differs(probe, feed, found))
        return next((operator for (operator, _), differ in verdicts if differ), None)
    except Exception:  # what the probe needs beyond the model may be what cannot be converted
        pass

    def attempt(part: Program) -> None:
        if any(differs(part, _used(part, feed), _run(part, write, load, feed))):
            raise ValueError

    return first_failing(program, attempt)


def _raises(attempt: Callable[[Program], Any], part: Program) -> bool:
    try:
        attempt(part)
    except Exception:
        return True
    return False


def _run(program: Program, write: Write, load: Load, feed: Arrays | None) -> list[np.ndarray]:
    with _files.temporary_folder() as scratch:
        write(program, scratch / "part")
        run = load(scratch / "part")
        return [] if feed is None else run(_used(program, feed))


def _used(program: Program, feed: Arrays) -> Arrays:
    return {each.name: feed[each.name] for each in program.inputs}


def named(operator: Any) -> str:
    """Return an operator's name and layer, and its dtype where another one would help."""
    values = [*operator.operands_source(), *operator.results()]
    dtypes = {
        dtype_name(value.dtype)
        for value in values
        if value.initialized() and value.is_dense_tensor_type()
    }
    return f"{operator.name().partition('.')[2]}{where(operator)}{advice(dtypes)}"


def _computing(program: Program) -> list[Any]:
    """Return the operators that compute something, in order."""
    return [
        operator
        for operator in program.pir.global_block().ops
        if operator.name().startswith(("pd_op.", "custom_op.", "cf."))
        and operator.name() not in ("pd_op.fetch", *_SOURCES)
    ]


def _can_leave(value: Any) -> bool:
    """Return whether a value may be an output."""
    return (
        value.initialized()
        and value.is_dense_tensor_type()
        and not dtype_name(value.dtype).startswith("complex")
    )


def _cut(program: Program, count: int) -> Program:
    """Return a program of the first operators, whose outputs are what later ones would read."""
    part = program.clone()
    kept, dropped = _computing(part)[:count], _computing(part)[count:]
    read = [value for each in kept for value in each.results() if not value.use_empty()]
    kept_ids = {operator.id() for operator in kept}
    dropped_ids = {operator.id() for operator in dropped}
    with part.building():
        _remove_outputs(part)
        block = part.pir.global_block()
        for operator in reversed(block.ops):
            unused = all(result.use_empty() for result in operator.results())
            if operator.id() in dropped_ids or (unused and operator.id() not in kept_ids):
                block.remove_op(operator)
        _add_outputs(part, [value for value in read if value.use_empty() and _can_leave(value)])
    return part


def _remove_outputs(program: Program) -> None:
    block = program.pir.global_block()
    for operator in [each for each in block.ops if each.name() == "pd_op.fetch"]:
        block.remove_op(operator)


def _add_outputs(program: Program, values: list[Any]) -> None:
    pir.set_insertion_point_to_block_end(program.pir.global_block())
    for index, value in enumerate(values):
        paddle._pir_ops.fetch(value, f"probe_{index}", index)
