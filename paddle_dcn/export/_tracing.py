"""Saves a layer or function as `paddle.jit.save` does, with errors that tell the layer."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn, pir
from paddle.jit import TranslatedLayer
from paddle.jit.dy2static.convert_call_func import convert_call
from paddle.jit.dy2static.program_translator import StaticFunction
from paddle.static import InputSpec

from .._checks import dtype_name
from ._programs import name_layer, operators, require_pir
from ._words import advice, gist


def save(model: Any, path: Path, input_spec: Sequence) -> None:
    """Do what `paddle.jit.save` does."""
    require_pir()
    _check_spec(input_spec)
    model = untraced(model)
    inside: list[str] = []  # the layers that tracing is in; an error leaves them
    spec = paddle.utils.map_structure(_nameless, list(input_spec))
    try:
        with _forgotten_records(), _watched(model, inside):
            paddle.jit.save(_with_distinct_outputs(model), str(path), input_spec=spec)
    except OSError:
        raise
    except Exception as error:
        if gist(error).startswith("model: "):
            raise ValueError(gist(error)) from error
        if "is not involved in the target_vars" in str(error):
            raise ValueError("model: an input contributes to no output") from error
        if "state_var_dict" in str(error):  # a variable of jit.save that then is not assigned
            raise ValueError(
                f"model: {_name(model)} uses the parameters of a layer, or another tensor that it "
                "is not given, so it must be the method of a layer that holds them"
            ) from error
        raise ValueError(
            f"model: {_name(model)} cannot be traced with the input_spec {_show(input_spec)}"
            f"{f', at layer {inside[-1]}' if inside else ''}: {gist(error)}"
            f"{advice(_dtypes(model, input_spec), '; it is ')}"
        ) from error


def _nameless(spec: InputSpec | Tensor) -> InputSpec:
    """Return an example without the name that Paddle gave it, which differs from run to run.

    The input then gets the name of the argument, as that of an InputSpec without a name.
    """
    if isinstance(spec, InputSpec):
        return spec
    name = None if re.fullmatch(r"(generated_tensor|eager_tmp)_\d+", spec.name) else spec.name
    return InputSpec(spec.shape, spec.dtype, name, stop_gradient=spec.stop_gradient)


def _with_distinct_outputs(model: Any) -> Any:
    """Return a model all of whose outputs are saved, in order.

    `paddle.jit.save` saves a value that is returned twice once, drops what is no tensor, and takes
    an input or a parameter, plus a constant, for that input or parameter.
    """
    original = model.forward if isinstance(model, nn.Layer) else model
    parameters = [*inspect.signature(original).parameters.values()]

    def forward(*arguments: Any, **named: Any) -> Any:
        outputs = _distinct(convert_call(original)(*arguments, **named))
        for value in paddle.utils.flatten([arguments, named]):
            if isinstance(value, pir.Value) and value.use_empty():
                raise ValueError(f"model: the input {value.name} contributes to no output")
        return outputs

    if not isinstance(model, nn.Layer):
        forward.__signature__ = inspect.Signature(parameters)
        return paddle.jit.not_to_static(forward)

    def method(self: nn.Layer, *arguments: Any, **named: Any) -> Any:
        return forward(*arguments, **named)

    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([me, *parameters])
    return _with_forward(model, paddle.jit.not_to_static(method))


def _distinct(outputs: Any) -> Any:
    """Return a model's outputs, each a value of its own that an operator makes."""
    known: list[Any] = []
    leaves = paddle.utils.flatten(outputs)
    while leaves and leaves[-1] is None:  # shifts no other output
        leaves.pop()
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, pir.Value):
            raise ValueError(f"model: output {index} is {leaf!r:.80}, not a tensor")
        operator = leaf.get_defining_op()
        if any(leaf.is_same(each) for each in known) or (
            operator is None or operator.name() in ("pd_op.data", "pd_op.scale") or leaf.persistable
        ):
            leaves[index] = paddle.assign(leaf)
        known.append(leaf)
    missing = [None] * (len(paddle.utils.flatten(outputs)) - len(leaves))
    return paddle.utils.pack_sequence_as(outputs, [*leaves, *missing])


