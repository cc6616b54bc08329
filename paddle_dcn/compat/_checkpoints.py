"""Turns the parameters of a PyTorch checkpoint into those of a Paddle model."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import paddle

from .._checks import dtype_name, inspect, reject_kind

_NORM = {"running_mean": "_mean", "running_var": "_variance"}

# The Linear layer that gives the sampling of a layer of a later version, and what has to stand
# beside it.
_LATER = {"DCNv3": ("offset.weight", "mask.weight"), "DCNv4": ("offset_mask.weight",) * 2}


# What training scripts save the parameters under, beside the epoch, the optimizer and the like, in
# the order in which they are looked for: averaged ones, which are what is evaluated, before others.
# mmcv's `state_dict` holds them already where it has an `ema_state_dict`.
_CONTAINERS = (
    *("params_ema", "model_ema", "state_dict_ema", "ema", "state_dict", "ema_state_dict"),
    *("params", "model", "model_state_dict", "module"),
)
_OPTIMIZER = {"state", "param_groups"}

# What wrappers put in front of every name: DataParallel, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")

# What the convolution that predicts a layer's sampling is called: in mmcv, CharlesShang's DCNv2
# and early mmdet, and beside the layer in detectron2 and mmcv's old checkpoints.
_SPELLINGS = ("{}.conv_offset", "{}.conv_offset_mask", "{}_offset")


# Whose tensors a .safetensors file holds, by its metadata. PaddleNLP, too, writes "np".
_FORMATS = {"pt": "torch", "pd": "paddle"}


def _read(state: Any) -> tuple[Any, str | None]:
    """Return the checkpoint that a path leads to and whose it is, "" if that is unknown.

    Any other object is returned as it is; its values tell whose they are.
    """
    expected = "state: expected a mapping of names to arrays, or the path of a .safetensors file"
    if isinstance(state, Mapping) or callable(getattr(state, "state_dict", None)):
        return state, None
    if not isinstance(state, (str, os.PathLike)):
        raise TypeError(f"{expected}, got {type(state).__name__}")
    path = os.fspath(state)
    if not str(path).endswith(".safetensors"):
        raise ValueError(
            f"{expected}, got {path!r}; a .pth file is read by torch.load(path, map_location='cpu')"
        )
    if os.path.isdir(path):
        raise ValueError(f"{expected}, got the folder {path!r}")
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.paddle import load_file
    except ImportError:
        raise ImportError("a .safetensors file needs: pip install safetensors") from None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        return load_file(path), _FORMATS.get(metadata.get("format"), "")
    except SafetensorError as error:
        raise ValueError(f"{expected}, got {path!r}, which cannot be read: {error}") from error


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, None of anything else and where none is known yet."""
    try:
        return tuple(value.shape) if hasattr(value, "dtype") else None
    except Exception:  # PyTorch's lazy parameters raise it
        return None


def _opened(value: Any) -> Any:
    """Return what a model holds, which some scripts save whole; other values as they are."""
    is_model = not isinstance(value, Mapping) and callable(getattr(value, "state_dict", None))
    return value.state_dict() if is_model else value


def _holds_arrays(value: Any) -> bool:
    """Tell what holds parameters from settings, and from nothing, under the same name."""
    held = _opened(value)
    return isinstance(held, Mapping) and any(
        _shape(one) or _holds_arrays(one) for one in held.values()
    )


def _unwrap(state: Any, path: str = "state") -> Mapping[str, Any]:
    """Return the named arrays of a checkpoint, out of whatever it holds them in."""
    state = _opened(state)
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{path}: expected a mapping of names to arrays, got {type(state).__name__}"
        )
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"state: expected names that are str, got {name!r}")
    held = [name for name in _CONTAINERS if isinstance(_opened(state.get(name)), Mapping)]
    flat = any(_shape(value) for value in state.values())
    filled = (name for name in held if _holds_arrays(state[name]))
    name = next(filled, None if flat else next(iter(held), None))
    if name is not None:
        return _unwrap(state[name], f"{path}[{name!r}]")
    if all(_shape(value) is None for value in state.values()):
        what = "an optimizer's state" if state.keys() >= _OPTIMIZER else f"{_some(state)}"
        raise ValueError(f"{path}: expected names of arrays, got {what}")
    return state


