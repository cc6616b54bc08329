"""Makes ONNX of a program: paddle2onnx's file, with what that loses or writes wrongly mended."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
from onnx import helper, numpy_helper, version_converter

from . import _files, _forms, _standard
from ._programs import Program, where
from ._words import Refusal, refusing

# paddle2onnx ends the process at 22, so newer ones are left to onnx's own converter.
_NEWEST = 19

# What paddle2onnx knows, besides its list: operators that this list calls by older names, and what
# programs consist of besides operators.
_KNOWN = {
    *("add add_n subtract multiply divide floor_divide remainder maximum minimum").split(),
    *("min max mean sum prod any all numel argmax argmin topk matmul nonzero arange").split(),
    *("expand flatten squeeze unsqueeze hardswish hardsigmoid grid_sample batch_norm_").split(),
    *("assign_value_ repeat_interleave_with_tensor_index").split(),
    *("data feed fetch if while print").split(),
}

# What onnx raises where an opset has not all that a model needs.
_UNFIT = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    version_converter.ConvertError,
)


def convert(program: Program, form: Callable, opset: int) -> bytes:
    """Return the ONNX file of a program, its deformable convolutions in the given form."""
    (made,) = convert_all([program], form, opset)
    if isinstance(made, NotImplementedError):
        raise made
    return made


def convert_all(
    programs: Sequence[Program], form: Callable, opset: int
) -> list[bytes | NotImplementedError]:
    """Return for each program the ONNX file or why there is none, from one run of paddle2onnx."""
    with _files.temporary_folder() as scratch:
        rewritten = [program.clone() for program in programs]
        prefixes = [scratch / str(number) for number in range(len(programs))]
        made: dict[Path, bytes | NotImplementedError] = {}
        for program, prefix in zip(rewritten, prefixes):
            try:
                _prepare(program, form, prefix)
            except NotImplementedError as error:
                made[prefix] = error
        _run_paddle2onnx([each for each in prefixes if each not in made], min(opset, _NEWEST))
        for program, prefix in zip(rewritten, prefixes):
            try:
                if prefix not in made:
                    made[prefix] = _finish(_load(prefix, program), program, opset)
            except NotImplementedError as error:
                made[prefix] = error
        return [made[prefix] for prefix in prefixes]


def _prepare(program: Program, form: Callable, prefix: Path) -> None:
    """Rewrite a program into what paddle2onnx converts right, and write it."""
    _forms.rewrite(program, form)
    _standard.rewrite(program)
    program.write(prefix)
    _narrow_attributes(prefix.with_suffix(".json"))


def _finish(model: onnx.ModelProto, program: Program, opset: int) -> bytes:
    """Mend what paddle2onnx has made of a program, and return the file."""
    _mend(model.graph)
    _restore_scalars(model.graph)
    _restore_offset_groups(model.graph, _forms.deformable(program))
    _remove_unused(model.graph)
    model.producer_name = "paddle_dcn"
    try:
        if opset > _NEWEST:
            model = version_converter.convert_version(model, opset)
        onnx.checker.check_model(model, full_check=True)
    except _UNFIT as error:
        verb = f"paddle2onnx writes wrongly, or opset {opset} of ONNX lacks,"
        raise Refusal(verb, " ".join(str(error).split())) from error
    return model.SerializeToString(deterministic=True)


def write(program: Program, path: Path, form: Callable, opset: int) -> None:
    """Write `<path>.onnx`."""
    Path(f"{path}.onnx").write_bytes(convert(program, form, opset))


def load(path: Path) -> Callable[[dict], list]:
    """Return what runs a written file: ONNX Runtime, or the reference where it is too old."""
    file = f"{path}.onnx"
    nodes = list(_deform_nodes(onnx.load(file).graph))
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        version = [int(part) for part in onnxruntime.__version__.split(".")[:2]]
        if version >= [1, 25] or not nodes:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            session = refusing(
                "ONNX Runtime cannot load",
                onnxruntime.InferenceSession,
                file,
                options,
                providers=["CPUExecutionProvider"],
            )
            return functools.partial(refusing, "ONNX Runtime cannot run", session.run, None)
    evaluator = refusing("onnx cannot load", onnx.reference.ReferenceEvaluator, file)
    return functools.partial(refusing, "onnx cannot run", evaluator.run, None)


def _run_paddle2onnx(prefixes: Sequence[Path], opset: int) -> None:
    """Run paddle2onnx on saved programs, in a process of its own."""
    script = Path(__file__).with_name("_paddle2onnx.py")
    done = subprocess.run(
        [sys.executable, script, str(opset), *map(str, prefixes)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode != 0:  # models are converted in forks of it, so it was not even imported
        why = done.stderr.strip().rpartition("\n")[2]
        raise ImportError(f"paddle2onnx does not start ({why}): pip install 'paddle_dcn[export]'")


def _narrow_attributes(program: Path) -> None:
    """Write float64 attributes as float32: paddle2onnx reads them as such whatever they are."""

    def narrow(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("#") == "0.a_f64":
                node["#"] = "0.a_f32"
            node = node.values()
        elif not isinstance(node, list):
            return
        for inner in node:
            narrow(inner)

    content = json.loads(program.read_text())
    narrow(content)
    program.write_text(json.dumps(content))


def _load(prefix: Path, program: Program) -> onnx.ModelProto:
    """Return what paddle2onnx has made, or raise an error that tells what it could not convert."""
    target = prefix.with_suffix(".onnx")
    if target.exists():
        return onnx.load(target)
    log = prefix.with_suffix(".log").read_text(errors="replace")
    plain = re.sub(r"\x1b\[[\d;]*m", "", log)  # without colours
    said = [line.strip() for line in plain.splitlines() if line.strip()]
    known = {name for line in said if line.startswith("known: ") for name in line.split()} | _KNOWN
    for operator in program.operators if len(known) > len(_KNOWN) else ():
        dialect, _, name = operator.name().partition(".")
        if dialect not in ("builtin", "cf") and name not in known:
            raise NotImplementedError(
                f"model: paddle2onnx cannot convert the operator {name}{where(operator)}"
            )
    errors = [line for line in said if re.search(r"\[ERROR\]|^\w*Error: ", line)] or said[-1:]
    why = (
        re.sub(r"^.*\[ERROR\](\[Paddle2ONNX\])?\s*", "", errors[0]) if errors else "no reason told"
    )
    raise Refusal("paddle2onnx cannot convert", re.sub(r"^\[OP: [\w.]+\]\s*", "", why))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Give a graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in _subgraphs(node):
            yield from _graphs(inner)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]


def _deform_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Give the DeformConv nodes in order."""
    for node in graph.node:
        if node.op_type == "DeformConv":
            yield node
        for inner in _subgraphs(node):
            yield from _deform_nodes(inner)


