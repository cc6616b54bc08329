"""`fluid.initializer` of Paddle 1.x: its names and arguments for Paddle's initializers."""

import paddle
from paddle.nn.initializer import Bilinear
from paddle.nn.initializer.assign import NumpyArrayInitializer
from paddle.nn.initializer.constant import ConstantInitializer
from paddle.nn.initializer.kaiming import MSRAInitializer
from paddle.nn.initializer.normal import NormalInitializer
from paddle.nn.initializer.normal import TruncatedNormalInitializer as _TruncatedNormal
from paddle.nn.initializer.uniform import UniformInitializer
from paddle.nn.initializer.xavier import XavierInitializer

from ._moved import module_getattr

__all__ = [
    "MSRA",
    "Bilinear",
    "BilinearInitializer",
    "Constant",
    "ConstantInitializer",
    "MSRAInitializer",
    "Normal",
    "NormalInitializer",
    "NumpyArrayInitializer",
    "TruncatedNormal",
    "TruncatedNormalInitializer",
    "Uniform",
    "UniformInitializer",
    "Xavier",
    "XavierInitializer",
]

_PADDLE_2 = paddle.__version__.startswith("2.")


class TruncatedNormal(_TruncatedNormal):
    """Normal values, those more than two standard deviations from the mean drawn again."""

    def __init__(self, loc: float = 0.0, scale: float = 1.0, seed: int = 0) -> None:
        """Take the mean and the standard deviation; seed 0 is Paddle's own."""
        # Paddle 2 always cuts there; Paddle 3 at -2 and 2 unless it is told, whatever the mean.
        ends = () if _PADDLE_2 else (loc - 2 * scale, loc + 2 * scale)
        super().__init__(loc, scale, seed, *ends)


BilinearInitializer = Bilinear
Constant = ConstantInitializer
MSRA = MSRAInitializer
Normal = NormalInitializer
TruncatedNormalInitializer = TruncatedNormal
Uniform = UniformInitializer
Xavier = XavierInitializer

__getattr__ = module_getattr(__name__)