def _some(names: Iterable[str]) -> str:
    """Show a few names."""
    names = [repr(name) for name in names]
    return ", ".join(names[:3] + ["..."] * (len(names) > 3)) or "nothing"


def _tensor(value: Any) -> paddle.Tensor:
    """Return a Paddle tensor with the value and dtype of another array."""
    if hasattr(value, "detach"):  # PyTorch's, which has no NumPy array of a bfloat16 tensor
        value = value.detach().cpu()
        for resolve in ("resolve_conj", "resolve_neg"):  # which it does when a value is read
            value = getattr(value, resolve, lambda value=value: value)()
        if str(value.dtype) == "torch.bfloat16":
            return paddle.to_tensor(value.float().numpy()).astype("bfloat16")
        if str(value.dtype) == "torch.uint16":  # Paddle takes NumPy's for bfloat16
            raise TypeError("uint16")
        return paddle.to_tensor(value.numpy())
    value = np.asarray(value)
    if value.dtype.name == "bfloat16":  # the ml_dtypes package's
        return paddle.to_tensor(value.astype("float32")).astype("bfloat16")
    return paddle.to_tensor(value)


def _named_tensor(name: str, value: Any) -> paddle.Tensor:
    """Return a Paddle tensor of an array, or say why there is none."""
    if isinstance(value, paddle.Tensor):
        inspect(f"state[{name!r}]", value)
        return value
    if getattr(value, "is_meta", False):
        raise TypeError(f"state: expected tensors that hold values, got a meta tensor, {name}")
    layout = str(getattr(value, "layout", "torch.strided"))
    if layout != "torch.strided":
        raise TypeError(f"state: expected dense tensors, got the layout {layout} of {name}")
    if np.ma.is_masked(value):
        raise TypeError(f"state: expected arrays without masked values, got them in {name}")
    try:
        return _tensor(value)
    except (TypeError, ValueError) as error:  # what PyTorch and Paddle raise of other dtypes
        raise TypeError(
            f"state: expected a dtype that Paddle and NumPy have, got {value.dtype} of {name}"
        ) from error


