"""What programs and tensors had in Paddle 1.x, given to those of current Paddle.

Programs of Paddle 3 (PIR) have no `clone(for_test=True)`, no `all_parameters()` and no
`global_block().var(name)`; most of their tensors have no name, and `if tensor` is refused.
Operators of neither kind of program take integers beside floats. Importing this module adds that to
Paddle's classes; it replaces nothing that works without it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import paddle

from ..static._parameters import find_parameter
from ._flags import check_flags

_PIR = getattr(paddle, "pir", None)
Value = getattr(_PIR, "Value", None)

_NAMES = "result_names"  # an attribute of operations: the names of their results
_OPERATORS = "add sub mul truediv floordiv mod pow lt le gt ge eq ne".split()
# Roles of operations, numbered as in Paddle's own programs.
_FORWARD, BACKWARD, SCHEDULE = -1, 1, 16


def is_pir(program: Any) -> bool:
    """Tell whether this is a program of Paddle 3."""
    return Value is not None and isinstance(program, _PIR.Program)


class Marked:
    """Adds to a program inside a `with` block, with a role that tests have no use for.

    The program need not be the current one: Paddle 1.x minimized a loss wherever it was built.
    """

    def __init__(self, program: Any, role: int, startup: Any = None) -> None:
        self._guard = paddle.static.program_guard(program, startup)
        self._block = program.global_block() if is_pir(program) else None
        self._role = role

    def __enter__(self) -> None:
        self._guard.__enter__()
        if self._block is not None:
            self._before = {operation.id() for operation in self._block.ops}

    def __exit__(self, *error: object) -> None:
        self._guard.__exit__(*error)
        for operation in self._block.ops if self._block is not None else ():
            if operation.id() not in self._before:
                operation.op_role = self._role


def find(program: Any, name: str) -> Any:
    """Return the tensor of a program that has this name, None where there is none."""
    if not is_pir(program):
        block = program.global_block()
        return block.var(name) if block.has_var(name) else None
    parameter = find_parameter(program, name)
    if parameter is not None:
        return parameter
    for operation in program.global_block().ops:
        for index, own in enumerate(_names(operation)):
            if own == name:
                return operation.result(index)
    return None


def same_in(program: Any, tensor: Any) -> Any:
    """Return the tensor of a program that is called as this one of another program."""
    if not is_pir(program) or tensor.block.program == program:
        return tensor
    return find(program, tensor.name)


def tensors(program: Any, given: Any) -> list[Any]:
    """Return tensors of a program of Paddle 3 in place of their names."""
    block = program.global_block()
    return [block.var(item) if isinstance(item, str) else item for item in given]


def name_gradients(pairs: Any) -> None:
    """Give the gradients of parameters of a program of Paddle 3 the names that 1.x gave them."""
    for parameter, gradient in pairs:
        operation = gradient.get_defining_op()
        names = [*_named(operation)]
        names[gradient.index()] = f"{parameter.name}@GRAD"
        operation.set_str_array_attr(_NAMES, names)


def inputs(program: Any) -> dict[str, Any]:
    """Return the tensors that a program of Paddle 3 must be fed, by name."""
    operations = program.global_block().ops
    results = [o.result(0) for o in operations if o.name() == "pd_op.data"]
    return {result.name: result for result in results if not result.persistable}


def persistables(program: Any) -> list[Any]:
    """Return the variables of a program that keep their values between runs."""
    if not is_pir(program):
        kept = [variable for variable in program.list_vars() if variable.persistable]
        return [variable for variable in kept if variable.name not in ("feed", "fetch")]
    results = (
        operation.result(0)
        for operation in program.global_block().ops
        if operation.name() in ("builtin.parameter", "pd_op.data")
    )
    return [result for result in results if result.persistable]


def _names(operation: Any) -> list[str]:
    """Return the names of an operation's results, as far as they have some."""
    if operation.name() == "builtin.parameter":
        return [operation.attrs()["parameter_name"]]
    if operation.name() == "pd_op.data":
        return [operation.attrs()["name"]]
    return operation.attrs()[_NAMES] if operation.has_attr(_NAMES) else []


def _named(operation: Any) -> list[str]:
    """Return the names of an operation's results, and give it some where it has none."""
    names = _names(operation)
    if not names and operation.num_results():
        # The number is unique in the process, and a clone has it from its original.
        kind = operation.name().rpartition(".")[2].rstrip("_")
        names = [f"{kind}_{operation.id()}.tmp_{i}" for i in range(operation.num_results())]
        operation.set_str_array_attr(_NAMES, names)
    return names


