"""`fluid.data_feeder` of Paddle 1.x: feeds from lists, and checks that networks make themselves."""

from paddle.base.data_feeder import DataFeeder, check_dtype, check_type, check_variable_and_dtype

from ._moved import module_getattr

__all__ = ["DataFeeder", "check_dtype", "check_type", "check_variable_and_dtype"]

__getattr__ = module_getattr(__name__)
