"""Reads a saved model, of whatever Paddle, into a PIR program; runs and writes such programs."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import pir
from paddle.base import core
from paddle.base.data_feeder import convert_dtype
from paddle.base.proto.framework_pb2 import VarType

from .._checks import dtype_name
from ._words import gist

# What a saved model consists of: its program, and all parameters in one file. A folder has one of
# these; the last two names are those of Paddle 1, which may also keep a file for each parameter.
_PROGRAMS = (".json", ".pdmodel")
_PARAMETERS = ".pdiparams"
_PADDLE_1 = (("__model__", "__params__"), ("model", "params"))

# Operators of Paddle 1 whose successors have a scale for each axis.
_INTERPOLATIONS = {
    f"{kind}_interp" for kind in ("nearest", "linear", "bilinear", "trilinear", "bicubic")
}


class Input(NamedTuple):
    """An input of a program; a size of -1 is open."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Program:
    """A PIR program with its parameters' values."""

    def __init__(self, pir_program: Any, scope: Any) -> None:
        self.pir = pir_program
        self._scope = scope
        self._original: Program | None = None

    def clone(self) -> Program:
        """Return a copy that can be rewritten; it shares the parameters' values, not new ones."""
        copy = Program(self.pir.clone(), self._scope.new_scope())
        copy._original = self  # whose scope must live as long
        return copy

    @property
    def operators(self) -> list[Any]:
        """All operators, those of branches and loops too, in order."""
        return list(operators(self.pir.global_block()))

    @property
    def inputs(self) -> list[Input]:
        """The inputs, in order."""
        return [
            Input(operator.attrs()["name"], tuple(value.shape), dtype_name(value.dtype))
            for operator in self.pir.global_block().ops
            if operator.name() == "pd_op.data"
            for value in operator.results()
        ]

    @property
    def outputs(self) -> dict[str, Any]:
        """The values that leave the program, by name, in order."""
        return {
            operator.attrs()["name"]: operator.operand_source(0)
            for operator in self.pir.global_block().ops
            if operator.name() == "pd_op.fetch"
        }

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Let the block's operators go into this program."""
        with _static(), paddle.static.program_guard(self.pir):
            yield

    def parameter(self, name: str) -> np.ndarray:
        """Return a parameter's value."""
        return np.array(self._scope.find_var(name).get_tensor())

    def add_parameter(self, name: str, array: np.ndarray) -> Any:
        """Add a parameter, under this name if it is free, to the program that is being built."""
        taken = {value.name for value in _parameters(self.pir)}
        while name in taken:
            name += "_"
        with paddle.static.program_guard(self.pir, paddle.static.Program()):
            value = paddle.create_parameter(array.shape, array.dtype.name, name)
        self._scope.var(name).get_tensor().set(array, paddle.CPUPlace())
        return value

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for a feed."""
        with _static(), paddle.static.scope_guard(self._scope):
            executor = paddle.static.Executor(paddle.CPUPlace())
            return executor.run(self.pir, feed=feed, fetch_list=[*self.outputs.values()])

    def write(self, path: Path) -> None:
        """Write `<path>.json` and, if there are parameters, `<path>.pdiparams`."""
        core.serialize_pir_program(self.pir, f"{path}.json", True, False, True)
        if _parameters(self.pir):
            with _static(), paddle.static.scope_guard(self._scope):
                paddle.static.pir_io.save_vars_pir(
                    str(path.parent), self.pir, filename=path.name + _PARAMETERS
                )


def read(program_file: Path, parameters: Path | None) -> Program:
    """Read a program, and its parameters from a file, or from a folder with a file for each."""
    require_pir()
    scope = core.Scope()
    with _static(), paddle.static.scope_guard(scope):
        program = _readable(program_file, _read_program, program_file)
        if _parameters(program):
            if parameters is None:
                raise ValueError(f"model: {program_file} has parameters, whose file is missing")
            combined = parameters.is_file()
            for file in [parameters] if combined else parameters.iterdir():
                if combined or file.name in {each.name for each in _parameters(program)}:
                    _readable(file, _check_complete, file)
            _readable(
                parameters,
                paddle.static.pir_io.load_vars_pir,
                paddle.static.Executor(paddle.CPUPlace()),
                str(parameters.parent if combined else parameters),
                program,
                filename=parameters.name if combined else None,
            )
    return Program(program, scope)


def _readable(file: Path, call: Callable, *arguments: Any, **named: Any) -> Any:
    """Call what reads a file; where Paddle cannot, the error names the file."""
    try:
        return call(*arguments, **named)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's own error
        raise ValueError(
            f"model: Paddle {paddle.__version__} cannot read {file}: {gist(error)}"
        ) from error


def _check_complete(file: Path) -> None:
    """Refuse parameters that are cut off, of which Paddle reads what happens to be in memory.

    A file is one tensor after another: version, level of detail, again a version, the length of
    the description and that, which has dtype and shape, and the elements.
    """
    content = file.read_bytes()
    at = 0
    while at < len(content):
        (levels,) = struct.unpack_from("<4xQ", content, at)
        at += 12
        for _ in range(levels):
            at += 8 + struct.unpack_from("<Q", content, at)[0]
        (length,) = struct.unpack_from("<4xi", content, at)
        at += 8
        tensor = VarType.TensorDesc.FromString(content[at : at + length])
        dtype = convert_dtype(core.VarDesc.VarType(tensor.data_type))
        size = np.dtype({"bfloat16": "uint16"}.get(dtype, dtype)).itemsize
        at += length + math.prod(tensor.dims) * size
    if at != len(content):
        raise ValueError(f"expected {at} bytes, got {len(content)}")


def _read_program(file: Path) -> Any:
    content = file.read_bytes()
    if content[:1] != b"{":
        return _translate(content)
    program = paddle.static.Program()
    core.deserialize_pir_program(str(file), program)
    return program


def require_pir() -> None:
    """Refuse where Paddle's programs are those of Paddle 2."""
    if not hasattr(paddle._C_ops, "_run_custom_op"):
        raise NotImplementedError(f"export needs Paddle 3, this is Paddle {paddle.__version__}")
    if not paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]:
        raise NotImplementedError(
            "export needs the programs of Paddle 3: unset FLAGS_enable_pir_api"
        )


