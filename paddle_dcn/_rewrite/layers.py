"""How a static call, which creates its own parameters, is written as a layer."""

from __future__ import annotations

import libcst as cst

from .edits import Edit, code_of
from .names import FLUID_CALL, STATIC_CALL, words_of

_ORDER = (
    "offset",
    "mask",
    "num_filters",
    "filter_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "deformable_groups",
    "im2col_step",
)
_ORDERS = {
    FLUID_CALL: ("input", *_ORDER, "param_attr", "bias_attr", "modulated", "name"),
    STATIC_CALL: ("x", *_ORDER, "weight_attr", "bias_attr", "name"),
}
_LAYER_NAMES = {
    "input": "in_channels",
    "x": "in_channels",
    "num_filters": "out_channels",
    "filter_size": "kernel_size",
    "param_attr": "weight_attr",
}
_TIGHT = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))


def as_layer(call: cst.Call, kind: str) -> Edit | str:
    """Return the edit that makes a static call a layer and its call, or why there is none.

    The layer creates the same parameters only if the call names them: a name that Paddle makes up
    starts with that of the layer's class, and saved parameters would not be found again.
    """
    order = _ORDERS[kind]
    if any(arg.star for arg in call.args):
        return "it has arguments by * or **"
    positional = sum(arg.keyword is None for arg in call.args)
    if positional > len(order) - 2 * (kind == FLUID_CALL):
        return "what follows bias_attr by position depends on the release"
    names = [arg.keyword.value if arg.keyword else order[i] for i, arg in enumerate(call.args)]
    given = {name: arg.value for name, arg in zip(names, call.args)}
    unknown = [name for name in names if name not in order]
    if unknown or len(given) < len(names) or any(name not in given for name in order[:5]):
        return f"its arguments are not those of {kind.rpartition('.')[2]}"
    tensors = [given[name] for name in order[:3]]
    if any(words_of(tensor) is None for tensor in tensors):
        return "an input is an expression, which the layer would come before"
    for name in ("groups", "deformable_groups"):
        if not isinstance(given.get(name, cst.Integer("1")), cst.Integer):
            return f"{name} may be None"
    modulated = _word(given.get("modulated", cst.Name("True")))
    if modulated not in ("True", "False"):
        return "modulated is not written as True or False"
    if kind == FLUID_CALL and modulated == "True" and _word(tensors[2]) == "None":
        return "modulated is true without a mask"
    attr = given.get(order[11])
    if not _names_parameter(attr):
        return f"{order[11]} gives its weight no fixed name"
    bias = given.get("bias_attr")
    if _word(bias) != "False" and not _names_parameter(bias):
        return "bias_attr gives its bias no fixed name"
    keep = [
        i for i, name in enumerate(names) if name not in ("offset", "mask", "modulated", "name")
    ]
    touched = [i for i in range(len(names)) if i not in keep or (i == keep[-1] != len(names) - 1)]
    if any("#" in code_of(gap) for i in touched for gap in _spaces(call.args[i])):
        return "a comment stands between its arguments"

    inputs = 3 if modulated == "True" and _word(tensors[2]) != "None" else 2

    def edit(updated: cst.Call) -> cst.Call:
        values = {name: arg.value for name, arg in zip(names, updated.args)}
        args = []
        for i in keep:
            name, arg = names[i], updated.args[i]
            value = arg.value
            if name == order[0]:
                channels = cst.Index(cst.Integer("1"))
                shape = cst.Attribute(value.deep_clone(), cst.Name("shape"))
                value = cst.Subscript(shape, [cst.SubscriptElement(channels)])
            keyword = cst.Name(_LAYER_NAMES.get(name, name))
            equal = arg.equal if arg.keyword else _TIGHT
            args.append(arg.with_changes(keyword=keyword, equal=equal, value=value))
        last = updated.args[-1]
        args[-1] = args[-1].with_changes(
            comma=last.comma, whitespace_after_arg=last.whitespace_after_arg
        )
        layer = updated.with_changes(
            func=cst.parse_expression("paddle_dcn.DeformConv2D"), args=args, lpar=[], rpar=[]
        )
        tensors = [cst.Arg(values[name]) for name in order[:inputs]]
        return cst.Call(layer, tensors, lpar=updated.lpar, rpar=updated.rpar)

    return edit


def _word(node: cst.CSTNode | None) -> str | None:
    return node.value if isinstance(node, cst.Name) else None


def _spaces(arg: cst.Arg) -> list[cst.BaseParenthesizableWhitespace]:
    """List the gaps around an argument that may hold a comment."""
    comma = [arg.comma.whitespace_after] if isinstance(arg.comma, cst.Comma) else []
    return [arg.whitespace_after_arg, *comma]


def _names_parameter(attr: cst.CSTNode | None) -> bool:
    """Whether a parameter attribute is a name, or a ParamAttr with one."""
    if isinstance(attr, cst.Call) and (words_of(attr.func) or [""])[-1] == "ParamAttr":
        names = [a.value for a in attr.args if a.keyword and a.keyword.value == "name"]
        names += [a.value for a in attr.args[:1] if not a.keyword and not a.star]
        return len(names) == 1 and _is_text(names[0])
    return attr is not None and _is_text(attr)


def _is_text(value: cst.CSTNode) -> bool:
    """Whether an expression is a string for certain."""
    if isinstance(value, cst.BinaryOperation):
        return _is_text(value.left) or (
            isinstance(value.operator, cst.Add) and _is_text(value.right)
        )
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        return value.func.attr.value == "format" and _is_text(value.func.value)
    return isinstance(value, cst.BaseString)