def _install() -> None:
    program_class, block_class = _PIR.Program, _PIR.Block
    plain_clone, plain_name, plain_bool = program_class.clone, Value.name, Value.__bool__
    plain_parameters = block_class.all_parameters

    def clone(self: Any, for_test: Any = None) -> Any:
        """Copy the program; `for_test=True` leaves training out.

        Such a copy has no backward pass and no optimizer, and its layers behave as in tests. Paddle
        itself calls this with nothing, or with a mapping from old to new tensors.
        """
        if for_test is not None and not isinstance(for_test, bool):
            return plain_clone(self, for_test)
        for operation in self.global_block().ops:
            _named(operation)
        copy = plain_clone(self)
        copy._original = self  # its tensors, which may be fetched from the copy, live as long as it
        copy._loaders = getattr(self, "_loaders", [])
        if for_test:
            _leave_training_out(copy)
        return copy

    def all_parameters(self: Any) -> list[Any]:
        """Return the parameters of the program in the order of their creation."""
        return self.global_block().all_parameters()

    def parameters_of_block(self: Any) -> list[Any]:
        """Return the parameters of the block in the order of their creation."""
        return sorted(plain_parameters(self), key=lambda value: value.get_defining_op().id())

    def current_block(self: Any) -> Any:
        """Return the program's block; those of branches and loops are Paddle's own affair."""
        return self.global_block()

    def var(self: Any, name: str) -> Any:
        """Return the tensor of the block that has this name."""
        found = find(self.program, name)
        if found is None:
            raise ValueError(f"name: expected the name of a tensor of the program, got {name!r}")
        return found

    def has_var(self: Any, name: str) -> bool:
        """Tell whether the block has a tensor of this name."""
        return find(self.program, name) is not None

    def name(self: Any) -> str:
        """Return the tensor's name, which is made up where it has none."""
        try:
            return plain_name.fget(self)
        except ValueError:
            operation = self.get_defining_op()
            if operation is None:
                raise
            return _named(operation)[self.index()]

    def true(self: Any) -> bool:
        """Return True, as for any object, so that `if tensor` asks whether there is one.

        That a condition is taken for true, whose value a program does not know while it is built,
        is warned of: 1.x's losses call `min(x, y)` of Python, which gives y.
        """
        if paddle.base.dygraph.base.in_to_static_mode():
            return plain_bool(self)
        if self.dtype == paddle.bool:
            message = "a condition of the static program is taken for True, as in Paddle 1.x"
            warnings.warn(message, stacklevel=2)
        return True

    for tensor_class in (Value, paddle.static.Variable):
        for operator in _OPERATORS:
            special = f"__{operator}__"
            setattr(tensor_class, special, _casting(getattr(tensor_class, special)))
    Value.__bool__ = true
    program_class.clone = clone
    program_class.all_parameters = all_parameters
    program_class.current_block = current_block
    block_class.all_parameters = parameters_of_block
    block_class.var = var
    block_class.has_var = has_var
    Value.name = property(name, plain_name.fset, doc=name.__doc__)


def _install_in_old_programs() -> None:
    program_class = paddle.base.framework.Program
    plain_clone = program_class.clone

    @functools.wraps(plain_clone)
    @check_flags
    def clone(self: Any, for_test: bool = False) -> Any:
        copy = plain_clone(self, for_test)
        copy._loaders = getattr(self, "_loaders", [])
        if for_test:  # Paddle leaves schedules out only where there is a backward pass as well
            block = copy.global_block()
            for index, operation in reversed([*enumerate(block.ops)]):
                if operation.attr("op_role") & SCHEDULE:
                    block._remove_op(index)
        return copy

    program_class.clone = clone


def _casting(plain: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Give an operator on tensors the rule of 1.x: the second takes the dtype of the first."""

    @functools.wraps(plain)
    def operator(self: Any, other: Any) -> Any:
        try:
            return plain(self, other)
        except TypeError:
            if not isinstance(other, type(self)) or other.dtype == self.dtype:
                raise
            return plain(self, other.astype(self.dtype))

    return operator


def _leave_training_out(program: Any) -> None:
    block = program.global_block()
    for operation in reversed(block.ops):
        if operation.op_role != _FORWARD:
            block.remove_op(operation)
        elif operation.name().rstrip("_").endswith("_grad"):
            raise ValueError(
                "for_test: expected a program whose backward pass was added by "
                f"paddle_dcn.fluid, or not yet, got the operator {operation.name()}"
            )
    program.set_is_test_attr()


if Value is not None and hasattr(_PIR.Program, "set_is_test_attr"):
    _install()
    _install_in_old_programs()
