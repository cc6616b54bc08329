"""Models for every runtime: this operator, Paddle's own, ONNX in two forms, OpenVINO.

There is one mechanism. A model is saved as `paddle.jit.save` does it, or was saved already, by
whatever Paddle; its program is read, and each deformable convolution in it is rewritten into the
form that the target has.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paddle import Tensor
from paddle.utils import flatten

from .. import _checks
from . import (
    _files,
    _forms,
    _fusing,
    _locate,
    _onednn,
    _paddle_onnx,
    _programs,
    _tracing,
    _verify,
    _words,
)

__all__ = ["Conversion", "convert", "onnx", "openvino", "save_portable"]

# What each target writes.
TARGETS = {
    "fast": (".json", ".pdiparams"),
    "portable": (".json", ".pdiparams"),
    "onnx": (".onnx",),
    "grid_sample": (".onnx",),
    "openvino": (".xml", ".bin"),
}
# Versions of ONNX's operators: from the first with what the form needs to the last that is tested.
_OPSETS = {"onnx": range(19, 23), "grid_sample": range(16, 23)}
_PACKAGES = {
    "onnx": ("export", ("onnx", "packaging", "paddle2onnx")),
    "grid_sample": ("export", ("onnx", "packaging", "paddle2onnx")),
    "openvino": ("openvino", ("onnx", "openvino", "packaging", "paddle2onnx")),
}


class Conversion(NamedTuple):
    """What `convert` has found and done."""

    layers: list[str]
    """A line for each deformable convolution: layer, version, shapes, groups, operator."""
    files: list[Path]
    """What was written."""
    difference: float | None
    """How far outputs were from the model's, as a share of the largest value; None: not run."""
    fused: dict[str, int] = {}
    """Of how many deformable convolutions what was fused, by name, and how many plain ones are
    computed by this package; {} for all but "fast"."""
    refused_by_onednn: list[str] = []
    """For Paddle: what needs `config.disable_mkldnn()` in a predictor on the CPU, Paddle's too."""


