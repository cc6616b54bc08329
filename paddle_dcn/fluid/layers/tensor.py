"""`fluid.layers` of Paddle 1.x: creating, cutting, joining and reordering tensors."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle.utils import unique_name

from ...static import _operators
from ...static._parameters import Parameters, require_static
from .. import _programs
from ._common import activated, at_least_1d, is_tensor

__all__ = [
    "argmax",
    "argmin",
    "argsort",
    "assign",
    "cast",
    "clip",
    "clip_by_norm",
    "concat",
    "create_global_var",
    "create_parameter",
    "create_tensor",
    "crop",
    "crop_tensor",
    "cumsum",
    "diag",
    "expand",
    "expand_as",
    "eye",
    "fill_constant",
    "fill_constant_batch_size_like",
    "flatten",
    "gather",
    "gather_nd",
    "gaussian_random",
    "has_inf",
    "has_nan",
    "isfinite",
    "linspace",
    "matmul",
    "mul",
    "one_hot",
    "ones",
    "ones_like",
    "pad",
    "pad2d",
    "range",
    "rank",
    "reshape",
    "reverse",
    "scale",
    "scatter",
    "scatter_nd",
    "scatter_nd_add",
    "sequence_mask",
    "shape",
    "size",
    "slice",
    "split",
    "squeeze",
    "stack",
    "strided_slice",
    "sum",
    "sums",
    "topk",
    "transpose",
    "uniform_random",
    "unsqueeze",
    "unstack",
    "where",
    "zeros",
    "zeros_like",
]


def _stored(result: Any, out: Any) -> Any:
    return result if out is None else paddle.assign(result, out)


# --- creating ------------------------------------------------------------------------------------


def create_parameter(
    shape: Sequence[int],
    dtype: Any,
    name: str | None = None,
    attr: Any = None,
    is_bias: bool = False,
    default_initializer: Any = None,
) -> Any:
    """Create a parameter, or find the one that the program has under this name.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        name: Its name, where there is no `attr`.
        attr: A ParamAttr, initializer or name.
        is_bias: Start at zeros, where nothing else is said, and not with Xavier's uniform values.
        default_initializer: How it starts where `attr` does not say it.

    Raises:
        RuntimeError: a call inside `to_static`.
        ValueError: the program has a parameter of this name and another shape.
    """
    if paddle.in_dynamic_mode():
        return paddle.create_parameter(
            shape, dtype, name, attr, is_bias, default_initializer=default_initializer
        )
    require_static("paddle_dcn.fluid.layers.create_parameter", "paddle.create_parameter")
    if attr is None:
        attr = paddle.ParamAttr(name=name)
    parameters = Parameters("create_parameter", name, dtype)
    sizes = [int(size) for size in shape]
    if is_bias and default_initializer is None:
        return parameters.bias(attr, sizes)
    return parameters.weight(attr, sizes, default_initializer, "attr")


def create_global_var(
    shape: Sequence[int],
    value: float,
    dtype: str,
    persistable: bool = False,
    force_cpu: bool = False,
    name: str | None = None,
) -> Any:
    """Create a variable that keeps its value between runs and starts at `value`.

    `force_cpu` is not used, nor is `persistable`: current programs have no other variables that
    the startup program creates.

    Raises:
        RuntimeError: a call in dynamic mode.
    """
    require_static("paddle_dcn.fluid.layers.create_global_var", "paddle.full")
    name = name or unique_name.generate("global_var")
    sizes = [int(size) for size in shape]
    if _operators.in_old_program():
        return paddle.static.create_global_var(sizes, value, dtype, True, name=name)
    found = _programs.find(paddle.static.default_main_program(), name)
    if found is not None:
        return found
    initializer = paddle.nn.initializer.Constant(value)
    create = paddle.pir.core.create_persistable_value
    return create(dtype=dtype, shape=sizes, name=name, initializer=initializer)


def create_tensor(dtype: str, name: str | None = None, persistable: bool = False) -> Any:
    """Return a tensor [1] of zeros, for `assign` to fill. `name` and `persistable` are not used."""
    return paddle.zeros([1], dtype)


def fill_constant(
    shape: Any,
    dtype: Any,
    value: Any,
    force_cpu: bool = False,
    out: Any = None,
    name: str | None = None,
) -> Any:
    """Return a tensor of one value.

    Args:
        shape: A list of ints or tensors of one element, or a tensor.
        dtype: Its dtype.
        value: A number or a tensor of one element.
        force_cpu: Not used.
        out: A tensor that takes the result.
        name: Not used.
    """
    return _stored(paddle.full(shape, value, dtype), out)


def fill_constant_batch_size_like(
    input: Any,
    shape: Sequence[int],
    dtype: str,
    value: float,
    input_dim_idx: int = 0,
    output_dim_idx: int = 0,
    force_cpu: bool = False,
) -> Any:
    """Return a tensor of one value; a dimension of its shape is taken from the input."""
    sizes = list(shape)
    sizes[output_dim_idx] = _sizes(input)[input_dim_idx]
    return paddle.full(sizes, value, dtype)


def zeros(shape: Any, dtype: Any, force_cpu: bool = False, name: str | None = None) -> Any:
    """Return zeros of this shape. `force_cpu` and `name` are not used."""
    return paddle.zeros(shape, dtype)


def ones(shape: Any, dtype: Any, force_cpu: bool = False) -> Any:
    """Return ones of this shape. `force_cpu` is not used."""
    return paddle.ones(shape, dtype)


def zeros_like(x: Any, out: Any = None) -> Any:
    """Return zeros of x's shape and dtype; a tensor `out` takes the result."""
    return _stored(paddle.zeros_like(x), out)


