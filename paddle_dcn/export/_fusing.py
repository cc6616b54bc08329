"""Puts operators for inference into a program, which take in what stands around convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle

from .. import _ops
from .._checks import Attributes, Call, Inference, dtype_name
from . import _forms
from ._programs import Program, kind, remove_unused, replace


@dataclasses.dataclass
class _Site:
    """A deformable convolution, and what an operator in the place of `operator` is to compute."""

    operator: Any
    call: Call
    inference: Inference
    flows: Sequence[Any] = ()  # that are added to offsets of a deformable convolution
    addend: Any = None  # of a plain convolution


def fuse(program: Program, savings: Sequence[str] | None = None) -> dict[str, int]:
    """Put operators for inference in the place of convolutions and what they take in.

    Returns for each of the savings (all of `SAVINGS` by default) how many had something to save:
    deformable convolutions, and for "plain" the plain ones.
    """
    savings = SAVINGS if savings is None else savings
    counts = dict.fromkeys(savings, 0)
    with program.building():
        for operator in _forms.deformable(program):
            call, inference, flow = _forms.read(operator)
            site = _Site(operator, call, inference, () if flow is None else (flow,))
            taken = [name for name in savings if name != PLAIN and _AROUND[name](program, site)]
            for name in taken:
                counts[name] += 1
            if taken:
                _put(operator, site, lambda site=site: _infer(site))
        convolutions = [each for each in program.operators if each.name() == "pd_op.conv2d"]
        for operator in convolutions if PLAIN in savings else ():
            site = _plain(program, operator)
            if site is not None:
                counts[PLAIN] += 1
                _put(
                    operator,
                    site,
                    lambda site=site: _ops.plain_conv2d(site.call, site.inference, site.addend),
                )
    return counts


def _infer(site: _Site) -> Any:
    *others, flow = site.flows or (None,)
    flow = paddle.concat([*others, flow], axis=1) if others else flow
    return _ops.infer(site.call, site.inference, flow)


def _put(operator: Any, site: _Site, emit: Callable[[], Any]) -> None:
    """Put what `emit` returns in the place of a convolution and what it takes in."""
    sources = _sources(site.operator)
    site.operator.set_str_attr("struct_name", operator.attrs().get("struct_name", ""))
    replace(site.operator, emit)
    remove_unused(sources)


def _plain(program: Program, operator: Any) -> _Site | None:
    """Return a plain convolution that is computed faster here, with all that it takes in."""
    x, weight = operator.operands_source()
    attributes = operator.attrs()
    channels, outputs = weight.shape[1], weight.shape[0]
    padding = attributes["paddings"]
    if (
        weight.shape[2:] != [3, 3]
        or attributes["strides"] != [1, 1]
        or attributes["dilations"] != [1, 1]
        or attributes["groups"] != 1
        or attributes["padding_algorithm"] != "EXPLICIT"
        or attributes["data_format"] != "NCHW"
        or dtype_name(weight.dtype) != "float32"
        or kind(weight.get_defining_op()) != "parameter"
        or min(channels, outputs) < _FEWEST
    ):
        return None
    top, bottom, left, right = padding if len(padding) == 4 else np.repeat(padding, 2).tolist()
    call = Call(x, None, None, weight, None, Attributes(padding=(top, bottom, left, right)))
    site = _Site(operator, call, Inference(constant=True))
    _fold(program, site)
    _residual(program, site)
    _activation(program, site)
    # oneDNN pools what is not in its own layout many times more slowly, but not for a mean.
    pools = [user for user in site.operator.result(0).all_used_ops() if kind(user) == "pool2d"]
    if not all(_averages_images(program, pool) for pool in pools):
        parameters = (site.call.weight, site.call.bias)
        remove_unused([each.get_defining_op() for each in parameters if each is not None])
        return None
    for pool in pools:
        replace(pool, lambda pool=pool: pool.operand_source(0).mean([2, 3], keepdim=True))
    return site


def _averages_images(program: Program, pool: Any) -> bool:
    """Return whether pooling makes a pixel of each image, the mean of all."""
    attributes = pool.attrs()
    size = _known(program, pool.operand_source(1))
    one = attributes["adaptive"] and size is not None and [*size] == [1, 1]
    whole = one or attributes["global_pooling"]
    return whole and (attributes["pooling_type"], attributes["data_format"]) == ("avg", "NCHW")


def _residual(program: Program, site: _Site) -> None:
    """Take in the addition of a tensor of the same sizes behind."""
    user = _only_user(site.operator)
    if user is None or kind(user) != "add":
        return
    out = site.operator.result(0)
    (addend,) = [each for each in user.operands_source() if not each.is_same(out)]
    if _same_sizes(program, addend, out):
        site.operator, site.addend = user, addend


def _same_sizes(program: Program, one: Any, other: Any) -> bool:
    """Return whether two tensors with four axes surely have the same sizes, and dtype."""
    if len(one.shape) != 4 or min(one.shape[1:]) < 0:
        return False
    # Of two batches that are left open one may turn out to be 1, and be broadcast.
    same = one.shape[0] >= 0 or sum(each.shape[:1] == (-1,) for each in program.inputs) == 1
    return same and one.shape == other.shape and one.dtype == other.dtype


def _fold(program: Program, site: _Site) -> bool:
    """Take a bias and a BatchNorm behind into weight and bias: y * scale + shift."""
    weight, bias = site.call.weight, site.call.bias
    if dtype_name(weight.dtype) not in ("float32", "float64") or _active(site.inference):
        return False
    filters = _known(program, weight)
    shift = np.zeros(1) if bias is None else _known(program, bias)
    if filters is None or shift is None:
        return False
    scale = np.ones(len(filters))
    shift = np.broadcast_to(shift, scale.shape).astype("float64")
    operator = site.operator
    while (user := _only_user(operator)) is not None:
        affine = _affine(program, user, operator.result(0), site.call.attributes.data_format)
        if affine is None:
            break
        operator, scale, shift = user, scale * affine.scale, shift * affine.scale + affine.shift
    if operator is site.operator:
        return False
    site.operator = operator
    name, attributes = "ones", site.call.attributes
    if kind(weight.get_defining_op()) == "parameter":
        name = _parameter_name(weight)
    if (scale != 1).any():
        scaled = filters.astype("float64") * scale.reshape(-1, 1, 1, 1)
        weight = program.add_parameter(f"{name}_scaled", scaled.astype(filters.dtype))
        attributes = attributes._replace(weighted=True)
    bias = program.add_parameter(f"{name}_bias", shift.astype(filters.dtype))
    site.call = site.call._replace(weight=weight, bias=bias, attributes=attributes)
    return True


def _activation(program: Program, site: _Site) -> bool:
    """Take a relu, relu6 or leaky_relu behind into the operator."""
    user = _only_user(site.operator)
    if user is None or _active(site.inference) or kind(user) not in _ACTIVATIONS:
        return False
    slope, bound = _ACTIVATIONS[kind(user)](user.attrs())
    # The operator's attributes are float32, which is not enough beside float64.
    if dtype_name(site.call.x.dtype) == "float64" and kind(user) == "leaky_relu":
        return False
    site.operator = user
    site.inference = site.inference._replace(negative_slope=slope, upper_bound=bound)
    return True


def _joined(program: Program, site: _Site) -> bool:
    """Read offset and mask from the planes that they are parts of, all of them in mmcv's order.

    Offsets may be bounded by a tangent, and be added to flow, as BasicVSR++ has it.
    """
    call = site.call
    if call.mask is None or site.flows or site.inference.offset_bound:
        return False
    sigmoid = call.mask.get_defining_op()
    if kind(sigmoid) != "sigmoid" or call.mask.dtype != call.offset.dtype:
        return False
    height, width = call.weight.shape[2:]
    fields = call.attributes.deformable_groups * height * width
    logits = sigmoid.operand_source(0)
    if call.offset.shape[1] != 2 * fields or logits.shape[1] != fields:
        return False  # a size that is open, or a mask with one channel for all
    pieces, flows = _flowing(program, site)
    parts = _merged([part for piece in pieces for part in _parts(program, piece)])
    bounded, bound = _bounded(program, parts[0].of)
    if bound:
        if len(parts) > 1 or parts[0].start > 0 or bounded.shape[1] != 2 * fields:
            return False
        parts = _parts(program, bounded)
    (planes, start, stop), *more = _merged([*parts, *_parts(program, logits)])
    if more or start != 0 or stop != planes.shape[1]:
        return False
    site.call = call._replace(offset=planes, mask=None)
    site.inference = site.inference._replace(joined=True, offset_bound=bound)
    site.flows = flows
    return True


def _flowing(program: Program, site: _Site) -> tuple[list[Any], list[Any]]:
    """Return what offsets consist of, and the flow, [N, 2, ...], that is added to each of these.

    Where no flow is, offsets are one piece, and there are none.
    """
    offset = site.call.offset
    operator = offset.get_defining_op()
    pieces = [offset]
    if kind(operator) == "concat" and _is_channels(program, operator):
        pieces = _sources(operator)[0].operands_source()
    sums = [_sum_with_flow(program, piece) for piece in pieces]
    even = site.call.attributes.deformable_groups % len(pieces) == 0
    if None in sums or not even or len({piece.shape[1] for piece in pieces}) > 1:
        return [offset], []
    return [piece for piece, _ in sums], [flow for _, flow in sums]


def _sum_with_flow(program: Program, value: Any) -> tuple[Any, Any] | None:
    """Return the terms of a sum whose second is two channels, repeated."""
    operator = value.get_defining_op()
    if kind(operator) != "add":
        return None
    terms = operator.operands_source()
    for term, repeated in (terms, reversed(terms)):
        tile = repeated.get_defining_op()
        if kind(tile) == "tile" and _same_sizes(program, term, repeated):
            flow, times = tile.operands_source()
            times = _known(program, times)
            if times is not None and [*times] == [1, repeated.shape[1] // 2, 1, 1]:
                return (term, flow) if len(flow.shape) == 4 and flow.shape[1] == 2 else None
    return None


def _bounded(program: Program, value: Any) -> tuple[Any, float]:
    """Return of bound * tanh(x) x and the bound, or 0 if that is not what a value is."""
    operator, bound = value.get_defining_op(), 1.0
    if kind(operator) == "scale" and operator.attrs()["bias"] == 0:
        factor = _known(program, operator.operand_source(1))
        bound = 0.0 if factor is None else factor.item()
        operator = operator.operand_source(0).get_defining_op()
    # The operator's attributes are float32, which may not be enough beside float64.
    exact = dtype_name(value.dtype) != "float64" or bound == np.float32(bound)
    if kind(operator) != "tanh" or bound <= 0 or not exact:
        return value, 0.0
    return operator.operand_source(0), bound


def _constant(program: Program, site: _Site) -> bool:
    """Promise that a weight which is a parameter of the program never changes."""
    if kind(site.call.weight.get_defining_op()) != "parameter" or site.inference.constant:
        return False
    site.inference = site.inference._replace(constant=True)
    return True


_AROUND: dict[str, Callable[[Program, _Site], bool]] = {
    "fold": _fold,
    "activation": _activation,
    "joined": _joined,
    "constant": _constant,
}
PLAIN = "plain"
SAVINGS = (*_AROUND, PLAIN)

# Channels and outputs from which on a plain convolution is faster here: with 16 of one of them it
# takes 1.1 to 1.5 times as long as oneDNN's, with 18 to 27 at most as long.
_FEWEST = 18

# Negative slope and upper bound.
_ACTIVATIONS: dict[str, Callable[[dict], tuple[float, float]]] = {
    "relu": lambda attributes: (0.0, 0.0),
    "relu6": lambda attributes: (0.0, 6.0),
    "leaky_relu": lambda attributes: (attributes["negative_slope"], 0.0),
}


def _active(inference: Inference) -> bool:
    none = Inference()
    return (inference.negative_slope, inference.upper_bound) != (
        none.negative_slope,
        none.upper_bound,
    )


def _sources(operator: Any) -> list[Any]:
    """Return the operators whose results an operator reads."""
    sources = [each.get_defining_op() for each in operator.operands_source() if each.initialized()]
    return [each for each in sources if each is not None]


def _only_user(operator: Any) -> Any:
    """Return the one operator that reads the first result, once, and in the same block, or None."""
    value, *others = operator.results()
    users = value.all_used_ops()
    if len(users) != 1 or not all(other.use_empty() for other in others):
        return None
    (user,) = users
    reads = sum(each.is_same(value) for each in user.operands_source() if each.initialized())
    inside = {each.id() for each in operator.get_parent_block().ops}
    return user if reads == 1 and user.id() in inside else None


def _parameter_name(value: Any) -> str:
    return value.get_defining_op().attrs().get("parameter_name", "weight")


def _known(program: Program, value: Any) -> np.ndarray | None:
    """Return what a value always is, if the program tells: a parameter, a constant, reshaped."""
    operator = value.get_defining_op()
    name = kind(operator)
    if name == "parameter":
        return program.parameter(_parameter_name(value))
    if name == "full":
        return np.full(value.shape, operator.attrs()["value"], dtype_name(value.dtype))
    if name == "full_int_array":
        return np.array(operator.attrs()["value"])
    if name in ("reshape", "unsqueeze") and min(value.shape) >= 0:
        inner = _known(program, operator.operand_source(0))
        return None if inner is None else inner.reshape(value.shape)
    return None


class _Affine(NamedTuple):
    """y * scale + shift, with one of each for all channels or for each channel."""

    scale: np.ndarray
    shift: np.ndarray


def _affine(program: Program, operator: Any, of: Any, data_format: str) -> _Affine | None:
    """Return what an operator makes of a convolution's output, if it is affine and known."""
    rule = _AFFINE.get(kind(operator))
    if rule is None or operator.result(0).shape != of.shape:
        return None
    tensors: list[np.ndarray | None] = []
    for each in operator.operands_source():
        if not each.initialized():
            tensors.append(None)
        elif not each.is_same(of):
            known = _known(program, each)
            if known is None:
                return None
            tensors.append(known.astype("float64"))
    return rule(tensors, operator.attrs(), data_format)


