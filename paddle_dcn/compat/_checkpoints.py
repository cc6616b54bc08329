"""Turns the parameters of a PyTorch checkpoint into those of a Paddle model."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import paddle

from .._checks import dtype_name

_NORM = {"running_mean": "_mean", "running_var": "_variance"}

# The Linear layer that gives the sampling of a layer of a later version, and what has to stand
# beside it.
_LATER = {"DCNv3": ("offset.weight", "mask.weight"), "DCNv4": ("offset_mask.weight",) * 2}


# What training scripts save the parameters under, beside the epoch, the optimizer and the like, in
# the order in which they are looked for: averaged ones, which are what is evaluated, before others.
# mmcv's `state_dict` holds them already where it has an `ema_state_dict`.
_CONTAINERS = (
    *("state_dict", "params_ema", "ema", "ema_state_dict", "params"),
    *("model", "model_state_dict", "module"),
)
_OPTIMIZER = {"state", "param_groups"}

# What wrappers put in front of every name: DataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")

# What the convolution that predicts a layer's sampling is called: in mmcv, CharlesShang's DCNv2
# and early mmdet, and beside the layer in detectron2 and mmcv's old checkpoints.
_SPELLINGS = ("{}.conv_offset", "{}.conv_offset_mask", "{}_offset")


def _read(state: Any) -> Any:
    """Return the checkpoint that a path leads to, any other object as it is."""
    expected = "state: expected a mapping of names to arrays, or the path of a .safetensors file"
    if isinstance(state, Mapping) or callable(getattr(state, "state_dict", None)):
        return state
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


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _unwrap(state: Any, path: str = "state") -> Mapping[str, Any]:
    """Return the named arrays of a checkpoint, out of whatever it holds them in."""
    if not isinstance(state, Mapping) and callable(getattr(state, "state_dict", None)):
        state = state.state_dict()  # a model, as some scripts save it
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{path}: expected a mapping of names to arrays, got {type(state).__name__}"
        )
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"state: expected names that are str, got {name!r}")
    for name in _CONTAINERS:
        inner = state.get(name)
        if isinstance(inner, Mapping) or callable(getattr(inner, "state_dict", None)):
            return _unwrap(inner, f"{path}[{name!r}]")
    if not any(_is_array(value) for value in state.values()):
        what = "an optimizer's state" if state.keys() >= _OPTIMIZER else f"{_some(state)}"
        raise ValueError(f"{path}: expected names of arrays, got {what}")
    return state


def _some(names: Iterable[str]) -> str:
    """Show a few names."""
    names = [repr(name) for name in names]
    return ", ".join(names[:3] + ["..."] * (len(names) > 3)) or "nothing"


def _tensor(value: Any) -> paddle.Tensor:
    """Return a Paddle tensor with the value and dtype of an array."""
    if isinstance(value, paddle.Tensor):
        return value
    if hasattr(value, "detach"):  # PyTorch's, which has no NumPy array of a bfloat16 tensor
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return paddle.to_tensor(value.float().numpy()).astype("bfloat16")
        return paddle.to_tensor(value.numpy())
    value = np.asarray(value)
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
        for version, (sampling, beside) in _LATER.items():
            match = re.fullmatch(rf"(.*\.)?{re.escape(sampling)}", name)
            if match and len(shape) == 2 and (match[1] or "") + beside in shapes:
                raise ValueError(
                    f"state: expected no layer of {version}, got its {name}; such checkpoints are "
                    "converted by paddle_dcn.compat.internimage.convert_state_dict, which also "
                    "transposes the weights of Linear layers"
                )


def _offset_owner(name: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the layer whose sampling a convolution predicts, None if that is another layer.

    The layer's name ends with a dot; it is empty if the whole model is one layer.
    """
    match = re.fullmatch(r"(.*\.)?conv_offset_mask\.(weight|bias)", name)
    layer = (match[1] or "") if match else None
    if match is None:
        match = re.fullmatch(r"((.*\.)?[^.]+)_offset\.(weight|bias)", name)
        # conv_offset is what a convolution beside the layer is usually called.
        if match is None or re.fullmatch(r"(.*\.)?conv", match[1]):
            return None
        layer = f"{match[1]}."
    weight = shapes.get(f"{layer}weight", ())
    offset = shapes.get(f"{name.rpartition('.')[0]}.weight", ())
    if len(weight) != 4 or len(offset) != 4 or f"{layer}conv_offset.weight" in shapes:
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


