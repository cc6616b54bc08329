"""Traces a model with another operator in place of this package's, and puts files into place."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.jit import TranslatedLayer
from paddle.jit.dy2static.program_translator import StaticFunction
from paddle.static import InputSpec

from .. import _ops

try:
    from paddle.jit.pir_translated_layer import PirTranslatedLayer
except ImportError:  # Paddle 2.6 has none
    PirTranslatedLayer = TranslatedLayer


class Origins:
    """Which layer each operator of a model's program comes from."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int]] = []
        self._spans: list[tuple[int, int, str]] = []
        self._program: Any = None

    def layer_at_fault(self) -> str | None:
        """Return the layer in which tracing stopped."""
        return self._open[-1][0] if self._open else None

    def layer_of(self, operator: str) -> str | None:
        """Return the innermost layer that emitted the first operator of this name."""
        names = [op.name() for op in self._program.global_block().ops] if self._program else []
        if operator not in names:
            return None
        at = names.index(operator)
        around = [(end - start, name) for start, end, name in self._spans if start <= at < end]
        return min(around)[1] if around else None

    def _enter(self, name: str, *_: Any) -> None:
        if not paddle.in_dynamic_mode():
            self._program = paddle.static.default_main_program()
            self._open.append((name, len(self._program.global_block().ops)))

    def _leave(self, *_: Any) -> None:
        if not paddle.in_dynamic_mode():
            name, start = self._open.pop()
            self._spans.append((start, len(self._program.global_block().ops), name))

    @contextlib.contextmanager
    def watch(self, model: Any) -> Iterator[None]:
        """Follow a model's sublayers while it is traced."""
        hooks = []
        try:
            for name, layer in model.named_sublayers() if isinstance(model, nn.Layer) else ():
                enter = functools.partial(self._enter, f"{name} ({type(layer).__name__})")
                hooks.append(layer.register_forward_pre_hook(enter))
                hooks.append(layer.register_forward_post_hook(self._leave))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def save(model: Any, path: Path, input_spec: Sequence, lower: Callable[..., Tensor]) -> Origins:
    """Do what `paddle.jit.save` does, with `lower` emitting each call of the operator."""
    if not hasattr(paddle._C_ops, "_run_custom_op"):
        raise NotImplementedError(f"export needs Paddle 3, this is Paddle {paddle.__version__}")
    _check_spec(input_spec)
    model = _untraced(model)
    origins = Origins()
    token = _ops.substitute.set(lower)
    try:
        with _forgotten_records(), origins.watch(model):
            paddle.jit.save(model, str(path), input_spec=list(input_spec))
    except OSError:
        raise
    except Exception as error:
        if "state_var_dict" in str(error):  # a variable of jit.save that then is not assigned
            raise ValueError(
                f"model: {_name(model)} uses the parameters of a layer, so it must be its method"
            ) from error
        where = origins.layer_at_fault()
        raise ValueError(
            f"model: {_name(model)} cannot be traced with the input_spec {_show(input_spec)}"
            f"{f', at layer {where}' if where else ''}: {_gist(error)}"
        ) from error
    finally:
        _ops.substitute.reset(token)
    return origins


@contextlib.contextmanager
def _forgotten_records() -> Iterator[None]:
    """Make Paddle forget what a trace has recorded, also where the trace fails.

    Paddle keeps a program's parameters and in-place writes under the id of the program, and drops
    them only when its trace succeeds: a later program at the same address would get variables that
    are gone, and crash.
    """
    known = [set(record) for record in _records()]
    try:
        yield
    finally:
        for record, keys in zip(_records(), known):
            for key in record.keys() - keys:
                del record[key]


def _records() -> tuple[dict, ...]:
    """Return what Paddle has recorded of programs being traced, by the program's id."""
    for package in ("dy2static", "pir_dy2static"):  # the latter in Paddle 3.0
        with contextlib.suppress(ImportError):
            found = importlib.import_module(f"paddle.jit.{package}.parameter_recorder")
            recorder, inplace = found._global_parameter_recorder, found._global_inplace_map
            return recorder.params_dict, recorder.tensor2value, inplace.params_dict
    return ()


def _untraced(model: Any) -> Any:
    """Return a model that is yet to be traced, so that no trace is shared with the given one."""
    if isinstance(model, (TranslatedLayer, PirTranslatedLayer)) or not (
        isinstance(model, (nn.Layer, StaticFunction)) or inspect.isroutine(model)
    ):
        raise TypeError(
            "model: expected a layer or a function that Python code defines, "
            f"got {type(model).__name__}"
        )
    if isinstance(model, paddle.DataParallel):
        model = model._layers
    if isinstance(model, StaticFunction):
        model = model.dygraph_function
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Layer):  # jit.save takes parameters from layers, not from methods
        return _with_forward(owner, model.__func__)
    if isinstance(model, nn.Layer) and isinstance(model.forward, StaticFunction):
        return _with_forward(model, model.forward.dygraph_function.__func__)
    return model


def _with_forward(layer: nn.Layer, forward: Callable) -> nn.Layer:
    """Return a layer that shares everything with the given one except its forward."""
    twin = copy.copy(layer)
    object.__setattr__(twin, "forward", forward.__get__(twin))
    return twin


def _check_spec(input_spec: Any) -> None:
    if not isinstance(input_spec, (list, tuple)):
        raise TypeError(
            f"input_spec: expected a list of InputSpec or tensors, got {type(input_spec).__name__}"
        )
    for index, spec in enumerate(input_spec):
        for leaf in paddle.utils.flatten(spec):
            if not isinstance(leaf, (InputSpec, Tensor)):
                raise TypeError(
                    f"input_spec[{index}]: expected InputSpec or a tensor, "
                    f"got {type(leaf).__name__} {leaf!r}"
                )


def _name(model: Any) -> str:
    return model.__name__ if inspect.isroutine(model) else type(model).__name__


def _show(input_spec: Sequence) -> str:
    """Return the shapes and dtypes of input_spec."""
    shown = [f"{[*leaf.shape]} {leaf.dtype}" for leaf in paddle.utils.flatten(list(input_spec))]
    return f"({', '.join(shown)})".replace("paddle.", "")


def _gist(error: Exception) -> str:
    """Return the sentence of an error that Paddle wraps into pages of traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(\w*Error: |\(\w+\) )", line)]
    return re.sub(r"^\w*Error: ", "", (telling or lines or [type(error).__name__])[-1])


def file_path(path: Any) -> Path:
    """Return a path, where it names a file; a folder beside it may have the same name."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"path: expected a str or os.PathLike, got {type(text).__name__}")
    if not os.path.basename(text):
        raise ValueError(f"path: expected the name of a file, got {text!r}")
    return Path(text)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Give a folder that is removed with all it holds."""
    with tempfile.TemporaryDirectory(prefix=".paddle_dcn-", dir=parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def staged(targets: Sequence[Path]) -> Iterator[Path]:
    """Give a folder for files named as the targets; on success they take the targets' places.

    A target that the folder has no file for is removed: it belongs to an older model.
    """
    parent = targets[0].parent
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"path: expected a file, got the folder {target}")
    parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(parent) as folder:
        yield folder
        for target in targets:
            if (folder / target.name).exists():
                os.replace(folder / target.name, target)
            else:
                target.unlink(missing_ok=True)