def ones_like(x: Any, out: Any = None) -> Any:
    """Return ones of x's shape and dtype; a tensor `out` takes the result."""
    return _stored(paddle.ones_like(x), out)


def range(start: Any, end: Any, step: Any, dtype: Any, name: str | None = None) -> Any:
    """Return start, start + step, ... before end. `name` is not used."""
    return paddle.arange(start, end, step, dtype)


def linspace(start: Any, stop: Any, num: Any, dtype: Any = None, name: str | None = None) -> Any:
    """Return `num` values from start to stop at equal distances. `name` is not used."""
    return paddle.linspace(start, stop, num, dtype)


def eye(
    num_rows: int,
    num_columns: int | None = None,
    batch_shape: Sequence[int] | None = None,
    dtype: str = "float32",
) -> Any:
    """Return a matrix with ones on its diagonal, repeated for each place of `batch_shape`."""
    matrix = paddle.eye(num_rows, num_columns, dtype)
    if batch_shape is None:
        return matrix
    ones_before = [1] * len(batch_shape)
    return paddle.tile(
        paddle.unsqueeze(matrix, list(builtins.range(len(ones_before)))), [*batch_shape, 1, 1]
    )


def diag(diagonal: Any) -> Any:
    """Return a matrix with these values on its diagonal, a tensor or an array, zeros elsewhere."""
    return paddle.diag(diagonal if is_tensor(diagonal) else paddle.assign(diagonal))


def uniform_random(
    shape: Any,
    dtype: str = "float32",
    min: float = -1.0,
    max: float = 1.0,
    seed: int = 0,
    name: str | None = None,
) -> Any:
    """Return uniform random values; seed 0 is Paddle's own. `name` is not used."""
    return paddle.uniform(shape, dtype, min, max, seed)


def gaussian_random(
    shape: Any,
    mean: float = 0.0,
    std: float = 1.0,
    seed: int = 0,
    dtype: str = "float32",
    name: str | None = None,
) -> Any:
    """Return normal random values; seed 0 is Paddle's own. `name` is not used."""
    return paddle.tensor.random.gaussian(shape, mean, std, seed, dtype)