@contextlib.contextmanager
def _watched(model: Any, inside: list[str]) -> Iterator[None]:
    """Note which of a model's sublayers are being run, and name their operators by them."""
    hooks = []
    known: set[int] = set()  # the operators that are named, or in no sublayer

    def name_operators() -> None:
        if paddle.in_dynamic_mode():
            return
        for operator in operators(pir.get_current_insertion_point().block()):
            if operator.id() not in known:
                known.add(operator.id())
                if inside:
                    name_layer(operator, inside[-1])

    def enter(name: str, *_: Any) -> None:
        name_operators()
        inside.append(name)

    def leave(*_: Any) -> None:
        name_operators()
        inside.pop()

    try:
        for name, layer in model.named_sublayers() if isinstance(model, nn.Layer) else ():
            shown = f"{name} ({type(layer).__name__})"
            hooks.append(layer.register_forward_pre_hook(functools.partial(enter, shown)))
            hooks.append(layer.register_forward_post_hook(leave))
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


def untraced(model: Any) -> Any:
    """Return a model that is yet to be traced, so that no trace is shared with the given one."""
    if isinstance(model, TranslatedLayer):
        raise TypeError(
            "model: Paddle 3 cannot save again what it has loaded from a .pdmodel file; give the "
            "file's path to export.convert"
        )
    if not (isinstance(model, (nn.Layer, StaticFunction)) or inspect.isroutine(model)):
        raise TypeError(f"model: expected a layer or a function, got {type(model).__name__}")
    if isinstance(model, paddle.DataParallel):
        model = model._layers
    if isinstance(model, StaticFunction):
        model = model.dygraph_function
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Layer):  # jit.save takes parameters from layers, not from methods
        return _with_forward(owner, model.__func__)
    if isinstance(model, nn.Layer) and isinstance(model.forward, StaticFunction):
        return _with_forward(model, model.forward.dygraph_function.__func__)
    if isinstance(model, nn.Layer) and type(model.forward).__name__ == "WeakMethod":
        # What Paddle 3.0 makes of the forward of a layer inside another stays there.
        return _with_forward(model, model._original_funcs["forward"])
    return model


@contextlib.contextmanager
def modes_saved(model: Any) -> Iterator[list[Callable[[], None]]]:
    """Give what puts a model into each of the modes that a saved program may be in.

    These are eval mode, and, if it is not in that, the mode of a trace: Paddle's layers in eval
    mode, code of one's own as it was. Modes, buffers and the random state are restored.
    """
    layers = model.sublayers(include_self=True) if isinstance(model, nn.Layer) else []
    were = [layer.training for layer in layers]
    buffers = [each for layer in layers[:1] for each in layer.buffers()] if any(were) else []
    buffers = [each for each in buffers if each._is_initialized()]  # those of RNNs need not be
    values = [each.clone() for each in buffers]
    state = paddle.get_rng_state()

    def put(traced: bool) -> None:
        for layer, was in zip(layers, were):
            layer.training = traced and was and not type(layer).__module__.startswith("paddle.")

    try:
        yield [
            functools.partial(put, traced) for traced in ((False, True) if any(were) else (False,))
        ]
    finally:
        for layer, was in zip(layers, were):
            layer.training = was
        for buffer, value in zip(buffers, values):
            buffer.set_value(value)
        paddle.set_rng_state(state)


def has_stale_weights(model: Any) -> bool:
    """Return whether layers compute weights before they run, which a trace does not see."""
    layers = model.sublayers(include_self=True) if isinstance(model, nn.Layer) else []
    hooks = [hook for layer in layers for hook in layer._forward_pre_hooks.values()]
    return any(type(hook).__name__ in ("WeightNorm", "SpectralNorm") for hook in hooks)


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


def _dtypes(model: Any, input_spec: Sequence) -> set[str]:
    parameters = model.parameters() if isinstance(model, nn.Layer) else []
    return {dtype_name(each.dtype) for each in paddle.utils.flatten([*input_spec, *parameters])}


def _show(input_spec: Sequence) -> str:
    """Return the shapes and dtypes of input_spec."""
    shown = [f"{[*leaf.shape]} {leaf.dtype}" for leaf in paddle.utils.flatten(list(input_spec))]
    return f"({', '.join(shown)})".replace("paddle.", "")