def _restore_offset_groups(graph: onnx.GraphProto, operators: Sequence[Any]) -> None:
    """Write the deformable groups, which paddle2onnx forgets, into the nodes."""
    nodes = list(_deform_nodes(graph))
    for node, operator in zip(nodes, operators):
        present = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        attributes = operator.attrs()
        expected = (attributes["strides"], attributes["dilations"], attributes["groups"])
        if (present["strides"], present["dilations"], present["group"]) != expected:
            raise RuntimeError(f"paddle2onnx changed the order of DeformConv: {node.name}")
        for each in [each for each in node.attribute if each.name == "offset_group"]:
            node.attribute.remove(each)
        node.attribute.append(
            helper.make_attribute("offset_group", attributes["deformable_groups"])
        )
    if len(nodes) != len(operators):
        raise RuntimeError(f"paddle2onnx made {len(nodes)} DeformConv of {len(operators)}")


def _mend(graph: onnx.GraphProto) -> None:
    """Mend what paddle2onnx writes against the standard, and take biases into DeformConv."""
    for inner in _graphs(graph):
        nodes = []
        for node in inner.node:
            if node.op_type == "Range":  # its inputs must be scalars
                for index, name in enumerate(node.input):
                    scalar = f"{node.output[0]}.input{index}"
                    shape = f"{scalar}.shape"
                    nodes.append(
                        helper.make_node(
                            "Constant",
                            [],
                            [shape],
                            value=numpy_helper.from_array(np.zeros(0, np.int64)),
                        )
                    )
                    nodes.append(helper.make_node("Reshape", [name, shape], [scalar]))
                    node.input[index] = scalar
            nodes.append(node)
        producers = {name: each for each in nodes for name in each.output}
        for node in [each for each in nodes if each.op_type == "DeformConv"]:
            _take_in_bias(nodes, node, producers)
        del inner.node[:]
        inner.node.extend(nodes)


def _restore_scalars(graph: onnx.GraphProto) -> None:
    """Give outputs without axes that shape: what paddle2onnx computes may have one of size 1."""
    for output in graph.output:
        kind = output.type.tensor_type
        if not kind.HasField("shape") or kind.shape.dim:
            continue
        inner, shape = f"{output.name}.computed", f"{output.name}.shape"
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output.name else name for name in names]
        none = numpy_helper.from_array(np.zeros(0, np.int64))
        graph.node.append(helper.make_node("Constant", [], [shape], value=none))
        graph.node.append(helper.make_node("Reshape", [inner, shape], [output.name]))


def _take_in_bias(nodes: list[onnx.NodeProto], node: onnx.NodeProto, producers: dict) -> None:
    """Make a bias that is added after the node an input of it, in place of paddle2onnx's zeros."""
    readers = [each for each in nodes if node.output[0] in each.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return
    (column,) = (name for name in readers[0].input if name != node.output[0])
    reshape = producers.get(column)
    if reshape is None or reshape.op_type != "Reshape":
        return
    shape = producers.get(reshape.input[1])
    while shape is not None and shape.op_type == "Identity":
        shape = producers.get(shape.input[0])
    if shape is not None and shape.op_type == "Constant":
        if numpy_helper.to_array(shape.attribute[0].t).tolist() == [1, -1, 1, 1]:
            node.input[3] = reshape.input[0]
            node.output[0] = readers[0].output[0]
            nodes.remove(readers[0])


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that contribute to no output."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [each for each in graph.initializer if each.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Give the names that a node and the graphs inside it read."""
    yield from node.input
    for graph in _subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _reads(inner)
