"""`fluid.data_feeder` of Paddle 1.x: feeds from lists, and checks that networks make themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle.base import data_feeder
from paddle.base.data_feeder import check_dtype, check_type, check_variable_and_dtype

from . import framework
from ._moved import module_getattr

__all__ = ["DataFeeder", "check_dtype", "check_type", "check_variable_and_dtype"]


class DataFeeder(data_feeder.DataFeeder):
    """Paddle's maker of feeds from lists of samples, for inputs that may be given by name."""

    def __init__(self, feed_list: Sequence[Any], place: Any, program: Any = None) -> None:
        """Take inputs or their names, a device, and their program; None is the default one."""
        program = paddle.static.default_main_program() if program is None else program
        tensors = [
            framework._get_var(item, program) if isinstance(item, str) else item
            for item in feed_list
        ]
        super().__init__(tensors, place, program)


__getattr__ = module_getattr(__name__)
