"""The parameters that layers of static programs create, under the names of Paddle 1.x."""

from __future__ import annotations

import copy
from typing import Any

import paddle
from paddle.base.layer_helper import LayerHelper
from paddle.utils import unique_name

from .. import _checks
from . import _operators


def require_static(function: str, counterpart: str) -> None:
    """Refuse a call in dynamic mode, where a layer function has no program to add to.

    Nor has it in a function that to_static traces, which cannot create parameters.
    """
    if paddle.in_dynamic_mode() or paddle.base.dygraph.base.in_to_static_mode():
        raise RuntimeError(
            f"{function} adds to a static program: call paddle.enable_static() first, or use "
            f"{counterpart} in dynamic mode and to_static"
        )


def find_parameter(program: Any, name: str) -> Any:
    """Return the parameter of a program that has this name, None where there is none."""
    block = program.global_block()
    if not hasattr(block, "front"):  # Paddle 2's kind
        found = block.vars.get(name)
        return found if isinstance(found, paddle.base.framework.Parameter) else None
    return _known_parameters(program).get(name)


def _known_parameters(program: Any) -> dict[str, Any]:
    """Return the parameters of a program of Paddle 3 by name.

    Paddle looks through all operations for them, which for each new layer makes the time to build a
    network quadratic. New parameters come first in the program: while its first operation is the
    same, so are they.
    """
    if getattr(program, "_first_operation", None) != _first_operation(program):
        parameters = program.global_block().all_parameters()
        program._parameters_by_name = {parameter.name: parameter for parameter in parameters}
        program._first_operation = _first_operation(program)
    return program._parameters_by_name


def _first_operation(program: Any) -> int:
    block = program.global_block()
    return -1 if block.empty() else block.front().id()


class SharingHelper(LayerHelper):
    """Paddle's helper, whose parameters layers of the same name share, as in Paddle 1.x."""

    def create_parameter(
        self,
        attr: Any,
        shape: Any,
        dtype: Any = None,
        is_bias: bool = False,
        default_initializer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Create a parameter, or find the one that an earlier layer created under the same name.

        Paddle's programs would get a second parameter of that name, which an optimizer then updates
        twice a step.
        """
        attr = paddle.ParamAttr._to_attr(copy.deepcopy(attr))
        settings = {"is_bias": is_bias, "default_initializer": default_initializer, **kwargs}
        if not attr or paddle.in_dynamic_mode():
            return super().create_parameter(attr, shape, dtype, **settings)
        program, shape = paddle.static.default_main_program(), [int(size) for size in shape]
        old = _operators.in_old_program()
        if isinstance(attr, paddle.static.WeightNormParamAttr):
            if old:
                return super().create_parameter(attr, shape, dtype, **settings)
            raise NotImplementedError(
                "WeightNormParamAttr: current Paddle has it only in programs that are built with "
                "FLAGS_enable_pir_api=0"
            )
        if attr.name is None:  # Paddle 3 counts in programs of Paddle 2's kind, whatever the guard
            attr.name = unique_name.generate(f"{self.name}.{'b' if is_bias else 'w'}")
        found = find_parameter(program, attr.name)
        if found is not None:
            if list(found.shape) != shape:
                raise ValueError(
                    f"{attr.name}: expected shape {shape}, but the program has a parameter of that "
                    f"name of shape {[*found.shape]}"
                )
            return found
        known = None if old else _known_parameters(program)
        created = super().create_parameter(attr, shape, dtype, **settings)
        if known is not None:
            known[created.name] = created
            program._first_operation = _first_operation(program)
        return created


class Parameters:
    """Creates the parameters of one layer.

    They are called `<name>.w_0`, `<name>.w_1`, ... and `<name>.b_0`, where the name of a layer that
    was given none is its type and a number: `conv2d_0`.
    """

    def __init__(self, layer_type: str, name: str | None, dtype: Any) -> None:
        # The helper would count its layers regardless of unique_name.guard(), as 1.x does not.
        self._helper = SharingHelper(layer_type, name=name or unique_name.generate(layer_type))
        self._dtype = dtype

    def weight(
        self, attr: Any, shape: list[int], default: Any = None, attr_name: str = "param_attr"
    ) -> Any:
        """Create a weight; it starts as `default` says, or with Xavier's uniform values."""
        names = _checks.Names(weight_attr=attr_name)
        _checks.check_weight_attr(attr, names, AssertionError)  # which the originals raise
        return self._helper.create_parameter(attr, shape, self._dtype, default_initializer=default)

    def bias(self, attr: Any, shape: list[int]) -> Any:
        """Create a bias of zeros; None where `attr` is False."""
        _checks.check_attr("bias_attr", attr)
        # These are the default, but Paddle 3.0 finds none for bfloat16.
        zeros = paddle.nn.initializer.Constant(0.0)
        return self._helper.create_parameter(
            attr, shape, self._dtype, is_bias=True, default_initializer=zeros
        )
