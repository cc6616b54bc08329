"""`fluid.layers` of Paddle 1.x: functions of each element, pairs of elements, and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F

from ...static import _operators
from ._common import ACTIVATIONS, activated, at_least_1d, is_tensor


def _named(function: Callable, name: str, doc: str) -> Callable:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    __all__.append(name)
    return function


def _unary(name: str, compute: Callable, formula: str) -> Callable:
    def function(x: Any, name: str | None = None) -> Any:
        return compute(x)

    ACTIVATIONS[name] = function
    return _named(function, name, f"Return {formula} of each element x. `name` is not used.")


__all__: list[str] = []

abs = _unary("abs", _operators.abs, "|x|")
acos = _unary("acos", _operators.acos, "the arc cosine")
asin = _unary("asin", _operators.asin, "the arc sine")
atan = _unary("atan", paddle.atan, "the arc tangent")
ceil = _unary("ceil", _operators.ceil, "the least integer that is not below x")
cos = _unary("cos", _operators.cos, "the cosine")
cosh = _unary("cosh", _operators.cosh, "the hyperbolic cosine")
exp = _unary("exp", _operators.exp, "the exponential")
floor = _unary("floor", _operators.floor, "the greatest integer that is not above x")
log = _unary("log", _operators.log, "the natural logarithm")
logsigmoid = _unary("logsigmoid", F.log_sigmoid, "log(1 / (1 + exp(-x)))")
reciprocal = _unary("reciprocal", paddle.reciprocal, "1 / x")
relu = _unary("relu", F.relu, "max(x, 0)")
round = _unary(
    "round",
    # Halves go away from zero; paddle.round takes them to even integers.
    lambda x: _operators.sign(x) * _operators.floor(_operators.abs(x) + 0.5),
    "the nearest integer, of two the one farther from zero,",
)
rsqrt = _unary("rsqrt", _operators.rsqrt, "1 / sqrt(x)")
sigmoid = _unary("sigmoid", _operators.sigmoid, "1 / (1 + exp(-x))")
sin = _unary("sin", _operators.sin, "the sine")
sinh = _unary("sinh", _operators.sinh, "the hyperbolic sine")
softplus = _unary("softplus", _operators.softplus, "log(1 + exp(x))")
softsign = _unary("softsign", F.softsign, "x / (1 + |x|)")
sqrt = _unary("sqrt", _operators.sqrt, "the square root")
square = _unary("square", paddle.square, "x * x")
tanh = _unary("tanh", _operators.tanh, "the hyperbolic tangent")
tanh_shrink = _unary("tanh_shrink", F.tanhshrink, "x - tanh(x)")


def _activation(function: Callable) -> Callable:
    ACTIVATIONS[function.__name__] = function
    __all__.append(function.__name__)
    return function


@_activation
def brelu(x: Any, t_min: float = 0.0, t_max: float = 24.0, name: str | None = None) -> Any:
    """Return min(max(x, t_min), t_max)."""
    return paddle.clip(x, t_min, t_max)


@_activation
def elu(x: Any, alpha: float = 1.0, name: str | None = None) -> Any:
    """Return x where it is positive, alpha * (exp(x) - 1) elsewhere."""
    return F.elu(x, alpha)


@_activation
def erf(x: Any) -> Any:
    """Return the error function of each element."""
    return paddle.erf(x)


@_activation
def gelu(x: Any, approximate: bool = False) -> Any:
    """Return x times the normal distribution's probability of values below x.

    With `approximate` that is 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))).
    """
    return _operators.gelu(x, approximate)


@_activation
def hard_shrink(x: Any, threshold: float | None = None) -> Any:
    """Return x where |x| is above the threshold, 0 elsewhere; None is 0.5."""
    return F.hardshrink(x, 0.5 if threshold is None else threshold)


@_activation
def hard_sigmoid(x: Any, slope: float = 0.2, offset: float = 0.5, name: str | None = None) -> Any:
    """Return min(max(slope * x + offset, 0), 1)."""
    return F.hardsigmoid(x, slope, offset)


@_activation
def hard_swish(
    x: Any,
    threshold: float = 6.0,
    scale: float = 6.0,
    offset: float = 3.0,
    name: str | None = None,
) -> Any:
    """Return x * min(max(x + offset, 0), threshold) / scale."""
    return x * paddle.clip(x + offset, 0.0, threshold) / scale


@_activation
def leaky_relu(x: Any, alpha: float = 0.02, name: str | None = None) -> Any:
    """Return x where it is positive, alpha * x elsewhere."""
    return F.leaky_relu(x, alpha)


@_activation
def pow(x: Any, factor: Any = 1.0, name: str | None = None) -> Any:
    """Return x to the power of `factor`, a number or a tensor of one element."""
    return paddle.pow(x, factor)


@_activation
def relu6(x: Any, threshold: float = 6.0, name: str | None = None) -> Any:
    """Return min(max(x, 0), threshold)."""
    return paddle.clip(x, 0.0, threshold)


@_activation
def selu(
    x: Any, scale: float | None = None, alpha: float | None = None, name: str | None = None
) -> Any:
    """Return scale * x where x is positive, scale * alpha * (exp(x) - 1) elsewhere.

    None are the values of arXiv 1706.02515, 1.0507 and 1.6733.
    """
    scale = 1.0507009873554805 if scale is None else scale
    return F.selu(x, scale, 1.6732632423543772 if alpha is None else alpha)


@_activation
def sign(x: Any) -> Any:
    """Return -1, 0 or 1 for each element; `x` may be an array."""
    return _operators.sign(x if is_tensor(x) else paddle.assign(x))


@_activation
def soft_relu(x: Any, threshold: float = 40.0, name: str | None = None) -> Any:
    """Return log(1 + exp(max(min(x, threshold), -threshold)))."""
    return _operators.softplus(paddle.clip(x, -threshold, threshold))


@_activation
def softshrink(x: Any, alpha: float | None = None) -> Any:
    """Return x moved by alpha towards 0, and 0 where |x| is below alpha; None is 0.5."""
    return F.softshrink(x, 0.5 if alpha is None else alpha)


@_activation
def stanh(x: Any, scale_a: float = 0.67, scale_b: float = 1.7159, name: str | None = None) -> Any:
    """Return scale_b * tanh(scale_a * x)."""
    return _operators.tanh(x * scale_a) * scale_b


@_activation
def swish(x: Any, beta: float = 1.0, name: str | None = None) -> Any:
    """Return x / (1 + exp(-beta * x))."""
    return _operators.multiply(x, _operators.sigmoid(x * beta))


@_activation
def thresholded_relu(x: Any, threshold: float | None = None) -> Any:
    """Return x where it is above the threshold, 0 elsewhere; None is 1."""
    return F.thresholded_relu(x, 1.0 if threshold is None else threshold)


# --- pairs ---------------------------------------------------------------------------------------


def _aligned(x: Any, y: Any, axis: int) -> tuple[Any, Any]:
    """Give the tensor of fewer dimensions ones behind, so that its first is the other's `axis`."""
    rank, other = len(x.shape), len(y.shape)
    if axis == -1 or rank == other:
        return x, y
    behind = max(rank, other) - axis - min(rank, other)
    if behind < 0:
        raise ValueError(
            f"axis: expected -1 or at most {max(rank, other) - min(rank, other)} for tensors of "
            f"shape {[*x.shape]} and {[*y.shape]}, got {axis}"
        )
    axes = list(range(min(rank, other), min(rank, other) + behind))
    if not axes:
        return x, y
    if rank < other:
        return paddle.unsqueeze(x, axes), y
    return x, paddle.unsqueeze(y, axes)