def save_portable(
    model: Any, path: str | os.PathLike, input_spec: Sequence, verify: bool | Sequence = True
) -> list[Path]:
    """Save a model so that Paddle loads it without this package.

    As `paddle.jit.save`, with Paddle's own `deformable_conv` in place of this package's operator,
    and standard operators around it for what that one lacks: padding that differs between the
    sides, NHWC, half types (computed in float32, as here), mixed dtypes, and output channels that
    the deformable groups do not divide. `paddle.jit.load`, `paddle.inference`, also from C++, and
    `paddle.static.load_inference_model` load it. Outputs agree up to rounding; the one exception
    is a NaN or infinite mask value where a sample lies outside the image, which is ignored here
    and not by Paddle. What a predictor on the CPU cannot run with oneDNN, NHWC models among it, is
    told in a warning; `config.disable_mkldnn()` helps. Export from one thread at a time.

    Args:
        model: A layer, or a function, with or without `paddle.jit.to_static`; also one that
            `paddle.jit.load` gives, or that has such layers. As with `paddle.jit.save`, BatchNorm
            and Dropout are saved as they are in eval mode, whatever the mode; code that asks for
            `training` sees the mode that the model is in.
        path: Where to save, with or without suffix.
        input_spec: For each input a `paddle.static.InputSpec`, in which None leaves a size open, or
            an example tensor.
        verify: As for `onnx`; what is written is run in Paddle.

    Returns:
        The files: `<path>.json`, the program, and `<path>.pdiparams`, the parameters, if any. An
        older model's are replaced or removed.

    Raises:
        TypeError: a model, path or input_spec of a wrong kind.
        ValueError: a model that cannot be traced with this input_spec, or has an output that is no
            tensor, a path that names no file. Or what is written does not compute what the model
            does.
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
    path = _files.file_path(path)
    program, feeds = _trace_and_feed(model, input_spec, verify)
    done = _write(program, path, "portable", 0, feeds)
    if done.refused_by_onednn:
        warnings.warn(f"{_onednn.ADVICE} {', '.join(done.refused_by_onednn)}", stacklevel=2)
    return done.files


def onnx(
    model: Any,
    path: str | os.PathLike,
    input_spec: Sequence,
    opset: int = 19,
    form: str = "deform_conv",
    verify: bool | Sequence = True,
) -> Path:
    """Save a model as ONNX, in one of two forms.

    `form="deform_conv"` has the standard operator `DeformConv`, with a mask, equal padding at both
    ends and one dtype: what ONNX Runtime from 1.25 and TensorRT's parser from 10.1 take.
    `form="grid_sample"` is for all other runtimes: `GridSample`, which most have optimised, and
    standard operators around it. Sizes that input_spec leaves open stay open in both.

    Needs the packages of an extra: `pip install 'paddle_dcn[export]'`. paddle2onnx converts the
    model, in a process of its own; what it is known to get wrong, or not to know, is rewritten
    before. The file is then run, in ONNX Runtime where that is installed and else in the onnx
    package's reference, and compared with the model. The same model gives the same bytes.

    Outputs agree up to rounding, except, as with `save_portable`, for a NaN or infinite mask value
    where a sample lies outside the image, and for NaN or infinite offsets; `log_softmax`, which
    Paddle cuts off at -64 on the CPU, is exact. GridSample takes positions as shares of the image,
    which float32 rounds: by up to 2**-22 of its size, 0.002 pixels of 8000. `data_format="NHWC"` is
    fine for `deform_conv2d` and `DeformConv2D`, but not for the packs: paddle2onnx converts no
    ordinary convolution in NHWC. Export from one thread at a time.

    Args:
        model: A layer, or a function, with or without `paddle.jit.to_static`; also one that
            `paddle.jit.load` gives, or that has such layers. As with `paddle.jit.save`, BatchNorm
            and Dropout are saved as they are in eval mode, whatever the mode; code that asks for
            `training` sees the mode that the model is in.
        path: The file; `.onnx` is appended where it is missing.
        input_spec: For each input a `paddle.static.InputSpec`, in which None leaves a size open, or
            an example tensor.
        opset: Version of ONNX's operators: 19, the first with DeformConv, to 22; from 16, the first
            with GridSample, for `form="grid_sample"`.
        form: `"deform_conv"` or `"grid_sample"`.
        verify: Whether to run the file beside the model: on random inputs, with two sizes for each
            open one, and on some 30 times as large where the model's outputs stay finite; if
            input_spec has example tensors only, on these, with and without noise. A list of inputs,
            each a tuple of arrays, is used instead. The model is also compared with what
            `paddle.jit.save` makes of it: in eval mode, or with its own code in the mode that it is
            in and Paddle's layers in eval mode.

    Returns:
        The file.

    Raises:
        ImportError: the extra is missing.
        TypeError: an argument of a wrong kind.
        ValueError: a model that cannot be traced with this input_spec, or has an output that is no
            tensor, a path that names no file, an opset or form that there is not. Or outputs of
            the file differ from the model's; the error names the first operator, and its layer,
            that does.
        NotImplementedError: a model with an operator that paddle2onnx cannot convert, that the
            opset lacks, such as convolutions in bfloat16 before 22, or that the runtime cannot run;
            names it, the layer that it comes from, and a dtype that may be the cause. Or inputs or
            outputs in bfloat16. Or Paddle is older than 3.
        OSError: a path that cannot be written. No file is left behind.

    Examples:
        >>> import paddle, paddle_dcn
        >>> layer = paddle_dcn.DeformConv2DPack(3, 8, 3, padding=1)
        >>> spec = [paddle.static.InputSpec([None, 3, None, None])]
        >>> file = paddle_dcn.export.onnx(layer, "model.onnx", spec)  # doctest: +SKIP

    """
    forms = {"deform_conv": "onnx", "grid_sample": "grid_sample"}
    if form not in forms:
        raise ValueError(f"form: expected {' or '.join(map(repr, forms))}, got {form!r}")
    target = forms[form]
    _need_packages("export.onnx", target)
    opset = _check_opset(opset, target)
    path = _files.file_path(path)
    program, feeds = _trace_and_feed(model, input_spec, verify)
    return _write(program, path, target, opset, feeds).files[0]


def openvino(
    model: Any, path: str | os.PathLike, input_spec: Sequence, verify: bool | Sequence = True
) -> list[Path]:
    """Save a model as OpenVINO's IR, with its operator DeformableConvolution-8.

    OpenVINO loads it without an extension, as its own ONNX reader loads no `DeformConv`. Needs the
    packages of an extra: `pip install 'paddle_dcn[openvino]'`. All else is as with `onnx`.

    Args:
        model: As for `onnx`.
        path: Where to save, with or without suffix.
        input_spec: As for `onnx`.
        verify: As for `onnx`; the files are run in OpenVINO, in float32.

    Returns:
        The files: `<path>.xml` and `<path>.bin`.

    Raises:
        ImportError: the extra is missing.
        Exception: what `onnx` raises.

    Examples:
        >>> import paddle, paddle_dcn
        >>> layer = paddle_dcn.DeformConv2DPack(3, 8, 3, padding=1)
        >>> spec = [paddle.static.InputSpec([None, 3, None, None])]
        >>> files = paddle_dcn.export.openvino(layer, "model", spec)  # doctest: +SKIP

    """
    _need_packages("export.openvino", "openvino")
    path = _files.file_path(path)
    program, feeds = _trace_and_feed(model, input_spec, verify)
    return _write(program, path, "openvino", 0, feeds).files


def convert(
    model: Any,
    out: str | os.PathLike,
    to: str,
    input_spec: Sequence | None = None,
    *,
    opset: int = 19,
    verify: bool | Sequence = True,
    fuse: bool = True,
) -> Conversion:
    """Convert a model, also one that is saved already, to a form for another runtime.

    Reads models of Paddle 1, 2 and 3, with Paddle's `deformable_conv`, the `deformable_conv_v1` of
    Paddle 1, or this package's operator. Names of parameters, names and order of inputs and outputs
    are kept; what it reads is not changed.

    On the command line: `python -m paddle_dcn convert MODEL --to onnx`.

    Args:
        model: A folder with one model, or the path of a model with or without suffix: `.json` or
            `.pdmodel` beside `.pdiparams`, or `__model__` beside `__params__` or a file for each
            parameter. Or what `save_portable` takes.
        out: What is written, with or without suffix.
        to: `"fast"`: this package's operator, for Paddle with this package loaded, `<out>.json` and
            `<out>.pdiparams`; `"portable"`: Paddle's own operator, the same files; `"onnx"` and
            `"grid_sample"`: the two forms of ONNX, `<out>.onnx`; `"openvino"`: `<out>.xml` and
            `<out>.bin`.
        input_spec: For a model that is not saved, as for `save_portable`.
        opset: Version of ONNX's operators, as for `onnx`.
        verify: As for `onnx`; also runs what is written for Paddle.

        fuse: For `"fast"`: whether to use the operator for inference, which has no gradients and
            runs on the CPU. It takes in a bias, BatchNorm and relu, relu6 or leaky_relu behind the
            convolution, reads offset and mask from the tensor that they are parts of, bounds
            offsets by a tangent and adds flow to them as BasicVSR++ does, and reorders weights
            once: they must not change after the first run. Where an output has other users or
            weights are computed, that is left as it is. Where Paddle's relu makes 0 of NaN, NaN
            stays NaN. Ordinary convolutions of 3x3 in float32, without stride, dilation and groups,
            of 18 channels and outputs or more, are computed by Winograd's minimal filtering, with
            the same behind them and the addition of a tensor of the same sizes; a NaN or infinite
            pixel reaches the 4x4 tiles that it touches. leaky_relu, and interpolation (nearest by
            powers of two, and bilinear) of NCHW, become operators that Paddle 3.3's predictors with
            oneDNN can run.

    Returns:
        What was found and done: `layers`, `files`, `difference`, `fused`, `refused_by_onednn`.

    Raises:
        FileNotFoundError: there is no such model.
        Exception: what `onnx` raises.

    Examples:
        >>> import tempfile
        >>> import paddle, paddle_dcn
        >>> layer = paddle.nn.Sequential(paddle_dcn.DeformConv2DPack(3, 8, 3, padding=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     spec = [paddle.static.InputSpec([None, 3, None, None])]
        ...     paddle.jit.save(layer, f"{folder}/model", spec)
        ...     done = paddle_dcn.export.convert(f"{folder}/model", f"{folder}/stock", "portable")
        >>> [file.name for file in done.files]
        ['stock.json', 'stock.pdiparams']
        >>> done.layers[0].partition(",")[0]
        'DeformConv2DPack: v1'

    """
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}")
    fuse = _checks.check_flag("fuse", fuse)
    _need_packages(f"convert to {to}", to)
    if to in _OPSETS:
        opset = _check_opset(opset, to)
    out = _files.file_path(out)
    if isinstance(model, (str, os.PathLike)):
        if not os.fspath(model):  # pathlib takes it for the current folder
            raise ValueError("model: expected the path of a model, got ''")
        sources = _programs.find(Path(model))
        for file in _targets(out, to):
            if any(each is not None and file.resolve() == each.resolve() for each in sources):
                raise ValueError(f"out: {file} is the model itself")
        program = _programs.read(*sources)
        feeds = _feeds(verify, program, ())
    else:
        program, feeds = _trace_and_feed(model, input_spec, verify)
    return _write(program, out, to, opset, feeds, fuse)


def _trace(model: Any, input_spec: Any) -> _programs.Program:
    """Return the program of a model that is not saved."""
    with _files.temporary_folder() as scratch:
        _tracing.save(model, scratch / "model", input_spec)
        return _programs.read(*_programs.find(scratch / "model"))


def _trace_and_feed(model: Any, input_spec: Any, verify: Any) -> tuple[_programs.Program, Any]:
    """Return a model's program, compared with the model, and what to verify with."""
    program = _trace(model, input_spec)
    feeds = _feeds(verify, program, input_spec)
    if feeds is not None:
        feed = feeds[0] if feeds else _verify.random_feed(program)
        _verify.verify_traced(program, _tracing.untraced(model), input_spec, feed)
    return program, feeds


def _targets(path: Path, to: str) -> list[Path]:
    """Return what is written for a path, which may have one of the suffixes already."""
    if path.suffix in TARGETS[to] or (path.suffix == ".pdmodel" and ".json" in TARGETS[to]):
        path = path.with_suffix("")
    return [path.with_name(path.name + suffix) for suffix in TARGETS[to]]


def _write(
    program: _programs.Program,
    path: Path,
    to: str,
    opset: int,
    feeds: list | None,
    fuse: bool = False,
) -> Conversion:
    """Write a program for a target; unless feeds is None, run what was written beside it."""
    if to in _PACKAGES:
        _check_borders(program)
    layers = _forms.describe(program)
    targets = _targets(path, to)
    path = targets[0].with_name(targets[0].name.removesuffix(TARGETS[to][0]))
    write, load = _runtime(to, opset, fuse)
    difference = None
    with _files.staged(targets) as folder:
        with _locate.explained(program, write, load):
            done = write(program, folder / path.name)
        if feeds is not None:
            difference = _verify.verify(program, write, load, folder / path.name, feeds)
    files = [target for target in targets if target.exists()]
    return Conversion(layers, files, difference, **(done or {}))


def _check_borders(program: _programs.Program) -> None:
    """Refuse what no other runtime takes from or gives to NumPy."""
    borders = [("input", name, dtype) for name, _, dtype in program.inputs]
    borders += [
        ("output", name, _checks.dtype_name(value.dtype)) for name, value in program.outputs.items()
    ]
    for kind, name, dtype in borders:
        if dtype == "bfloat16":
            raise NotImplementedError(
                f"model: its {kind} {name} is in bfloat16, which NumPy lacks: export the float32 "
                "model, or cast inside"
            )


def _runtime(to: str, opset: int, fuse: bool = False) -> tuple[Callable, Callable]:
    """Return what writes a program to a path without suffix, and what loads that to run it.

    The former returns what `Conversion` tells of it besides, if anything.
    """
    if to in _OPSETS:
        from . import _onnx  # imports onnx

        form = _forms.deform_conv if to == "onnx" else _forms.grid_sample
        return functools.partial(_onnx.write, form=form, opset=opset), _onnx.load
    if to == "openvino":
        from . import _openvino  # imports openvino

        return _openvino.write, _openvino.load

    def write(program: _programs.Program, path: Path) -> dict[str, Any]:
        program = program.clone()
        fused = {}
        if to == "fast" and fuse:
            fused = _fusing.fuse(program)
            _onednn.rewrite(program)
        refused = _onednn.refused(program)
        _forms.rewrite(program, _forms.fast if to == "fast" else _forms.portable)
        program.write(path)
        return {"fused": fused, "refused_by_onednn": refused}

    def load(path: Path) -> Callable[[dict], list]:
        written = _words.refusing("Paddle cannot load", _programs.read, *_programs.find(path))
        return functools.partial(_words.refusing, "Paddle cannot run", written.run)

    return write, load


def _feeds(verify: Any, program: _programs.Program, input_spec: Sequence) -> list[dict] | None:
    """Return the inputs to verify with: none at all, [] for random ones, or those given."""
    if isinstance(verify, bool):
        examples = flatten(list(input_spec))
        if not verify:
            return None
        if not examples or not all(isinstance(each, Tensor) for each in examples):
            return []
        # Examples may be zeros, which tell little.
        rng = np.random.default_rng(0)
        arrays = [each.numpy() for each in examples]
        verify = [
            arrays,
            [
                a + rng.standard_normal(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a
                for a in arrays
            ],
        ]
    if not isinstance(verify, (list, tuple)):
        raise TypeError(f"verify: expected a bool or a list of inputs, got {type(verify).__name__}")
    if not verify:
        raise ValueError("verify: expected a bool or a list of inputs, got an empty one")
    feeds: list[dict] = []
    for index, arrays in enumerate(verify):
        if not isinstance(arrays, (list, tuple)):
            raise ValueError(
                f"verify[{index}]: expected a tuple of {len(program.inputs)} arrays, got "
                f"{type(arrays).__name__}"
            )
        if len(arrays) != len(program.inputs):
            raise ValueError(
                f"verify[{index}]: expected {len(program.inputs)} arrays, got {len(arrays)}"
            )
        feeds.append({})
        for each, array in zip(program.inputs, map(np.asarray, arrays)):
            dtype = each.dtype.replace("bfloat16", "uint16")  # which NumPy lacks: its bits
            if array.dtype != dtype:
                raise ValueError(
                    f"verify[{index}]: expected {each.dtype} for the input {each.name}, got "
                    f"{array.dtype}"
                )
            feeds[-1][each.name] = array
    return feeds


def _check_opset(opset: Any, to: str) -> int:
    number, expected = _checks.integer(opset), _OPSETS[to]
    wanted = f"an int from {expected[0]} to {expected[-1]}"
    if number is None:
        _checks.reject_kind("opset", wanted, opset)
    if number not in expected:
        raise ValueError(f"opset: expected {wanted}, got {number}")
    return number


def _need_packages(what: str, to: str) -> None:
    extra, packages = _PACKAGES.get(to, ("", ()))
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{what} needs {' and '.join(missing)}: run pip install 'paddle_dcn[{extra}]'"
        )


_paddle_onnx.install(convert)
