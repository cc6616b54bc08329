"""Turns the parameters of a PyTorch checkpoint into those of a Paddle model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle

_NORM = {"running_mean": "_mean", "running_var": "_variance"}

# The Linear layer that gives the sampling of a layer which is no deformable convolution v1 or v2,
# and what has to stand beside it.
_REFUSED = {"DCNv3": ("offset.weight", "mask.weight"), "DCNv4": ("offset_mask.weight",) * 2}


def _load(state: Any) -> Mapping[str, Any]:
    """Return the named values of a checkpoint, whatever it came as."""
    if isinstance(state, Mapping):
        inner = state.get("state_dict")  # beside it mmcv saves its version, epoch and optimizer
        return inner if isinstance(inner, Mapping) else state
    expected = "state: expected a mapping of names to arrays, or the path of a .safetensors file"
    if not isinstance(state, (str, os.PathLike)):
        raise TypeError(f"{expected}, got {type(state).__name__}")
    if not os.fspath(state).endswith(".safetensors"):
        raise ValueError(
            f"{expected}, got {os.fspath(state)!r}; a .pth file is read by "
            "torch.load(path, map_location='cpu')"
        )
    try:
        from safetensors.paddle import load_file
    except ImportError:
        raise ImportError("a .safetensors file needs: pip install safetensors") from None
    return load_file(state)


def _tensor(value: Any) -> Any:
    """Return a Paddle tensor with the value and dtype of an array; anything else as it is."""
    if isinstance(value, paddle.Tensor):
        return value
    if hasattr(value, "detach"):  # PyTorch's, which has no NumPy array of a bfloat16 tensor
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return paddle.to_tensor(value.float().numpy()).astype("bfloat16")
        return paddle.to_tensor(value.numpy())
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    if value.dtype.name == "bfloat16":  # the ml_dtypes package's
        return paddle.to_tensor(value.astype("float32")).astype("bfloat16")
    return paddle.to_tensor(value)


def _named_tensor(name: str, value: Any) -> Any:
    try:
        return _tensor(value)
    except (TypeError, ValueError) as error:  # what PyTorch and Paddle raise of other dtypes
        raise TypeError(
            f"state: expected a dtype that Paddle and NumPy have, got {value.dtype} of {name}"
        ) from error


def _refuse_later_versions(shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        for version, (sampling, beside) in _REFUSED.items():
            match = re.fullmatch(rf"(.*\.)?{re.escape(sampling)}", name)
            if match and len(shape) == 2 and (match[1] or "") + beside in shapes:
                raise ValueError(
                    f"state: {name} is the weight of a {version} layer, which this operator cannot "
                    "compute: its taps go down the columns of the kernel, not along the rows, with "
                    "x before y, and each is shared by the channels of a group instead of having "
                    "weights of its own"
                )


def _offset_owner(name: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the layer whose offsets `<layer>_offset` predicts, None if that is another layer."""
    match = re.fullmatch(r"(.+)_offset\.(weight|bias)", name)
    if match is None:
        return None
    layer = match[1]
    weight, offset = shapes.get(f"{layer}.weight", ()), shapes.get(f"{layer}_offset.weight", ())
    if len(weight) != 4 or len(offset) != 4 or f"{layer}.conv_offset.weight" in shapes:
        return None
    taps = weight[2] * weight[3]
    fits = (
        offset[2:] == weight[2:]
        and taps > 1  # of 1x1 kernels too many would fit by chance
        and (offset[0] % (2 * taps) == 0 or offset[0] % (3 * taps) == 0)
        and weight[1] > 0
        and offset[1] % weight[1] == 0  # C and C / groups
    )
    return layer if fits else None


def convert_state_dict(state: Any) -> dict[str, Any]:
    """Convert a state dict of PyTorch or mmcv for `set_state_dict` of a Paddle model.

    Renamed are the offset convolutions of mmcv's old packs, `<name>_offset.*`, to
    `<name>.conv_offset.*`, where `<name>.weight` is the weight of a convolution with the same
    kernel, which is not 1x1, and the channels fit; and the running statistics of batch
    normalisation, `running_mean` to `_mean` and `running_var` to `_variance`.
    `num_batches_tracked`, which Paddle does not have, is left out. If every name begins with
    `module.`, what DataParallel puts there, that is cut off. Every other entry stays, with its
    name, dtype and layout: the weights of Linear layers, [out, in] in PyTorch and [in, out] in
    Paddle, are for the caller to transpose.

    Args:
        state: A mapping of names to NumPy arrays, PyTorch or Paddle tensors; an mmcv checkpoint
            that has one as its `state_dict`; or the path of a `.safetensors` file.

    Returns:
        Paddle tensors by name, in the order of `state`; values that are no arrays as they are. The
        tensors hold their values in static mode, too, for the `set_state_dict` of a model there.

    Raises:
        TypeError: `state` is no mapping and no path, a name is no str, or a dtype, such as float8,
            cannot be converted.
        ValueError: a path of another kind of file, a layer of DCNv3 or DCNv4, whose weights mean
            something else, or two entries that get the same name.
        ImportError: the safetensors package is needed and missing.

    Source: the names of `mmcv.ops.DeformConv2dPack` before and since its version 2.

    Examples:
        >>> import numpy as np
        >>> from paddle_dcn.compat.mmcv import ModulatedDeformConv2dPack, convert_state_dict
        >>> state = {
        ...     "conv2.weight": np.zeros([6, 4, 3, 3], "float32"),
        ...     "conv2_offset.weight": np.zeros([27, 4, 3, 3], "float32"),
        ...     "conv2_offset.bias": np.zeros([27], "float32"),
        ...     "bn2.running_mean": np.zeros([6], "float32"),
        ... }
        >>> list(convert_state_dict(state))
        ['conv2.weight', 'conv2.conv_offset.weight', 'conv2.conv_offset.bias', 'bn2._mean']

    """
    if not paddle.in_dynamic_mode():  # there, to_tensor would add to the program
        with paddle.base.dygraph.guard():
            return convert_state_dict(state)
    values = dict(_load(state))
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"state: expected names that are str, got {name!r}")
    if values and all(name.startswith("module.") for name in values):
        values = {name[len("module.") :]: value for name, value in values.items()}
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}
    _refuse_later_versions(shapes)

    converted = {}
    for name, value in values.items():
        parent, _, last = name.rpartition(".")
        owner = _offset_owner(name, shapes)
        if last == "num_batches_tracked":
            continue
        if owner is not None:
            new = f"{owner}.conv_offset.{last}"
        elif last in _NORM:
            new = f"{parent}.{_NORM[last]}" if parent else _NORM[last]
        else:
            new = name
        if new in converted:
            raise ValueError(f"state: expected one entry for {new}, got a second one, {name}")
        converted[new] = _named_tensor(name, value)
    return converted