def _is_integer(x: Any) -> bool:
    return "int" in str(x.dtype).lower()


def _divide(x: Any, y: Any) -> Any:
    """Divide; integers towards zero, as C does. They are exact in float64 up to 2^53."""
    if not _is_integer(x):
        return paddle.divide(x, y)
    quotient = paddle.divide(x.astype("float64"), y.astype("float64"))
    return paddle.trunc(quotient).astype(x.dtype)


def _elementwise(name: str, compute: Callable, formula: str) -> Callable:
    def function(
        x: Any, y: Any, axis: int = -1, act: str | None = None, name: str | None = None
    ) -> Any:
        return activated(compute(*_aligned(x, y, axis)), act)

    return _named(
        function,
        name,
        f"""Return {formula}, of tensors whose shapes broadcast.

        Args:
            x: A tensor.
            y: A tensor of the same dtype.
            axis: The dimension of the tensor with more dimensions that the first one of the other
                goes with; -1 lets their last ones go together.
            act: Name of an activation to apply.
            name: Not used.

        Raises:
            ValueError: an `axis` that leaves too few dimensions, or an unknown `act`.
        """,
    )


elementwise_add = _elementwise("elementwise_add", paddle.add, "x + y")
elementwise_div = _elementwise("elementwise_div", _divide, "x / y (integers: towards zero)")
elementwise_floordiv = _elementwise("elementwise_floordiv", _divide, "x / y towards zero")
elementwise_max = _elementwise("elementwise_max", _operators.maximum, "max(x, y)")
elementwise_min = _elementwise("elementwise_min", _operators.minimum, "min(x, y)")
elementwise_mod = _elementwise("elementwise_mod", paddle.remainder, "x modulo y")
elementwise_mul = _elementwise("elementwise_mul", _operators.multiply, "x * y")
elementwise_pow = _elementwise("elementwise_pow", paddle.pow, "x to the power of y")
elementwise_sub = _elementwise("elementwise_sub", paddle.subtract, "x - y")


