"""The parameters that layers of static programs create, under the names of Paddle 1.x."""

from __future__ import annotations

from typing import Any

import paddle
from paddle.base.layer_helper import LayerHelper
from paddle.utils import unique_name

from .. import _checks


def require_static(function: str, counterpart: str) -> None:
    """Refuse a call in dynamic mode, where a layer function has no program to add to.

    Nor has it in a function that to_static traces, which cannot create parameters.
    """
    if paddle.in_dynamic_mode() or paddle.base.dygraph.base.in_to_static_mode():
        raise RuntimeError(
            f"{function} adds to a static program: call paddle.enable_static() first, or use "
            f"{counterpart} in dynamic mode and to_static"
        )


class Parameters:
    """Creates the parameters of one layer.

    They are called `<name>.w_0`, `<name>.w_1`, ... and `<name>.b_0`, where the name of a layer that
    was given none is its type and a number: `conv2d_0`.
    """

    def __init__(self, layer_type: str, name: str | None, dtype: Any) -> None:
        # The helper would count its layers regardless of unique_name.guard(), as 1.x does not.
        self._helper = LayerHelper(layer_type, name=name or unique_name.generate(layer_type))
        self._dtype = dtype

    def weight(
        self, attr: Any, shape: list[int], default: Any = None, attr_name: str = "param_attr"
    ) -> Any:
        """Create a weight; it starts as `default` says, or with Xavier's uniform values."""
        names = _checks.Names(weight_attr=attr_name)
        _checks.check_weight_attr(attr, names, AssertionError)  # which the originals raise
        return self._create(attr, shape, default_initializer=default)

    def bias(self, attr: Any, shape: list[int]) -> Any:
        """Create a bias of zeros; None where `attr` is False."""
        _checks.check_attr("bias_attr", attr)
        return self._create(attr, shape, is_bias=True)

    def _create(self, attr: Any, shape: list[int], **kwargs: Any) -> Any:
        """Create a parameter, or find the one that an earlier layer created under the same name.

        Paddle's programs would get a second parameter of that name, which an optimizer then updates
        twice a step.
        """
        name = getattr(paddle.ParamAttr._to_attr(attr), "name", None)
        parameters = paddle.static.default_main_program().global_block().all_parameters()
        for parameter in parameters if name is not None else ():
            if parameter.name == name:
                if list(parameter.shape) != shape:
                    raise ValueError(
                        f"{name}: expected shape {shape}, but the program has a parameter of that "
                        f"name of shape {[*parameter.shape]}"
                    )
                return parameter
        return self._helper.create_parameter(attr=attr, shape=shape, dtype=self._dtype, **kwargs)
