"""Paddle's operations that its own functions no longer add to programs of Paddle 2's kind.

With FLAGS_enable_pir_api=0 Paddle 3 builds such programs, but refuses their tensors in about thirty
of its functions. The functions here take tensors of every mode: where Paddle's own refuse, they
append the operator to the program themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle.base.layer_helper import LayerHelper
from paddle.static.nn.control_flow import Assert


def in_old_program() -> bool:
    """Tell whether operations are added to a program of Paddle 2's kind."""
    return not paddle.framework.in_dynamic_or_pir_mode()


def _append(operator: str, inputs: dict[str, Any], attributes: dict[str, Any], dtype: Any) -> Any:
    helper = LayerHelper(operator)
    out = helper.create_variable_for_type_inference(dtype)
    helper.append_op(type=operator, inputs=inputs, outputs={"Out": out}, attrs=attributes)
    return out


def _unary(function: Callable, operator: str, dtype: str | None = None) -> Callable:
    def apply(x: Any) -> Any:
        if in_old_program():
            return _append(operator, {"X": x}, {}, dtype or x.dtype)
        return function(x)

    return apply


def _binary(function: Callable, operator: str, dtype: str | None = None) -> Callable:
    def apply(x: Any, y: Any) -> Any:
        if in_old_program():
            return _append(operator, {"X": x, "Y": y}, {"axis": -1}, dtype or x.dtype)
        return function(x, y)

    return apply


def _reduction(function: Callable, operator: str) -> Callable:
    def apply(x: Any, axis: list[int] | None, keepdim: bool) -> Any:
        if in_old_program():
            attributes = {"dim": axis or [0], "keep_dim": keepdim, "reduce_all": axis is None}
            return _append(operator, {"X": x}, attributes, x.dtype)
        return function(x, axis, keepdim=keepdim)

    return apply


def _extreme(function: Callable, operator: str) -> Callable:
    def apply(x: Any, axis: int) -> Any:
        if in_old_program():
            dtype = paddle.framework.convert_np_dtype_to_dtype_("int64")
            attributes = {"axis": axis, "keepdims": False, "flatten": False, "dtype": dtype}
            return _append(operator, {"X": x}, attributes, "int64")
        return function(x, axis)

    return apply


abs = _unary(paddle.abs, "abs")
acos = _unary(paddle.acos, "acos")
asin = _unary(paddle.asin, "asin")
ceil = _unary(paddle.ceil, "ceil")
cos = _unary(paddle.cos, "cos")
cosh = _unary(paddle.cosh, "cosh")
exp = _unary(paddle.exp, "exp")
floor = _unary(paddle.floor, "floor")
isfinite = _unary(paddle.isfinite, "isfinite_v2", "bool")
isinf = _unary(paddle.isinf, "isinf_v2", "bool")
isnan = _unary(paddle.isnan, "isnan_v2", "bool")
log = _unary(paddle.log, "log")
logical_not = _unary(paddle.logical_not, "logical_not", "bool")
rsqrt = _unary(paddle.rsqrt, "rsqrt")
sigmoid = _unary(F.sigmoid, "sigmoid")
sign = _unary(paddle.sign, "sign")
sin = _unary(paddle.sin, "sin")
sinh = _unary(paddle.sinh, "sinh")
softplus = _unary(F.softplus, "softplus")
sqrt = _unary(paddle.sqrt, "sqrt")
tanh = _unary(paddle.tanh, "tanh")

greater_than = _binary(paddle.greater_than, "greater_than", "bool")
logical_and = _binary(paddle.logical_and, "logical_and", "bool")
logical_or = _binary(paddle.logical_or, "logical_or", "bool")
logical_xor = _binary(paddle.logical_xor, "logical_xor", "bool")
maximum = _binary(paddle.maximum, "elementwise_max")
minimum = _binary(paddle.minimum, "elementwise_min")
multiply = _binary(paddle.multiply, "elementwise_mul")

all = _reduction(paddle.all, "reduce_all")
any = _reduction(paddle.any, "reduce_any")
sum = _reduction(paddle.sum, "reduce_sum")

argmax = _extreme(paddle.argmax, "arg_max")
argmin = _extreme(paddle.argmin, "arg_min")


def gelu(x: Any, approximate: bool) -> Any:
    """Return x times the normal distribution's probability of values below x."""
    if in_old_program():
        return _append("gelu", {"X": x}, {"approximate": approximate}, x.dtype)
    return F.gelu(x, approximate)


def matmul(x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False) -> Any:
    """Multiply matrices."""
    if in_old_program():
        attributes = {"trans_x": transpose_x, "trans_y": transpose_y}
        return _append("matmul_v2", {"X": x, "Y": y}, attributes, x.dtype)
    return paddle.matmul(x, y, transpose_x, transpose_y)


def grid_sample(x: Any, grid: Any) -> Any:
    """Sample images at the positions of a grid, bilinearly, zeros around them."""
    if not in_old_program():
        return F.grid_sample(x, grid)
    helper = LayerHelper("grid_sampler")
    out = helper.create_variable_for_type_inference(x.dtype)
    attributes = {"align_corners": True, "mode": "bilinear", "padding_mode": "zeros"}
    helper.append_op(
        type="grid_sampler",
        inputs={"X": x, "Grid": grid},
        outputs={"Output": out},
        attrs=attributes,
    )
    return out


