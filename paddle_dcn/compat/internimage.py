"""The names of InternImage's `ops_dcnv3` and of the `DCNv4` package, and their checkpoints."""

from __future__ import annotations

from typing import Any

from paddle import nn

from ..aggregation import DCNv3, DCNv4, dcnv3, dcnv4
from ._checkpoints import StateDict, convert

__all__ = ["DCNv3", "DCNv3Function", "DCNv4", "DCNv4Function", "convert_state_dict"]


class DCNv3Function:
    """The original's name of `paddle_dcn.dcnv3`.

    Source: https://github.com/OpenGVLab/InternImage.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.internimage import DCNv3Function
        >>> input, offset, mask = (paddle.rand([1, 7, 7, n]) for n in (32, 36, 18))
        >>> out = DCNv3Function.apply(
        ...     *(input, offset, mask, 3, 3, 1, 1, 1, 1, 1, 1, 2, 16, 1.0, 256, False)
        ... )
        >>> list(out.shape)
        [1, 7, 7, 32]

    """

    apply = staticmethod(dcnv3)


class DCNv4Function:
    """The original's name of `paddle_dcn.dcnv4`.

    Source: https://github.com/OpenGVLab/DCNv4.

    Examples:
        >>> import paddle
        >>> from paddle_dcn.compat.internimage import DCNv4Function
        >>> input, offset_mask = (paddle.rand([1, 7, 7, n]) for n in (32, 56))
        >>> out = DCNv4Function.apply(
        ...     *(input, offset_mask, 3, 3, 1, 1, 1, 1, 1, 1, 2, 16, 1.0, 256, False)
        ... )
        >>> list(out.shape)
        [1, 7, 7, 32]

    """

    apply = staticmethod(dcnv4)


def convert_state_dict(state: Any, model: nn.Layer | None = None) -> StateDict:
    """Convert a checkpoint of InternImage or FlashInternImage for `set_state_dict` of a model.

    With a model it is `paddle_dcn.compat.mmcv.convert_state_dict`. Without one it does what that
    does and transposes all entries called `weight` that have two dimensions and are no Paddle
    tensors: the weights of Linear layers are [out, in] in PyTorch and [in, out] in Paddle.

    Args:
        state: As there: a mapping of names to arrays, a checkpoint that holds one, a model of
            PyTorch, or the path of a `.safetensors` file.
        model: The Paddle model that is to load the result.

    Returns:
        A dict of Paddle tensors by name with a `report()`, as there.

    Raises:
        TypeError: as there.
        ValueError: as there, but layers of DCNv3 and DCNv4 are converted without a model, too.
        ImportError: the safetensors package is needed and missing.

    Source: the names of `DCNv3` in https://github.com/OpenGVLab/InternImage and of `DCNv4` in
    https://github.com/OpenGVLab/DCNv4.

    Examples:
        >>> import numpy as np
        >>> from paddle_dcn import DCNv3
        >>> from paddle_dcn.compat.internimage import convert_state_dict
        >>> model = DCNv3(channels=32, group=2)
        >>> state = {name: value.numpy() for name, value in model.state_dict().items()}
        >>> state["mask.weight"] = np.zeros([18, 32], "float32")  # as PyTorch has it
        >>> state["offset.weight"] = np.zeros([36, 32], "float32")
        >>> converted = convert_state_dict({"model": state, "epoch": 300}, model)
        >>> converted.report()
        'converted 12, renamed 0, left over 0, missing 0'
        >>> model.set_state_dict(converted)
        ([], [])

    """
    return convert(state, model, transposes=True)
