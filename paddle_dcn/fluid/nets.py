"""`fluid.nets` of Paddle 1.x: a few layers that are often used together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _checks
from . import layers
from ._flags import check_flags
from ._moved import module_getattr

__all__ = ["glu", "img_conv_group", "scaled_dot_product_attention", "simple_img_conv_pool"]


@check_flags
def simple_img_conv_pool(
    input: Any,
    num_filters: int,
    filter_size: int | Sequence[int],
    pool_size: int | Sequence[int],
    pool_stride: int | Sequence[int],
    pool_padding: int | Sequence[int] = 0,
    pool_type: str = "max",
    global_pooling: bool = False,
    conv_stride: int | Sequence[int] = 1,
    conv_padding: int | Sequence[int] = 0,
    conv_dilation: int | Sequence[int] = 1,
    conv_groups: int = 1,
    param_attr: Any = None,
    bias_attr: Any = None,
    act: str | None = None,
    use_cudnn: bool = True,
) -> Any:
    """Add `layers.conv2d`, then `layers.pool2d`; the arguments are theirs."""
    out = layers.conv2d(
        input,
        num_filters,
        filter_size,
        conv_stride,
        conv_padding,
        conv_dilation,
        conv_groups,
        param_attr,
        bias_attr,
        use_cudnn,
        act,
    )
    return layers.pool2d(out, pool_size, pool_type, pool_stride, pool_padding, global_pooling)


@check_flags
def img_conv_group(
    input: Any,
    conv_num_filter: Sequence[int],
    pool_size: int | Sequence[int],
    conv_padding: Any = 1,
    conv_filter_size: Any = 3,
    conv_act: str | None = None,
    param_attr: Any = None,
    conv_with_batchnorm: Any = False,
    conv_batchnorm_drop_rate: Any = 0.0,
    pool_stride: int | Sequence[int] = 1,
    pool_type: str = "max",
    use_cudnn: bool = True,
) -> Any:
    """Add convolutions, with `conv_with_batchnorm` a normalisation and a dropout behind each.

    A pool follows the last. Arguments of convolutions may be lists with one for each.

    Raises:
        ValueError: a list of another length than `conv_num_filter`.
    """
    count = len(conv_num_filter)
    per_layer = {
        "conv_padding": conv_padding,
        "conv_filter_size": conv_filter_size,
        "param_attr": param_attr,
        "conv_with_batchnorm": conv_with_batchnorm,
        "conv_batchnorm_drop_rate": conv_batchnorm_drop_rate,
    }
    for name, given in per_layer.items():
        per_layer[name] = given if isinstance(given, (list, tuple)) else [given] * count
        if len(per_layer[name]) != count:
            raise ValueError(f"{name}: expected {count} of them, got {len(per_layer[name])}")
    for each in per_layer["conv_with_batchnorm"]:
        _checks.check_flag("conv_with_batchnorm", each, optional=True)
    out = input
    for filters, padding, size, attr, normalized, rate in zip(conv_num_filter, *per_layer.values()):
        act = None if normalized else conv_act
        out = layers.conv2d(
            out, filters, size, padding=padding, param_attr=attr, use_cudnn=use_cudnn, act=act
        )
        if normalized:
            out = layers.batch_norm(out, act=conv_act)
            if abs(rate) > 1e-5:
                out = layers.dropout(out, rate)
    return layers.pool2d(out, pool_size, pool_type, pool_stride)


def glu(input: Any, dim: int = -1) -> Any:
    """Return a * sigmoid(b) of the halves a and b of a tensor along `dim`."""
    a, b = layers.split(input, 2, dim)
    return layers.elementwise_mul(a, layers.sigmoid(b))


def scaled_dot_product_attention(
    queries: Any, keys: Any, values: Any, num_heads: int = 1, dropout_rate: float = 0.0
) -> Any:
    """Return the attention of arXiv 1706.03762.

    Args:
        queries: [N, Lq, D].
        keys: [N, Lk, D].
        values: [N, Lk, Dv].
        num_heads: How many heads share D and Dv. With more than one, each of the three goes
            through a :func:`layers.fc` of its own first.
        dropout_rate: Dropout of the weights.

    Returns:
        [N, Lq, Dv].

    Raises:
        ValueError: no 3-D tensors, or sizes that do not go together.
    """
    shapes = [[*tensor.shape] for tensor in (queries, keys, values)]
    if any(len(shape) != 3 for shape in shapes):
        raise ValueError(f"queries, keys, values: expected 3-D, got {shapes}")
    if shapes[0][2] != shapes[1][2] or shapes[1][1] != shapes[2][1]:
        raise ValueError(
            f"keys: expected the queries' last size and the values' length, got {shapes}"
        )
    if shapes[0][2] % num_heads or shapes[2][2] % num_heads:
        raise ValueError(f"num_heads: expected a divisor of the last sizes, got {num_heads}")
    q, k, v = queries, keys, values
    if num_heads > 1:
        q, k, v = (
            _heads(layers.fc(tensor, tensor.shape[-1], num_flatten_dims=2), num_heads)
            for tensor in (q, k, v)
        )
    scaled = layers.scale(q, (shapes[0][2] // num_heads) ** -0.5)
    weights = layers.softmax(layers.matmul(scaled, k, transpose_y=True))
    if dropout_rate:
        weights = layers.dropout(weights, dropout_rate)
    out = layers.matmul(weights, v)
    if num_heads == 1:
        return out
    return layers.reshape(layers.transpose(out, [0, 2, 1, 3]), [0, 0, shapes[2][2]])


def _heads(x: Any, count: int) -> Any:
    """Make [N, count, L, D / count] of [N, L, D]."""
    return layers.transpose(layers.reshape(x, [0, 0, count, x.shape[-1] // count]), [0, 2, 1, 3])


__getattr__ = module_getattr(__name__)