def _add(tensors: list, attributes: dict, data_format: str) -> _Affine | None:
    (added,) = tensors
    shape = (1,) * (4 - added.ndim) + added.shape
    if added.size != shape[data_format.index("C")]:  # there is more than one along another axis
        return None
    return _Affine(np.ones(1), added.reshape(-1))


def _batch_norm(tensors: list, attributes: dict, data_format: str) -> _Affine | None:
    mean, variance, scale, shift = tensors
    trained = not (attributes["is_test"] or attributes["use_global_stats"])
    if trained or attributes["trainable_statistics"] or attributes["data_format"] != data_format:
        return None
    factor = 1 / np.sqrt(variance + attributes["epsilon"])
    factor = factor if scale is None else factor * scale
    return _Affine(factor, (0.0 if shift is None else shift) - mean * factor)


_AFFINE: dict[str, Callable[[list, dict, str], _Affine | None]] = {
    "add": _add,
    "batch_norm": _batch_norm,
}


class _Part(NamedTuple):
    """Channels of a value, [N, channels, ...]."""

    of: Any
    start: int
    stop: int


def _parts(program: Program, value: Any) -> list[_Part]:
    """Return the parts of other values that a value consists of, in the order of its channels."""
    operator = value.get_defining_op()
    name = "" if operator is None else operator.name()
    inner = None
    if name == "pd_op.slice":
        inner = _sliced(program, operator)
    elif name == "builtin.split":
        inner = _splitted(program, operator, value)
    elif name == "pd_op.concat" and _is_channels(program, operator):
        pieces = _sources(operator)[0].operands_source()
        inner = [part for piece in pieces for part in _parts(program, piece)]
    return [_Part(value, 0, value.shape[1])] if inner is None else inner