def _operation(
    operator: str, inputs: dict[str, Any], attributes: dict[str, Any], outputs: dict[str, Any]
) -> Any:
    """Add an operator that no function of Paddle's calls.

    Inputs and attributes are named as in Paddle 2's kind of programs, and in the order of Paddle
    3's; the outputs have their dtypes.
    """
    if not in_old_program():
        return getattr(paddle._C_ops, operator)(*inputs.values(), *attributes.values())
    helper = LayerHelper(operator)
    made = {name: helper.create_variable_for_type_inference(outputs[name]) for name in outputs}
    given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    helper.append_op(type=operator, inputs=given, outputs=made, attrs=attributes)
    return list(made.values())


def multiclass_nms(
    boxes: Any,
    scores: Any,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    nms_threshold: float,
    normalized: bool,
    nms_eta: float,
    background_label: int,
) -> list[Any]:
    """Keep the best boxes of each class; return them, their places and how many each image has."""
    return _operation(
        "multiclass_nms3",
        {"BBoxes": boxes, "Scores": scores, "RoisNum": None},
        {
            "score_threshold": score_threshold,
            "nms_top_k": nms_top_k,
            "keep_top_k": keep_top_k,
            "nms_threshold": nms_threshold,
            "normalized": normalized,
            "nms_eta": nms_eta,
            "background_label": background_label,
        },
        {"Out": boxes.dtype, "Index": "int32", "NmsRoisNum": "int32"},
    )


def auc(
    scores: Any, label: Any, hits: Any, misses: Any, curve: str, num_thresholds: int, steps: int
) -> list[Any]:
    """Add results to counts, for all or the last `steps` runs; return the area and the counts."""
    return _operation(
        "auc",
        {
            "Predict": scores,
            "Label": label,
            "StatPos": hits,
            "StatNeg": misses,
            "InsTagWeight": None,
        },
        {"curve": curve, "num_thresholds": num_thresholds, "slide_steps": steps},
        {"AUC": "float64", "StatPosOut": "int64", "StatNegOut": "int64"},
    )


def spectral_norm(weight: Any, u: Any, v: Any, dim: int, power_iters: int, epsilon: float) -> Any:
    """Divide a weight by its largest singular value, as power iterations from u and v find it."""
    out = _operation(
        "spectral_norm",
        {"Weight": weight, "U": u, "V": v},
        {"dim": dim, "power_iters": power_iters, "eps": epsilon},
        {"Out": weight.dtype},
    )
    return out[0] if isinstance(out, list) else out


def psroi_pool(
    x: Any, boxes: Any, numbers: Any, size: tuple[int, int], channels: int, scale: float
) -> Any:
    """Pool parts of boxes, each from channels of its own."""
    if not in_old_program():
        return paddle.vision.ops.psroi_pool(x, boxes, numbers, size, scale)
    # There Paddle's own function leaves the numbers out, which ends the process.
    settings = {
        "pooled_height": size[0],
        "pooled_width": size[1],
        "output_channels": channels,
        "spatial_scale": scale,
    }
    inputs = {"X": x, "ROIs": boxes, "RoisNum": numbers}
    return _operation("psroi_pool", inputs, settings, {"Out": x.dtype})[0]


def anchor_generator(x: Any, settings: dict[str, Any]) -> list[Any]:
    """Return the anchors of each pixel and their variances. The settings are in order."""
    outputs = {"Anchors": x.dtype, "Variances": x.dtype}
    return _operation("anchor_generator", {"Input": x}, settings, outputs)


def bipartite_match(distances: Any, match_type: str, dist_threshold: float) -> list[Any]:
    """Return which row each column is matched with, and their distances."""
    return _operation(
        "bipartite_match",
        {"DistMat": distances},
        {"match_type": match_type, "dist_threshold": dist_threshold},
        {"ColToRowMatchIndices": "int32", "ColToRowMatchDist": distances.dtype},
    )


def collect_fpn_proposals(
    rois: list[Any], scores: list[Any], numbers: list[Any], top: int
) -> list[Any]:
    """Return the boxes of all levels with the best scores, and how many each image has."""
    return _operation(
        "collect_fpn_proposals",
        {"MultiLevelRois": rois, "MultiLevelScores": scores, "MultiLevelRoIsNum": numbers},
        {"post_nms_topN": top},
        {"FpnRois": rois[0].dtype, "RoisNum": "int32"},
    )


def check_when_run(holds: Any, message: str) -> None:
    """Have the program check a bool when it runs; Paddle shows the message above its own."""
    assertion = Assert(holds)
    # Paddle shows these lines, usually where the operator was added, above its own message.
    lines = [f"  {message}"]
    if assertion is None:  # Paddle 3
        (assertion,) = holds.all_used_ops()
        assertion.callstack = lines
    else:
        assertion._set_attr("op_callstack", lines)
