"""The one call of the raw operators, in whatever mode Paddle is."""

from __future__ import annotations

import functools

import paddle
from paddle import Tensor
from paddle.base import core
from paddle.base.framework import OpProtoHolder
from paddle.base.layer_helper import LayerHelper
from paddle.profiler.utils import in_profiler_mode

from . import _library  # noqa: F401  (registers the operators)
from ._checks import HAS_DEVICES, Attributes, Call, Inference, dtype_name


def _append(name: str, *arguments):
    """Add the operator to a program of Paddle 2's kind, whose operators are called by names."""
    proto = OpProtoHolder.instance().get_op_proto(name)
    helper = LayerHelper(name)
    out = helper.create_variable_for_type_inference(arguments[0].dtype)
    inputs = {}
    for key, tensor in zip(proto.inputs, arguments):
        # Paddle 2 cannot build the backward of a custom operator with an input that stops the
        # gradient, so it gets a copy that does not.
        inputs[key.name] = paddle.assign(tensor) if tensor.stop_gradient else tensor
        inputs[key.name].stop_gradient = False
    attributes = zip(proto.attrs, arguments[len(inputs) :])
    attrs = {key.name: value for key, value in attributes}
    helper.append_op(type=name, inputs=inputs, outputs={"out": out}, attrs=attrs)
    return out


# Paddle 2 has the function elsewhere.
_run_custom_op = getattr(paddle._C_ops, "_run_custom_op", None) or core.eager._run_custom_op


def run_raw(name: str, *arguments):
    """Call an operator with its inputs and attributes in order, in whatever mode Paddle is."""
    dynamic = paddle.in_dynamic_mode()
    if dynamic and in_profiler_mode():  # which names only the gradients of a custom operator
        event = core._RecordEvent(name, core.TracerEventType.Operator)
        try:
            return _run_custom_op(name, *arguments)[0]
        finally:
            event.end()
    if dynamic or paddle.framework.in_pir_mode():
        return _run_custom_op(name, *arguments)[0]
    return _append(name, *arguments)  # where Paddle 3's function would end the process


_WEIGHT, _UNIT_WEIGHT, _PLANES_LAST = 8, 32, 64  # bits of the operator's last attribute


def _in_order(attributes: Attributes, gradient_mask: int = 0) -> tuple:
    """Return the operator's attributes, of which bits of the last tell of weight and planes."""
    *values, weighted, planes_last = attributes
    if not weighted:
        gradient_mask = gradient_mask & ~_WEIGHT | _UNIT_WEIGHT
    return *values, gradient_mask | planes_last * _PLANES_LAST


def has_weight(gradient_mask: int) -> bool:
    """Tell by the last attribute whether there is a weight, and not only ones."""
    return not gradient_mask & _UNIT_WEIGHT


def deform_conv2d(call: Call) -> Tensor:
    """Run the operator, or add it to the program that is being built."""
    dynamic = paddle.in_dynamic_mode()
    x, offset, mask, weight, bias, attributes = call
    # Which gradients backward computes: a bit for each tensor of the call, by its place in it.
    gradient_mask = 0
    for bit, tensor in zip((1, 2, 4, _WEIGHT, 16), call):
        # A program may change stop_gradient after this call, so there every gradient is computed.
        if tensor is not None and not (dynamic and tensor.stop_gradient):
            gradient_mask |= bit
    bias = _no_bias(call) if bias is None else bias
    if dynamic and x.is_dist():
        attributes = _of_one_process(call)
    values = _in_order(attributes, gradient_mask)
    if mask is None:
        return run_raw("paddle_dcn_v1", x, offset, weight, bias, *values)
    return run_raw("paddle_dcn_v2", x, offset, mask, weight, bias, *values)


def _of_one_process(call: Call) -> Attributes:
    """Return the attributes of what each process computes of a call with distributed tensors.

    Where channels and offsets are spread over a mesh dimension by whole deformable groups, and not
    filters, each has its share of the groups. `custom_ops/paddle/spmd.h` sees that by the number.
    """
    x, offset, mask, weight, _, attributes = call
    groups, last = attributes.deformable_groups, attributes.data_format == "NHWC"
    others = [each.placements or () for each in (weight, offset, mask) if each is not None]
    for processes, channels, filters, *planes in zip(x.process_mesh.shape, x.placements, *others):
        spread = channels.is_shard(3 if last else 1) and all(each.is_shard(1) for each in planes)
        whole = attributes.groups == 1 and groups % processes == 0
        if spread and whole and not filters.is_shard(0):
            return attributes._replace(deformable_groups=groups // processes)
    return attributes


def infer(call: Call, inference: Inference, flow: Tensor | None = None) -> Tensor:
    """Add the operator for inference, which has no gradients, to the program, or run it.

    `flow`, [N, 2 * flows, Ho, Wo], is added to offsets: each y and x to those of as many
    deformable groups as the others.
    """
    x, offset, mask, weight, bias, attributes = call
    bias = _no_bias(call) if bias is None else bias
    inputs = (x, offset, mask, weight, bias, flow)
    return run_raw("paddle_dcn_inference", *inputs, *_in_order(attributes), *inference)


def plain_conv2d(call: Call, inference: Inference, addend: Tensor | None) -> Tensor:
    """Add the plain 3x3 convolution for inference to the program, or run it."""
    bias = _no_bias(call) if call.bias is None else call.bias
    inputs = (call.x, call.weight, bias, addend)
    return run_raw("paddle_dcn_plain", *inputs, call.attributes.padding, *inference[2:])


@functools.lru_cache(maxsize=64)
def _kept_zeros(size: int, dtype: str) -> Tensor:
    return paddle.zeros([size], dtype)


def _no_bias(call: Call) -> Tensor:
    """Return zeros in place of a bias that there is none of."""
    weight = call.weight
    if paddle.in_dynamic_mode():
        # The quickest way is to keep them: on the CPU, as a GPU may be recording a graph, and not
        # beside distributed tensors, of whose kind Paddle makes any other where it is.
        if not HAS_DEVICES and not any(each is not None and each.is_dist() for each in call[:4]):
            return _kept_zeros(weight.shape[0], dtype_name(weight.dtype))
        return paddle._C_ops.full([weight.shape[0]], 0.0, weight.dtype, weight.place)
    filters = weight.shape[0]  # a program may leave it open
    shape = [filters] if filters >= 0 else paddle.shape(weight)[:1]
    return paddle.zeros(shape, weight.dtype)
