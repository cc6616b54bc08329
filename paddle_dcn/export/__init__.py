"""Saves trained models for programs without this package: stock Paddle, ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle import Tensor

from .. import _checks, _patch
from . import _lowering, _tracing

__all__ = ["onnx", "save_portable"]

_OPSETS = range(19, 23)  # from the first with DeformConv to the last that is tested


def save_portable(model: Any, path: str | os.PathLike, input_spec: Sequence) -> list[Path]:
    """Save a model so that Paddle loads it without this package.

    As `paddle.jit.save`, with Paddle's own `deformable_conv` in place of this package's operator,
    and standard operators around it for what that one lacks: padding that differs between the
    sides, NHWC, half types (computed in float32, as here), mixed dtypes, and output channels that
    the deformable groups do not divide. `paddle.jit.load`, `paddle.inference`, also from C++, and
    `paddle.static.load_inference_model` load it. Outputs agree up to rounding; the one exception
    is a NaN or infinite mask value where a sample lies outside the image, which is ignored here
    and not by Paddle. In a predictor on the CPU switch oneDNN off for NHWC models, as for Paddle's
    own: `config.disable_mkldnn()`. Export from one thread at a time.

    Args:
        model: A layer, or a function, with or without `paddle.jit.to_static`. As with
            `paddle.jit.save`, BatchNorm and Dropout are saved as they are in eval mode, whatever
            the mode; code that asks for `training` sees the mode that the model is in.
        path: Where to save, without suffix.
        input_spec: For each input a `paddle.static.InputSpec`, in which None leaves a size open, or
            an example tensor.

    Returns:
        The files: `<path>.json`, the program, and `<path>.pdiparams`, the parameters, if any. An
        older model's are replaced or removed.

    Raises:
        TypeError: a model, path or input_spec of a wrong kind.
        ValueError: a model that cannot be traced with this input_spec, a path that names no file.
        NotImplementedError: Paddle is older than 3.
        OSError: a path that cannot be written. No file is left behind.

    Examples:
        >>> import tempfile
        >>> import paddle, paddle_dcn
        >>> layer = paddle_dcn.DeformConv2DPack(3, 8, 3, padding=1)
        >>> spec = [paddle.static.InputSpec([None, 3, None, None])]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = paddle_dcn.export.save_portable(layer, f"{folder}/model", spec)
        ...     loaded = paddle.jit.load(f"{folder}/model")
        >>> [file.name for file in files]
        ['model.json', 'model.pdiparams']
        >>> list(loaded(paddle.rand([1, 3, 16, 16])).shape)
        [1, 8, 16, 16]

    """
    path = _tracing.file_path(path)
    targets = [path.with_name(path.name + suffix) for suffix in (".json", ".pdiparams")]
    with _tracing.staged(targets) as folder:
        _tracing.save(model, folder / path.name, input_spec, _lowering.portable)
    return [target for target in targets if target.exists()]


def onnx(model: Any, path: str | os.PathLike, input_spec: Sequence, opset: int = 19) -> Path:
    """Save a model as ONNX, with the standard operator `DeformConv`.

    Needs the packages of an extra: `pip install 'paddle_dcn[export]'`. paddle2onnx converts the
    model, in a process of its own; what it loses of deformable convolutions, this package's and
    Paddle's own, is put back: deformable groups, bias, a missing mask, the padding of each side.
    (Only a call of Paddle's function that `patch` does not reach needs a mask.) Sizes that
    input_spec leaves open stay open. The same model gives the same bytes.

    Outputs agree up to rounding, except, as with `save_portable`, for a NaN or infinite mask value
    where a sample lies outside the image. `data_format="NHWC"` is fine for `deform_conv2d` and
    `DeformConv2D`, but not for the packs: paddle2onnx converts no ordinary convolution in NHWC.
    Export from one thread at a time.

    Args:
        model: A layer, or a function, with or without `paddle.jit.to_static`. As with
            `paddle.jit.save`, BatchNorm and Dropout are saved as they are in eval mode, whatever
            the mode; code that asks for `training` sees the mode that the model is in.
        path: The file; `.onnx` is appended where it is missing.
        input_spec: For each input a `paddle.static.InputSpec`, in which None leaves a size open, or
            an example tensor.
        opset: Version of ONNX's operators, from 19, the first with DeformConv, to 22.

    Returns:
        The file.

    Raises:
        ImportError: the extra is missing.
        TypeError: a model, path, input_spec or opset of a wrong kind.
        ValueError: a model that cannot be traced with this input_spec, a path that names no file,
            an opset out of range.
        NotImplementedError: a model that paddle2onnx cannot convert; where it does not know an
            operator, names that and the layer that it comes from. Or a model that needs what the
            opset lacks, such as convolutions in bfloat16 before 22. Or Paddle is older than 3.
        OSError: a path that cannot be written. No file is left behind.

    Examples:
        >>> import paddle, paddle_dcn
        >>> layer = paddle_dcn.DeformConv2DPack(3, 8, 3, padding=1)
        >>> spec = [paddle.static.InputSpec([None, 3, None, None])]
        >>> file = paddle_dcn.export.onnx(layer, "model.onnx", spec)  # doctest: +SKIP

    """
    missing = [name for name in ("onnx", "paddle2onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"export.onnx needs {' and '.join(missing)}: run pip install 'paddle_dcn[export]'"
        )
    number = _checks.integer(opset)
    expected = f"an int from {_OPSETS[0]} to {_OPSETS[-1]}"
    if number is None:
        _checks.reject_kind("opset", expected, opset)
    if number not in _OPSETS:
        raise ValueError(f"opset: expected {expected}, got {number}")
    from . import _onnx  # imports onnx

    path = _tracing.file_path(path)
    target = path if path.suffix == ".onnx" else path.with_name(path.name + ".onnx")
    calls: list[_onnx.Call] = []

    def lower(*tensors: Tensor | None, **attributes: Any) -> Tensor:
        mark = _onnx.FIRST_MARK + len(calls)
        _, _, mask, _, bias = tensors
        calls.append(_onnx.Call(modulated=mask is not None, biased=bias is not None))
        return _lowering.for_onnx(mark, *tensors, **attributes)

    with _tracing.staged([target]) as folder, _tracing.temporary_folder() as scratch:
        with _patch.patched():  # so that `lower` gets the calls of Paddle's own function, too
            origins = _tracing.save(model, scratch / "model", input_spec, lower)
        (folder / target.name).write_bytes(_onnx.convert(scratch / "model", number, calls, origins))
    return target