def _cast(name: str, tensor: paddle.Tensor, dtype: str) -> paddle.Tensor:
    """Cast a tensor to the dtype that the model has; its values may be rounded, not lost."""
    had = dtype_name(tensor.dtype)
    if had == dtype:
        return tensor
    whole = dtype == "bool" or "int" in dtype
    if "complex" in had and "complex" not in dtype:
        raise TypeError(f"state: expected {dtype}, which the model has, got {had} of {name}")
    cast = tensor.astype(dtype)
    wide = "complex128" if "complex" in had else "float64"
    before, after = (one.astype(wide).numpy() for one in (tensor, cast))
    lost = before != after if whole else np.isfinite(before) != np.isfinite(after)
    if lost.any():
        raise ValueError(
            f"state: expected values that {dtype}, which the model has, can hold, got "
            f"{before[lost].flat[0]} in {name}"
        )
    return cast


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

    The parameters are found inside what training scripts save them in (`state_dict`, `params`,
    `model`, `params_ema`, `model_ema`, `state_dict_ema`, `ema`, `ema_state_dict`; averaged ones
    before others, but `state_dict` before `ema_state_dict`, as mmcv's holds them). If the name of
    every array begins with `module.` or `_orig_mod.`, or both, that is cut off. The running
    statistics of batch normalisation, `running_mean` and `running_var`, are Paddle's `_mean` and
    `_variance`; `num_batches_tracked` is left out.

    With a model, its names decide: such a prefix stays where they have it; the convolution that
    predicts offsets may be `<name>_offset` (mmcv's old packs, detectron2),
    `<name>.conv_offset_mask` (CharlesShang's DCNv2, CenterNet, early mmdet) or `<name>.conv_offset`
    in either of them, and stays where the model has it; values get the dtype of the model's; a
    warning tells what is missing or left over. The matrices of its Linear layers, [out, in] in
    PyTorch and [in, out] in Paddle, are transposed unless they are Paddle tensors. Whose NumPy
    arrays are, those that are not square tell; where none does, they count as PyTorch's, of which a
    warning tells. All other layers of Paddle whose parameters have the names and shapes of
    PyTorch's have their layout, too, as has `paddle.compat.nn.Linear`; a matrix that is a parameter
    beside layers stays as it is.

    Without a model, offset convolutions are called `<name>.conv_offset` where `<name>.weight` is
    the weight of a convolution with the same kernel, which is not 1x1, the channels fit, and the
    entry is not itself called `conv_offset`; dtypes and layouts stay, and a warning names the
    matrices that are a Linear layer's, perhaps.

    Args:
        state: A mapping of names to NumPy arrays (uint16 is Paddle's form of bfloat16), PyTorch or
            Paddle tensors, a checkpoint that holds one, a model with a `state_dict()`, or the path
            of a `.safetensors` file.
        model: The Paddle model that is to load the result.

    Returns:
        A dict of Paddle tensors by name, in the order of `state`, then other names that the model
        has for the same parameters, with the attributes `renamed`, `left_over` and `missing`, and
        `report()`, which tells them in a line. The tensors hold their values in static mode, too,
        for the `set_state_dict` of a model there.

    Raises:
        TypeError: `state` is no mapping and no path, `model` no layer, a name no str; a dtype that
            cannot be converted, such as float8, or complex numbers for a real parameter; tensors
            that are sparse or hold no values, masked arrays.
        ValueError: nothing in `state` is an array or fits the model, a path of another kind of file
            or of one that is damaged, values that the dtype of the model's cannot hold, two entries
            that get the same name, or, without a model, a layer of DCNv3 or DCNv4 (see
            `paddle_dcn.compat.internimage`).
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
    """Do what `convert_state_dict` does; without a model transpose all matrices if asked to."""
    targets = matrices = None
    if model is not None:
        if not isinstance(model, paddle.nn.Layer):
            reject_kind("model", "a paddle.nn.Layer or None", model)
        if isinstance(model, paddle.DataParallel):  # whose names are those of what it wraps
            model = model._layers
        targets, matrices = model.state_dict(), set(_matrices(model))
    if not paddle.in_dynamic_mode():  # there, to_tensor would add to the program
        with paddle.base.dygraph.guard():
            return _convert(state, targets, matrices, transposes)
    return _convert(state, targets, matrices, transposes)


def _matrices(layer: paddle.nn.Layer, prefix: str = "") -> Iterator[str]:
    """Yield the names of what is [in, out] in Paddle, where PyTorch has [out, in].

    These are the matrices of Linear layers, also those that weight and spectral normalisation keep
    there, by every name that a shared layer has. Of other layers, convolutions and their transposes
    and recurrent ones among them, the layouts are the same or the names or shapes are not; those of
    paddle.compat have PyTorch's.
    """
    linear = any(
        kind.__name__.endswith("Linear")
        and kind.__module__.startswith("paddle.")
        and not kind.__module__.startswith("paddle.compat.")
        for kind in type(layer).__mro__
    )
    # A FusedLinear may have PyTorch's layout.
    if linear and not getattr(layer, "transpose_weight", False):
        for name, value in layer.named_parameters(include_sublayers=False):
            if len(value.shape) == 2:
                yield prefix + name
    for name, inner in layer._sub_layers.items():
        if inner is not None:
            yield from _matrices(inner, f"{prefix}{name}.")


def _without_prefixes(values: dict[str, Any], targets: Mapping[str, Any] | None) -> dict[str, Any]:
    """Cut off what wrappers put before all names, unless more of them are the model's with it."""
    forms, prefixes = [values], [*_PREFIXES]
    while True:
        arrays = [name for name, value in forms[-1].items() if _shape(value)]
        common = (p for p in prefixes if arrays and all(name.startswith(p) for name in arrays))
        prefix = next(common, None)
        if prefix is None:
            break
        prefixes.remove(prefix)
        forms.append({name.removeprefix(prefix): value for name, value in forms[-1].items()})
    if targets is None:
        return forms[-1]
    return max(forms, key=lambda form: sum(_name_in(targets, name) is not None for name in form))


def _hint(shapes: Mapping[str, tuple[int, ...]], targets: Mapping[str, Any]) -> str:
    """What the names of a checkpoint have before those of the model, if that is one thing."""
    first, target = next(iter(targets.items()), ("", None))
    before = {
        name[: -len(first)]
        for name, shape in shapes.items()
        if target is not None and name.endswith(f".{first}") and shape == tuple(target.shape)
    }
    if len(before) != 1:
        return ""
    return f"; take those that begin with {before.pop()!r}, and cut that off"


def _origin(value: Any) -> str:
    """Return whose layout an array has, "" if that is unknown."""
    if isinstance(value, paddle.Tensor):
        return "paddle"
    return "torch" if hasattr(value, "detach") else ""


def _without_paddles(
    names: list[str], unknown: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> list[str]:
    """Leave out the matrices of unknown layout if their shapes tell that it is Paddle's.

    `unknown` has their shapes in the checkpoint and in the model. Square ones fit both ways.
    """
    oblong = [(have, wanted) for have, wanted in unknown.values() if have != have[::-1]]
    if any(have[::-1] == wanted for have, wanted in oblong):
        return names
    if any(have == wanted for have, wanted in oblong):
        return [name for name in names if name not in unknown]
    if unknown:
        warnings.warn(
            "convert_state_dict: taken for PyTorch's, [out, in], and transposed, as no shape tells "
            f"whose they are: {_some(unknown)}; give those of Paddle as Paddle tensors",
            stacklevel=5,
        )
    return names


def _add_other_names(converted: StateDict, targets: Mapping[str, Any]) -> None:
    """Give a parameter that the model has under several names its value under each of them.

    Recurrent layers have two names for each of theirs. A checkpoint may have one of them only, as
    files of safetensors do.
    """
    given = {id(targets[name]): value for name, value in converted.items()}
    for name, target in targets.items():
        if id(target) in given:
            converted.setdefault(name, given[id(target)])


def _convert(
    state: Any, targets: Mapping[str, Any] | None, matrices: set[str] | None, transposes: bool
) -> StateDict:
    state, whose = _read(state)
    values = _without_prefixes(dict(_unwrap(state)), targets)
    found = {name: _shape(value) for name, value in values.items()}
    shapes = {name: shape for name, shape in found.items() if shape is not None}
    origins = {name: _origin(values[name]) if whose is None else whose for name in shapes}
    wanted = {name: tuple(target.shape) for name, target in (targets or {}).items()}
    if targets is None and not transposes:
        _refuse_later_versions(shapes)
    names = {
        name: _usual_name(name, shapes) if targets is None else _name_in(targets, name)
        for name in shapes
    }

    if targets is None:
        named = (name for name, shape in shapes.items() if len(shape) == 2)
        linear = [name for name in named if f".{name}".endswith(".weight")]
    else:
        linear = [n for n, new in names.items() if new in matrices and len(shapes[n]) == 2]
    foreign = [name for name in linear if origins[name] != "paddle"]
    if targets is not None:
        pairs = {n: (shapes[n], wanted[names[n]]) for n in foreign if not origins[n]}
        foreign = _without_paddles(foreign, pairs)
    elif not transposes:
        if foreign:
            warnings.warn(
                "convert_state_dict: kept as they are, while Linear layers have them transposed in "
                f"Paddle: {_some(foreign)}; give the model, whose layers tell",
                stacklevel=4,
            )
        foreign = []

    final = {name: shape[::-1] if name in foreign else shape for name, shape in shapes.items()}
    converted = StateDict()
    for name, value in values.items():
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        new = names.get(name)
        fits = new is not None and (targets is None or final[name] == wanted[new])
        # What the model calls so itself comes before what would be renamed.
        second = new != name and targets is not None and final.get(new) == wanted.get(new)
        if not fits or second:
            converted.left_over.append(name)
            continue
        if new in converted:
            raise ValueError(f"state: expected one entry for {new}, got a second one, {name}")
        if new != name:
            converted.renamed[name] = new
        tensor = _named_tensor(name, value)
        tensor = tensor.t() if name in foreign else tensor
        converted[new] = (
            tensor if targets is None else _cast(name, tensor, dtype_name(targets[new].dtype))
        )
    if targets is not None:
        _add_other_names(converted, targets)
        converted.missing = [name for name in targets if name not in converted]
    if not converted:
        expected = "entries" if targets is None else f"entries of the model, {_some(targets)}, in "
        expected += " besides num_batches_tracked" if targets is None else "its shapes"
        hint = "" if targets is None else _hint(shapes, targets)
        raise ValueError(f"state: expected {expected}, got {_some(values)}{hint}")
    if targets is not None and (converted.left_over or converted.missing):
        warnings.warn(f"convert_state_dict: {converted.report()}", stacklevel=4)
    return converted