def _compare(name: str, compute: Callable, formula: str) -> Callable:
    def function(x: Any, y: Any, cond: Any = None) -> Any:
        return _stored(compute(x, y), cond)

    return _named(function, name, f"Return whether {formula}; a tensor `cond` takes the result.")


def _stored(result: Any, out: Any) -> Any:
    return result if out is None else paddle.assign(result, out)


equal = _compare("equal", paddle.equal, "x == y")
greater_equal = _compare("greater_equal", paddle.greater_equal, "x >= y")
greater_than = _compare("greater_than", _operators.greater_than, "x > y")
less_equal = _compare("less_equal", paddle.less_equal, "x <= y")
not_equal = _compare("not_equal", paddle.not_equal, "x != y")


def less_than(x: Any, y: Any, force_cpu: bool | None = None, cond: Any = None) -> Any:
    """Return whether x < y; a tensor `cond` takes the result. `force_cpu` is not used."""
    return _stored(paddle.less_than(x, y), cond)


def _logical(name: str, compute: Callable) -> Callable:
    def function(x: Any, y: Any, out: Any = None, name: str | None = None) -> Any:
        return _stored(compute(x, y), out)

    return _named(function, name, f"Return x {name[8:]} y; a tensor `out` takes the result.")


logical_and = _logical("logical_and", _operators.logical_and)
logical_or = _logical("logical_or", _operators.logical_or)
logical_xor = _logical("logical_xor", _operators.logical_xor)


def logical_not(x: Any, out: Any = None, name: str | None = None) -> Any:
    """Return not x; a tensor `out` takes the result."""
    return _stored(_operators.logical_not(x), out)


# --- reductions ----------------------------------------------------------------------------------


def _reduction(name: str, compute: Callable, what: str) -> Callable:
    def function(
        input: Any, dim: Any = None, keep_dim: bool = False, name: str | None = None
    ) -> Any:
        axes = [dim] if isinstance(dim, int) else None if dim is None else [*dim]
        out = compute(input, axes or None, keep_dim)
        return at_least_1d(out if out.dtype == input.dtype else out.astype(input.dtype))

    return _named(
        function,
        name,
        f"""Return {what} along `dim`, in the dtype of the input.

        Args:
            input: A tensor.
            dim: An int or a list of ints; None is all dimensions.
            keep_dim: Keep the dimensions with size 1.
            name: Not used.

        Returns:
            The reduced tensor, of shape [1] where no dimension is left.
        """,
    )


reduce_all = _reduction("reduce_all", _operators.all, "whether all elements are true")
reduce_any = _reduction("reduce_any", _operators.any, "whether any element is true")
reduce_max = _reduction("reduce_max", paddle.max, "the maximum")
reduce_mean = _reduction("reduce_mean", paddle.mean, "the mean")
reduce_min = _reduction("reduce_min", paddle.min, "the minimum")
reduce_prod = _reduction(
    "reduce_prod", lambda x, axes, keepdim: paddle.prod(x, axes, keepdim=keepdim), "the product"
)
reduce_sum = _reduction("reduce_sum", _operators.sum, "the sum")


def mean(x: Any, name: str | None = None) -> Any:
    """Return the mean of all elements, of shape [1]."""
    return at_least_1d(paddle.mean(x))


__all__ += ["less_than", "logical_not", "mean"]