def find(model: Path) -> tuple[Path, Path | None]:
    """Return a saved model's program and where its parameters are, from a folder or a prefix."""
    if model.is_dir():
        for program, parameters in _PADDLE_1:
            if (model / program).is_file():
                combined = model / parameters
                return model / program, combined if combined.is_file() else model
        prefixes = {
            path.with_suffix("") for path in model.iterdir() if path.suffix == _PARAMETERS
        } or {path.with_suffix("") for path in model.iterdir() if path.suffix in _PROGRAMS}
        if len(prefixes) != 1:
            names = ", ".join(sorted(path.name for path in prefixes)) or "none"
            raise ValueError(f"model: expected one saved model in the folder {model}, got {names}")
        (model,) = prefixes
    elif model.is_file() and model.suffix not in (*_PROGRAMS, _PARAMETERS):
        combined = [model.with_name(name) for program, name in _PADDLE_1 if program == model.name]
        return model, next((path for path in combined if path.is_file()), model.parent)
    elif model.suffix in (*_PROGRAMS, _PARAMETERS):
        model = model.with_suffix("")
    for suffix in _PROGRAMS:
        program = model.with_name(model.name + suffix)
        if program.is_file():
            parameters = model.with_name(model.name + _PARAMETERS)
            return program, parameters if parameters.is_file() else None
    raise FileNotFoundError(f"model: found no {model}.json and no {model}.pdmodel")


def operators(block: Any) -> Iterator[Any]:
    """Give the operators of a block and of those inside it, in order."""
    for operator in block.ops:
        yield operator
        for inner in operator.blocks():
            yield from operators(inner)


def kind(operator: Any) -> str:
    """Return an operator's name without dialect, in place or not; "" where a loop gives a value."""
    return "" if operator is None else operator.name().partition(".")[2].removesuffix("_")