def assign(input: Any, output: Any = None) -> Any:
    """Copy a tensor, or make one of a NumPy array or a list; a tensor `output` takes the result."""
    result = paddle.assign(input, output)
    if isinstance(output, _programs.Value or ()):
        given = input if is_tensor(input) else result  # Paddle 3.0's result has the output's type
        if [*output.shape] != [*given.shape]:
            output.set_type(given.type())  # one of create_tensor, which has no shape of its own
    return result


def cast(x: Any, dtype: Any) -> Any:
    """Return x in another dtype."""
    return paddle.cast(x, dtype)


# --- shapes --------------------------------------------------------------------------------------


def shape(input: Any, name: str | None = None) -> Any:
    """Return the shape as a tensor, int32. `name` is not used."""
    return paddle.shape(input).astype("int32")


def rank(input: Any) -> Any:
    """Return the number of dimensions as a tensor [1], int32."""
    return paddle.full([1], len(input.shape), "int32")


def size(input: Any) -> Any:
    """Return the number of elements as a tensor [1], int64."""
    return at_least_1d(paddle.numel(input).astype("int64"))


def _sizes(x: Any) -> list[Any]:
    """Return sizes as ints, or as tensors where the program does not know them."""
    numbers = paddle.shape(x).astype("int32")
    return [int(known) if known >= 0 else numbers[axis] for axis, known in enumerate(x.shape)]


def reshape(
    x: Any,
    shape: Any,
    actual_shape: Any = None,
    act: str | None = None,
    inplace: bool = False,
    name: str | None = None,
) -> Any:
    """Give x another shape.

    Args:
        x: A tensor.
        shape: Ints or tensors of one element, or a tensor; 0 keeps the size of that dimension, -1
            stands for what remains.
        actual_shape: A tensor that overrides `shape`.
        act: Name of an activation to apply.
        inplace: Not used.
        name: Not used.
    """
    new = shape if actual_shape is None else actual_shape
    return activated(paddle.reshape(x, new if is_tensor(new) else list(new)), act)


def squeeze(input: Any, axes: Sequence[int], name: str | None = None) -> Any:
    """Drop these dimensions, of size 1; all such for an empty list. `name` is not used."""
    return at_least_1d(paddle.squeeze(input, list(axes) or None))


def unsqueeze(input: Any, axes: int | Sequence[int], name: str | None = None) -> Any:
    """Insert dimensions of size 1 at these places of the result. `name` is not used."""
    return paddle.unsqueeze(at_least_1d(input), axes)


def flatten(x: Any, axis: int = 1, name: str | None = None) -> Any:
    """Make a matrix: dimensions before `axis` become rows, the others columns."""
    rows = [*x.shape][:axis]
    columns = [*x.shape][axis:]
    if axis == 0:
        return paddle.reshape(x, [1, -1])
    if min(columns, default=1) > 0:
        count = 1
        for known in columns:
            count *= int(known)
        return paddle.reshape(x, [-1, count])
    if min(rows) > 0:
        count = 1
        for known in rows:
            count *= int(known)
        return paddle.reshape(x, [count, -1])
    x = paddle.flatten(x, axis) if axis < len(rows + columns) else paddle.unsqueeze(x, -1)
    return paddle.flatten(x, 0, axis - 1)


def transpose(x: Any, perm: Sequence[int], name: str | None = None) -> Any:
    """Reorder the dimensions: dimension i of the result is `perm[i]` of x. `name` is not used."""
    return paddle.transpose(x, list(perm))


def expand(x: Any, expand_times: Any, name: str | None = None) -> Any:
    """Repeat x along each dimension so many times: ints or tensors of one element, or a tensor."""
    return paddle.tile(x, expand_times if is_tensor(expand_times) else list(expand_times))


