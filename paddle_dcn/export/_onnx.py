"""Converts a saved program with paddle2onnx and puts back what that loses of DeformConv."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import paddle
from onnx import helper, numpy_helper, version_converter

from ._tracing import Origins

# The n-th call's `im2col_step` is this plus n: it survives in the program, reaches no batch size,
# and has no counterpart in ONNX.
FIRST_MARK = 1 << 20

_OPSET = 19  # newer ones are left to onnx's own converter: paddle2onnx ends the process at 22

# Without `optimize_tool` paddle2onnx would install packages.
_SCRIPT = f"""
import sys, paddle2onnx, paddle2onnx.utils
print("known:", *paddle2onnx.utils.get_all_supported_operators_pir(), flush=True)
program, parameters, target = sys.argv[1:]
model = paddle2onnx.export(
    program, parameters, None, opset_version={_OPSET}, optimize_tool="none"
)
open(target, "wb").write(model)
"""


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


class Call(NamedTuple):
    """What a program of Paddle's own operators no longer says about a call of ours."""

    modulated: bool
    biased: bool


def convert(program: Path, opset: int, calls: Sequence[Call], origins: Origins) -> bytes:
    """Return the ONNX file for a program that `_lowering.for_onnx` has emitted."""
    with paddle.base.dygraph.guard():  # jit.load refuses static mode
        loaded = paddle.jit.load(str(program)).program()  # its operators do not keep it alive
    used = list(_operators(loaded.global_block()))
    model = _run_paddle2onnx(program, [operator.name() for operator in used], origins)
    operators = [operator for operator in used if operator.name() == "pd_op.deformable_conv"]
    nodes = list(_nodes(model.graph))
    if len(nodes) != len(operators):
        raise RuntimeError(f"paddle2onnx made {len(nodes)} DeformConv of {len(operators)}")
    for (graph, node), operator in zip(nodes, operators):
        _repair(graph, node, operator, calls)
    _remove_unused(model.graph)
    try:
        if opset != _OPSET:
            model = version_converter.convert_version(model, opset)
        onnx.checker.check_model(model, full_check=True)
    except _UNFIT as error:
        why = str(error).strip().splitlines()[0]
        raise NotImplementedError(
            f"model: opset {opset} of ONNX lacks what it needs: {why}"
        ) from error
    return model.SerializeToString(deterministic=True)


def _run_paddle2onnx(program: Path, used: Sequence[str], origins: Origins) -> onnx.ModelProto:
    """Run paddle2onnx in a process of its own, as what it cannot convert ends the process."""
    target = program.with_suffix(".onnx")
    files = [str(program.with_suffix(suffix)) for suffix in (".json", ".pdiparams")]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *files, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode == 0:
        return onnx.load(target)
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)  # without colours
    said = [line.strip() for line in plain.splitlines() if line.strip()]
    known = {name for line in said if line.startswith("known: ") for name in line.split()} | _KNOWN
    for name in used if len(known) > len(_KNOWN) else ():
        dialect, _, operator = name.partition(".")
        if dialect not in ("builtin", "cf") and operator not in known:
            layer = origins.layer_of(name)
            raise NotImplementedError(
                f"model: paddle2onnx cannot convert the operator {operator}"
                f"{f' of layer {layer}' if layer else ''}"
            )
    errors = [line for line in said if re.search(r"\[ERROR\]|^\w*Error: ", line)] or said[-1:]
    why = re.sub(r"^.*\[ERROR\]\s*", "", errors[0]) if errors else f"exit status {done.returncode}"
    raise NotImplementedError(f"model: paddle2onnx cannot convert it: {why}")


def _operators(block: Any) -> Iterator[Any]:
    """Give a block's operators, and those of the blocks inside it, in order."""
    for operator in block.ops:
        yield operator
        for inner in operator.blocks():
            yield from _operators(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, onnx.NodeProto]]:
    """Give the DeformConv nodes in order, each with its graph."""
    for node in graph.node:
        if node.op_type == "DeformConv":
            yield graph, node
        for inner in _subgraphs(node):
            yield from _nodes(inner)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]


def _repair(
    graph: onnx.GraphProto, node: onnx.NodeProto, operator: Any, calls: Sequence[Call]
) -> None:
    """Complete a node with what its operator, and the call behind that, say."""
    attributes = operator.attrs()
    present = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    expected = (attributes["strides"], attributes["dilations"], attributes["groups"])
    weight = operator.operand_source(2)
    named = weight.get_defining_op().name() == "builtin.parameter"
    if (present["strides"], present["dilations"], present["group"]) != expected or (
        named and not weight.name.startswith(node.input[1])  # loading appends a number
    ):
        raise RuntimeError(f"paddle2onnx changed the order of DeformConv: {node.name}")

    _set(node, "offset_group", attributes["deformable_groups"])
    inputs = [*node.input[:3], "", node.input[4]]  # paddle2onnx adds a bias of zeros
    mark = attributes["im2col_step"] - FIRST_MARK
    if mark >= 0:
        call = calls[mark]
        if not call.modulated:
            inputs[4] = ""
        producers = {name: each for each in graph.node for name in each.output}
        _take_in_padding(node, inputs, producers)
        if call.biased:
            _take_in_bias(graph, node, inputs, producers)
    while not inputs[-1]:
        inputs.pop()
    node.input[:] = inputs


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    for each in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(each)
    node.attribute.append(helper.make_attribute(name, value))


def _take_in_padding(node: onnx.NodeProto, inputs: list[str], producers: dict) -> None:
    """Move the zeros that a Pad before the node adds around images into its attribute."""
    pad = producers.get(inputs[0])
    if pad is None or pad.op_type != "Pad":
        return
    ends, value = (producers.get(name) for name in pad.input[1:3])
    if ends is None or value is None or {ends.op_type, value.op_type} != {"Constant"}:
        return
    begin_n, begin_c, top, left, end_n, end_c, bottom, right = _constant(ends).tolist()
    if not any((begin_n, begin_c, end_n, end_c, *_constant(value).flatten())):
        inputs[0] = pad.input[0]
        _set(node, "pads", [top, left, bottom, right])


def _take_in_bias(
    graph: onnx.GraphProto, node: onnx.NodeProto, inputs: list[str], producers: dict
) -> None:
    """Make the bias that is added after the node an input of it."""
    readers = [each for each in graph.node if node.output[0] in each.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return
    (column,) = (name for name in readers[0].input if name != node.output[0])
    reshape = producers.get(column)
    if reshape is not None and reshape.op_type == "Reshape":
        inputs[3] = reshape.input[0]
        node.output[0] = readers[0].output[0]
        graph.node.remove(readers[0])


def _constant(node: onnx.NodeProto):
    return numpy_helper.to_array(helper.get_attribute_value(node.attribute[0]))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Give the names that a node and the graphs inside it read."""
    yield from node.input
    for graph in _subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes that contribute to no output, as the repairs leave some behind."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