def replace(operator: Any, emit: Callable[[], Any]) -> None:
    """Put what `emit` returns in the place of an operator's first result, unless it is None.

    What it emits belongs to the layer of the operator. One whose other results are used stays.
    """
    if not all(result.use_empty() for result in operator.results()[1:]):
        return
    block = operator.get_parent_block()
    known = {each.id() for each in block.ops}
    pir.set_insertion_point(operator)
    new = emit()
    if new is None:
        return
    for each in block.ops:
        if each.id() not in known:
            name_layer(each, operator.attrs().get("struct_name", ""))
    operator.result(0).replace_all_uses_with(new)
    block.remove_op(operator)


def remove_unused(operators: Sequence[Any]) -> None:
    """Remove operators, and those that only they read, unless their results are used."""
    pending = [(each.id(), each) for each in operators]
    removed = set()  # there must be no look at an operator that is gone
    while pending:
        number, operator = pending.pop()
        if number in removed or operator.name() == "pd_op.data":
            continue
        if all(result.use_empty() for result in operator.results()):
            sources = [each for each in operator.operands_source() if each.initialized()]
            makers = [each.get_defining_op() for each in sources]
            pending += [(each.id(), each) for each in makers if each is not None]
            operator.get_parent_block().remove_op(operator)
            removed.add(number)


def name_layer(operator: Any, name: str) -> None:
    """Note the layer that an operator is in."""
    operator.set_str_attr("struct_name", name)


def layer_of(operator: Any) -> str:
    """Return the layer that an operator is in, as noted here or, by kinds, by Paddle, or ''."""
    name = operator.attrs().get("struct_name", "")
    if not name.startswith("/"):
        return name
    return re.sub(r"_\d+(?=/|$)", "", name.strip("/"))  # without Paddle's counters


def where(operator: Any) -> str:
    """Return " of layer ..." where the program tells it."""
    layer = layer_of(operator)
    return f" of layer {layer}" if layer else ""


def size_of(tensor: Any, axis: int) -> Any:
    """Return a size: an int, or a tensor where the program that is being built leaves it open."""
    size = tensor.shape[axis]
    return size if size >= 0 else paddle.shape(tensor)[axis]


@contextlib.contextmanager
def _static() -> Iterator[None]:
    """Be in static mode; unlike `paddle.enable_static` this leaves the counters of names alone."""
    with paddle.base.framework._dygraph_guard(None):
        yield


def _parameters(program: Any) -> Sequence[Any]:
    parameters, others = paddle.static.pir_io.get_pir_parameters(program)
    return [value for value in parameters + others if value.persistable]


def _modernise(operator: Any) -> None:
    """Turn an operator of Paddle 1 that PIR has no name for into its successor."""
    name = operator.type()
    if name == "deformable_conv_v1":
        operator.set_type("deformable_conv")
    elif name in _INTERPOLATIONS:
        operator.set_type(f"{name}_v2")
        scale = operator.attr("scale") if operator.has_attr("scale") else 0.0
        axes = 1 if name == "linear_interp" else 3 if name == "trilinear_interp" else 2
        operator._set_attr("scale", [scale] * axes if scale > 0 else [])


def _translate(content: bytes) -> Any:
    """Return the PIR program for one of Paddle 1 or 2."""
    old = core.ProgramDesc(content)
    blocks = [old.block(index) for index in range(old.num_blocks())]
    operators = [block.op(index) for block in blocks for index in range(block.op_size())]
    if not any(operator.type() == "fetch" for operator in operators):
        raise ValueError("it is no program with outputs")  # what other files are taken for
    for operator in operators:
        _modernise(operator)
    program = pir.translate_to_pir(old)
    # Paddle 3 loads models whose inputs are this operator.
    with paddle.static.program_guard(program):
        for operator in program.global_block().ops:
            if operator.name() == "pd_op.feed":
                (value,) = operator.results()
                pir.set_insertion_point(operator)
                data = paddle._pir_ops.data(
                    operator.attrs()["name"], value.shape, value.dtype, core.Place()
                )
                value.replace_all_uses_with(data)
                program.global_block().remove_op(operator)
    return program