def expand_as(x: Any, target_tensor: Any, name: str | None = None) -> Any:
    """Repeat x along each dimension until it has the shape of the target, a multiple of its own."""
    times = []
    for axis, (old, new) in enumerate(zip(x.shape, target_tensor.shape)):
        if old > 0 and new > 0:
            times.append(new // old)
        else:
            wanted = paddle.shape(target_tensor)[axis]
            times.append(wanted if old == 1 else wanted // paddle.shape(x)[axis])
    return paddle.tile(x, times)


def concat(input: Any, axis: Any = 0, name: str | None = None) -> Any:
    """Join tensors along a dimension. `name` is not used."""
    tensors = [at_least_1d(x) for x in input] if isinstance(input, (list, tuple)) else [input]
    return paddle.concat(tensors, axis)


def split(input: Any, num_or_sections: Any, dim: Any = -1, name: str | None = None) -> list[Any]:
    """Cut a tensor along `dim` into so many equal parts, or into parts of these sizes."""
    return paddle.split(input, num_or_sections, dim)


def stack(x: Any, axis: int = 0) -> Any:
    """Join tensors along a new dimension."""
    tensors = x if isinstance(x, (list, tuple)) else [x]
    return paddle.stack([at_least_1d(item) for item in tensors], axis)


def unstack(x: Any, axis: int = 0, num: int | None = None) -> list[Any]:
    """Cut a tensor along a dimension, which the parts do not have."""
    return [at_least_1d(part) for part in paddle.unstack(x, axis, num)]


def slice(input: Any, axes: Sequence[int], starts: Any, ends: Any) -> Any:
    """Take elements from `starts` to before `ends` along `axes`."""
    return paddle.slice(input, list(axes), starts, ends)


def strided_slice(input: Any, axes: Sequence[int], starts: Any, ends: Any, strides: Any) -> Any:
    """Take elements from `starts` to before `ends` in steps of `strides` along `axes`."""
    return paddle.strided_slice(input, list(axes), starts, ends, strides)


def crop_tensor(x: Any, shape: Any = None, offsets: Any = None, name: str | None = None) -> Any:
    """Cut a part of this shape out of x, from `offsets` on; None are the shape of x and zeros."""
    return paddle.crop(x, shape, offsets)


def crop(x: Any, shape: Any = None, offsets: Any = None, name: str | None = None) -> Any:
    """Do as :func:`crop_tensor`; here a tensor `shape` stands for its own shape."""
    if is_tensor(shape):
        # Paddle joins the sizes: tensors among them need a dimension.
        shape = [at_least_1d(size) if is_tensor(size) else size for size in _sizes(shape)]
    return paddle.crop(x, shape, offsets)


def pad(x: Any, paddings: Sequence[int], pad_value: float = 0.0, name: str | None = None) -> Any:
    """Put values before and behind each dimension: [before 0, behind 0, before 1, ...]."""
    return F.pad(x, list(paddings), "constant", pad_value)


def pad2d(
    input: Any,
    paddings: Any = (0, 0, 0, 0),
    mode: str = "constant",
    pad_value: float = 0.0,
    data_format: str = "NCHW",
    name: str | None = None,
) -> Any:
    """Put a border around images.

    Args:
        input: Images [N, C, H, W], or [N, H, W, C] with `data_format="NHWC"`.
        paddings: Top, bottom, left, right: ints, or an int32 tensor [4].
        mode: `"constant"`, `"reflect"` or `"edge"`.
        pad_value: The value of a constant border.
        data_format: `"NCHW"` or `"NHWC"`.
        name: Not used.

    Raises:
        ValueError: an unknown mode.
    """
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    if mode not in modes:
        raise ValueError(f"mode: expected one of {', '.join(modes)}, got {mode!r}")
    if is_tensor(paddings):
        paddings = paddle.concat(paddle.split(paddings, 2)[::-1])
    else:
        paddings = [*paddings[2:], *paddings[:2]]
    return F.pad(input, paddings, modes[mode], pad_value, data_format)


def reverse(x: Any, axis: int | Sequence[int]) -> Any:
    """Reverse the order of the elements along these dimensions."""
    return paddle.flip(x, [axis] if isinstance(axis, int) else list(axis))


# --- choosing ------------------------------------------------------------------------------------


def gather(input: Any, index: Any, overwrite: bool = True) -> Any:
    """Take elements of the first dimension; `index` is [n] or [n, 1]. `overwrite` is not used."""
    return paddle.gather(input, paddle.reshape(index, [-1]))


def gather_nd(input: Any, index: Any, name: str | None = None) -> Any:
    """Take the elements whose first coordinates are the last dimension of `index`."""
    return paddle.gather_nd(input, index)


def scatter(
    input: Any, index: Any, updates: Any, name: str | None = None, overwrite: bool = True
) -> Any:
    """Put `updates` at places `index` of the first dimension, or add them up there."""
    if updates.shape[0] < 0 <= index.shape[0]:  # which Paddle 3.0 takes for too few updates
        updates = paddle.reshape(updates, [index.shape[0]] + [0] * (len(updates.shape) - 1))
    return paddle.scatter(input, index, updates, overwrite)


def scatter_nd_add(ref: Any, index: Any, updates: Any, name: str | None = None) -> Any:
    """Add updates [..., *ref.shape[K:]] to the elements of `ref` at places [..., K]."""
    return paddle.scatter_nd_add(ref, index, updates)


def scatter_nd(index: Any, updates: Any, shape: Sequence[int], name: str | None = None) -> Any:
    """Add updates to zeros of a shape: see :func:`scatter_nd_add`."""
    return paddle.scatter_nd(index, updates, shape)


def sequence_mask(x: Any, maxlen: Any = None, dtype: Any = "int64", name: str | None = None) -> Any:
    """Return 1 for the first x of `maxlen` places and 0 for the others, [..., maxlen].

    `maxlen` is an int or a tensor; None is the greatest x.
    """
    return F.sequence_mask(x, maxlen, dtype)


def where(condition: Any) -> Any:
    """Return the coordinates [n, rank] of the true elements, int64."""
    return paddle.nonzero(condition)


def topk(input: Any, k: Any, name: str | None = None) -> tuple[Any, Any]:
    """Return the k greatest elements of the last dimension and their places, int64."""
    values, places = paddle.topk(input, k)
    return values, places


def argmax(x: Any, axis: int = 0) -> Any:
    """Return the places of the maxima along a dimension, int64."""
    return at_least_1d(_operators.argmax(x, axis))


def argmin(x: Any, axis: int = 0) -> Any:
    """Return the places of the minima along a dimension, int64."""
    return at_least_1d(_operators.argmin(x, axis))


def argsort(
    input: Any, axis: int = -1, descending: bool = False, name: str | None = None
) -> tuple[Any, Any]:
    """Return the sorted elements of a dimension and the places they had, int64."""
    places = paddle.argsort(input, axis, descending)
    return paddle.sort(input, axis, descending), places


def one_hot(input: Any, depth: Any, allow_out_of_range: bool = False) -> Any:
    """Return rows [n, depth] of zeros with a one at each place of the input [n, 1].

    Places outside 0 to depth - 1 are an error when the program runs, or with `allow_out_of_range`
    rows of zeros.
    """
    return hot(
        paddle.reshape(input, [-1]) if len(input.shape) == 2 else paddle.squeeze(input, -1),
        depth,
        allow_out_of_range,
    )


def hot(places: Any, depth: Any, allow_out_of_range: bool) -> Any:
    """Compute both functions `one_hot`."""
    if not allow_out_of_range:
        return F.one_hot(places, depth)
    numbers = paddle.arange(0, depth, 1, places.dtype)
    return paddle.equal(paddle.unsqueeze(places, -1), numbers).astype("float32")


# --- arithmetic ----------------------------------------------------------------------------------


def scale(
    x: Any,
    scale: Any = 1.0,
    bias: float = 0.0,
    bias_after_scale: bool = True,
    act: str | None = None,
    name: str | None = None,
) -> Any:
    """Return scale * x + bias, or scale * (x + bias), with an activation. `name` is not used."""
    return activated(paddle.scale(x, scale, bias, bias_after_scale), act)


def clip(x: Any, min: float, max: float, name: str | None = None) -> Any:
    """Return each element moved into the range from `min` to `max`. `name` is not used."""
    return paddle.clip(x, min, max)


def clip_by_norm(x: Any, max_norm: float, name: str | None = None) -> Any:
    """Return x, or x scaled down to this L2 norm. `name` is not used."""
    return scaled_to_norm(x, square_sum(x), max_norm)


def square_sum(x: Any) -> Any:
    """Return the sum of the squares of all elements."""
    return _operators.sum(paddle.square(x), None, False)


def scaled_to_norm(x: Any, squares: Any, norm: float) -> Any:
    """Return x times `norm` over the root of `squares`, if that is greater than `norm`."""
    root = _operators.sqrt(squares)
    return _operators.multiply(x, norm / _operators.maximum(root, paddle.full_like(root, norm)))


def sum(x: Any) -> Any:
    """Add tensors of one shape up."""
    return paddle.add_n(list(x) if isinstance(x, (list, tuple)) else x)


def sums(input: Any, out: Any = None) -> Any:
    """Add tensors of one shape up; a tensor `out` takes the result."""
    return _stored(sum(input), out)


def cumsum(
    x: Any, axis: int | None = None, exclusive: bool | None = None, reverse: bool | None = None
) -> Any:
    """Return the sums of the elements up to each one, itself left out if `exclusive`.

    `axis` None is the last dimension; `reverse` counts from its end.
    """
    axis = -1 if axis is None else axis
    ordered = paddle.flip(x, [axis]) if reverse else x
    total = paddle.cumsum(ordered, axis)
    total = total - ordered if exclusive else total
    return paddle.flip(total, [axis]) if reverse else total


def matmul(
    x: Any,
    y: Any,
    transpose_x: bool = False,
    transpose_y: bool = False,
    alpha: float = 1.0,
    name: str | None = None,
) -> Any:
    """Multiply matrices, and the product by `alpha`. `name` is not used.

    A vector is a row as x and a column as y; transposed, the other way round.
    """
    if transpose_x and len(x.shape) == 1:
        x, transpose_x = paddle.unsqueeze(x, 1), False
    if transpose_y and len(y.shape) == 1:
        y, transpose_y = paddle.unsqueeze(y, 0), False
    product = at_least_1d(_operators.matmul(x, y, transpose_x, transpose_y))
    return product if alpha == 1.0 else product * alpha


def mul(
    x: Any, y: Any, x_num_col_dims: int = 1, y_num_col_dims: int = 1, name: str | None = None
) -> Any:
    """Multiply x and y as matrices; so many first dimensions of each are rows.

    The result has the first dimensions of x and the last ones of y. `name` is not used.
    """
    rows, columns = _sizes(x)[:x_num_col_dims], _sizes(y)[y_num_col_dims:]
    product = _operators.matmul(flatten(x, x_num_col_dims), flatten(y, y_num_col_dims))
    if len(rows) == len(columns) == 1:
        return product
    return paddle.reshape(product, rows + columns)


def _whole(check: Any, x: Any) -> Any:
    return at_least_1d(_operators.any(check(x), None, False))


def has_inf(x: Any) -> Any:
    """Return whether any element is infinite, a bool [1]."""
    return _whole(_operators.isinf, x)


def has_nan(x: Any) -> Any:
    """Return whether any element is NaN, a bool [1]."""
    return _whole(_operators.isnan, x)


def isfinite(x: Any) -> Any:
    """Return whether all elements are finite, a bool [1]."""
    return at_least_1d(_operators.all(_operators.isfinite(x), None, False))
