"""`fluid.regularizer` of Paddle 1.x: Paddle's regularizers with the argument's name of 1.x."""

import paddle

from ._moved import module_getattr

__all__ = ["L1Decay", "L1DecayRegularizer", "L2Decay", "L2DecayRegularizer"]


class L1Decay(paddle.regularizer.L1Decay):
    """The L1 norm of a parameter times `regularization_coeff`, added to the loss."""

    def __init__(self, regularization_coeff: float = 0.0) -> None:
        """Take the coefficient."""
        super().__init__(regularization_coeff)


class L2Decay(paddle.regularizer.L2Decay):
    """Half the squared L2 norm of a parameter times `regularization_coeff`, added to the loss."""

    def __init__(self, regularization_coeff: float = 0.0) -> None:
        """Take the coefficient."""
        super().__init__(regularization_coeff)


L1DecayRegularizer = L1Decay
L2DecayRegularizer = L2Decay

__getattr__ = module_getattr(__name__)