def _sliced(program: Program, operator: Any) -> list[_Part] | None:
    source, *ends = operator.operands_source()
    start, stop = (_known(program, end) for end in ends)
    attributes = operator.attrs()
    if attributes["axes"] != [1] or attributes["decrease_axis"]:
        return None
    if start is None or stop is None or source.shape[1] < 0:
        return None
    start, stop, _ = slice(int(start[0]), int(stop[0])).indices(source.shape[1])
    return _cut(_parts(program, source), start, stop)


def _splitted(program: Program, operator: Any, value: Any) -> list[_Part] | None:
    (split,) = _sources(operator)
    if split.name() not in ("pd_op.split", "pd_op.split_with_num"):
        return None
    if not _is_channels(program, split) or min(p.shape[1] for p in operator.results()) < 0:
        return None
    start = 0
    for piece in operator.results():
        if piece.is_same(value):
            break
        start += piece.shape[1]
    return _cut(_parts(program, split.operand_source(0)), start, start + value.shape[1])


def _is_channels(program: Program, operator: Any) -> bool:
    """Return whether a split or concat is along the channels of what has four axes."""
    *_, last = operator.operands_source()
    axis = _known(program, last)
    return axis is not None and axis.item() in (1, -3)


def _cut(parts: list[_Part], start: int, stop: int) -> list[_Part]:
    """Return what of the parts lies between two channels."""
    cut, at = [], 0
    for of, first, last in parts:
        begin, end = max(first, first + start - at), min(last, first + stop - at)
        if begin < end:
            cut.append(_Part(of, begin, end))
        at += last - first
    return cut


def _merged(parts: list[_Part]) -> list[_Part]:
    """Return parts without boundaries between those that follow one another."""
    merged: list[_Part] = []
    for part in parts:
        if merged and merged[-1].of.is_same(part.of) and merged[-1].stop == part.start:
            merged[-1] = merged[-1]._replace(stop=part.stop)
        else:
            merged.append(part)
    return merged