def _batch_norm_name(name: str) -> str:
    parent, dot, last = name.rpartition(".")
    return f"{parent}{dot}{_NORM.get(last, last)}"


def _usual_name(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """Return the name that an entry has in a model of this package's layers."""
    owner = _offset_owner(name, shapes)
    if owner is not None:
        return f"{owner}conv_offset.{name.rpartition('.')[2]}"
    return _batch_norm_name(name)


def _name_in(model: Mapping[str, Any], name: str) -> str | None:
    """Return the name that an entry has in a model, None if the model has no such entry."""
    candidates = [name, _batch_norm_name(name)]
    for spelling in _SPELLINGS:
        pattern = re.escape(spelling).replace(r"\{\}", "(.*)")
        match = re.fullmatch(rf"{pattern}\.(weight|bias)", f".{name}")
        if match:
            others = (f"{other.format(match[1])}.{match[2]}" for other in _SPELLINGS)
            candidates += [other.removeprefix(".") for other in others]
    return next((candidate for candidate in candidates if candidate in model), None)


class StateDict(dict):
    """Paddle tensors by name, for `set_state_dict`, and what became of the checkpoint's entries.

    Attributes:
        renamed: New names by old ones, of the entries that were renamed.
        left_over: Names of the entries that were not converted: those that the model has not, or
            has in another shape, and values that are no arrays.
        missing: Names that the model has and the checkpoint has not, or not in their shape; empty
            if no model was given.

    Examples:
        >>> import numpy as np
        >>> from paddle_dcn.compat.mmcv import convert_state_dict
        >>> converted = convert_state_dict({"bn.running_mean": np.zeros([6], "float32"), "n": 1})
        >>> print(converted.report())
        converted 1, renamed 1, left over 1 ('n'), missing 0

    """

    def __init__(self) -> None:
        """Start with no entry."""
        super().__init__()
        self.renamed: dict[str, str] = {}
        self.left_over: list[str] = []
        self.missing: list[str] = []

    def report(self) -> str:
        """Return one line with the numbers of all and some names of what did not load."""
        shown = [f"converted {len(self)}", f"renamed {len(self.renamed)}"]
        for title, names in (("left over", self.left_over), ("missing", self.missing)):
            shown.append(f"{title} {len(names)}" + (f" ({_some(names)})" if names else ""))
        return ", ".join(shown)


def convert_state_dict(state: Any, model: paddle.nn.Layer | None = None) -> StateDict:
    """Convert a checkpoint of PyTorch for `set_state_dict` of a Paddle model.

    The parameters are found inside what training scripts save them in (`state_dict`, `params_ema`,
    `params`, `ema`, `ema_state_dict`, `model`; averaged ones before others, and mmcv's `state_dict`
    first, which holds those). If the name of every array begins with `module.` or `_orig_mod.`,
    that is cut off. The running statistics of batch normalisation, `running_mean` and
    `running_var`, are Paddle's `_mean` and `_variance`; `num_batches_tracked` is left out. Every
    other entry keeps its layout: the weights of Linear layers, [out, in] in PyTorch and [in, out]
    in Paddle, are for the caller to transpose.

    With a model, its names decide: the convolution that predicts offsets may be `<name>_offset`
    (mmcv's old packs, detectron2), `<name>.conv_offset_mask` (CharlesShang's DCNv2, CenterNet,
    early mmdet) or `<name>.conv_offset` in either of them, and stays where the model has it; values
    get the dtype of the model's; a warning tells what is missing or left over. Without one, offset
    convolutions are called `<name>.conv_offset` where `<name>.weight` is the weight of a
    convolution with the same kernel, which is not 1x1, the channels fit, and the entry is not
    itself called `conv_offset`; dtypes stay, and `set_state_dict` refuses those that differ.

    Args:
        state: A mapping of names to NumPy arrays, PyTorch or Paddle tensors, a checkpoint that
            holds one, a model with a `state_dict()`, or the path of a `.safetensors` file.
        model: The Paddle model that is to load the result.

    Returns:
        A dict of Paddle tensors by name, in the order of `state`, with the attributes `renamed`,
        `left_over` and `missing`, and `report()`, which tells them in a line. The tensors hold
        their values in static mode, too, for the `set_state_dict` of a model there.

    Raises:
        TypeError: `state` is no mapping and no path, a name is no str, or a dtype, such as float8,
            cannot be converted.
        ValueError: nothing in `state` is an array or fits the model, a path of another kind of
            file, a layer of DCNv3 or DCNv4 (see `paddle_dcn.compat.internimage`), or two entries
            that get the same name.
        ImportError: the safetensors package is needed and missing.

    Source: the names of `mmcv.ops.DeformConv2dPack` before and since its version 2, of `DCN` in
    https://github.com/CharlesShang/DCNv2, and of `DeformBottleneckBlock` in detectron2.

    Examples:
        >>> import numpy as np
        >>> from paddle_dcn.compat.mmcv import ModulatedDeformConv2dPack, convert_state_dict
        >>> state = {
        ...     "module.weight": np.zeros([6, 4, 3, 3], "float16"),
        ...     "module.bias": np.zeros([6], "float16"),
        ...     "module.conv_offset_mask.weight": np.zeros([27, 4, 3, 3], "float16"),
        ...     "module.conv_offset_mask.bias": np.zeros([27], "float16"),
        ... }
        >>> model = ModulatedDeformConv2dPack(4, 6, 3)
        >>> converted = convert_state_dict({"epoch": 12, "state_dict": state}, model)
        >>> list(converted)
        ['weight', 'bias', 'conv_offset.weight', 'conv_offset.bias']
        >>> converted.report()
        'converted 4, renamed 2, left over 0, missing 0'
        >>> model.set_state_dict(converted)
        ([], [])

    """
    return convert(state, model, transposes=False)


def convert(state: Any, model: paddle.nn.Layer | None, transposes: bool) -> StateDict:
    """Do what `convert_state_dict` does, and transpose the weights of Linear layers if asked to."""
    targets = linear = None
    if model is not None:
        targets = model.state_dict()
        layers = model.named_sublayers(include_self=True)
        found = (name for name, layer in layers if isinstance(layer, paddle.nn.Linear))
        linear = {f"{name}.weight".removeprefix(".") for name in found}
    if not paddle.in_dynamic_mode():  # there, to_tensor would add to the program
        with paddle.base.dygraph.guard():
            return _convert(state, targets, linear, transposes)
    return _convert(state, targets, linear, transposes)


def _hint(values: Mapping[str, Any], targets: Mapping[str, Any]) -> str:
    """What the names of a checkpoint have before those of the model, if that is one thing."""
    first, target = next(iter(targets.items()))
    before = {
        name[: -len(first)]
        for name, value in values.items()
        if name.endswith(f".{first}") and tuple(getattr(value, "shape", ())) == tuple(target.shape)
    }
    if len(before) != 1:
        return ""
    return f"; take those that begin with {before.pop()!r}, and cut that off"


def _convert(
    state: Any, targets: Mapping[str, Any] | None, linear: set[str] | None, transposes: bool
) -> StateDict:
    values = dict(_unwrap(_read(state)))
    for prefix in _PREFIXES:
        named = [name for name, value in values.items() if getattr(value, "shape", ())]
        if named and all(name.startswith(prefix) for name in named):
            values = {name.removeprefix(prefix): value for name, value in values.items()}
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}
    if not transposes:
        _refuse_later_versions(shapes)

    converted = StateDict()
    for name, value in values.items():
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        new = _usual_name(name, shapes) if targets is None else _name_in(targets, name)
        matrix = len(shapes[name]) == 2 and f".{name}".endswith(".weight")
        transposed = transposes and (matrix if linear is None else new in linear)
        shape = shapes[name][::-1] if transposed else shapes[name]
        fits = targets is None or (new is not None and shape == tuple(targets[new].shape))
        if not _is_array(value) or not fits:
            converted.left_over.append(name)
            continue
        if new in converted:
            raise ValueError(f"state: expected one entry for {new}, got a second one, {name}")
        if new != name:
            converted.renamed[name] = new
        tensor = _named_tensor(name, value)
        tensor = tensor.t() if transposed else tensor
        if targets is not None:
            dtype = dtype_name(targets[new].dtype)
            tensor = tensor if dtype_name(tensor.dtype) == dtype else tensor.astype(dtype)
        converted[new] = tensor
    if targets is None:
        return converted
    converted.missing = [name for name in targets if name not in converted]
    if not converted:
        raise ValueError(
            f"state: expected entries of the model, {_some(targets)}, in its shapes, got "
            f"{_some(values)}{_hint(values, targets)}"
        )
    if converted.left_over or converted.missing:
        warnings.warn(f"convert_state_dict: {converted.report()}", stacklevel=4)
    return converted
