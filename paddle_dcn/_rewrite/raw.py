"""Lists deformable convolutions that cannot be moved by renaming.

A raw operator has another list of arguments, and a registry builds its layer from a dictionary.
"""

from __future__ import annotations

import re

import libcst as cst

from .names import DISPATCHED, RAW_MODULES, RAW_OPERATORS, Names, words_of

# What copies of mmdet, mmcv, detectron2, DCNv2, InternImage and DCNv4 call in C++.
_KERNEL = re.compile(
    r"(modulated_)?deform_conv(2d)?(_cuda)?_forward(_cuda)?|(dcn_?v[234])(_cuda)?_forward"
)
_AGGREGATIONS = {"dcnv3": "dcnv3", "dcnv4": "dcnv4"}
_FUNCTION = "paddle_dcn.deform_conv2d takes the same tensors"

# What mmcv's registries, and the configurations of mmdetection, call the layers.
_REGISTERED = {"DCN": "DeformConv2dPack", "DCNv2": "ModulatedDeformConv2dPack"}

_MMCV = "paddle_dcn.compat.mmcv"


def list_raw(names: Names) -> None:
    """Add a remark to `names` for each that is found."""
    names.module.visit(_Finder(names))
    for use in (use for group in names.all_groups() for use in group.uses):
        if use.path.startswith(DISPATCHED):
            names.left(use.mention.node, f"{DISPATCHED} is a raw operator; {_FUNCTION}")


class _Finder(cst.CSTVisitor):
    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names

    def visit_Call(self, node: cst.Call) -> None:
        words = words_of(node.func) or [getattr(getattr(node.func, "attr", None), "value", "")]
        arguments = {arg.keyword.value: arg.value for arg in node.args if arg.keyword}
        if words[-1] == "append_op":
            positional = [arg.value for arg in node.args if arg.keyword is None]
            named = _text(arguments.get("type", positional[0] if positional else None))
            if named in RAW_OPERATORS:
                self._names.left(node, f"the operator {named} is appended by name; {_FUNCTION}")
        elif (found := _KERNEL.fullmatch(words[-1])) and isinstance(node.func, cst.Attribute):
            ours = _AGGREGATIONS.get(found[5], "deform_conv2d")
            self._names.left(
                node, f"{words[-1]} is the kernel of a library; paddle_dcn.{ours} is ours"
            )
        elif words == ["dict"]:
            self._registered(node, arguments.get("type"))

    def visit_Dict(self, node: cst.Dict) -> None:
        for element in node.elements:
            if isinstance(element, cst.DictElement) and _text(element.key) == "type":
                self._registered(node, element.value)

    def visit_Attribute(self, node: cst.Attribute) -> None:
        words = words_of(node) or []
        if len(words) > 1 and words[-1] in RAW_OPERATORS and words[-2] in RAW_MODULES:
            self._names.left(node, f"{'.'.join(words)} is a raw operator; {_FUNCTION}")

    def _registered(self, node: cst.CSTNode, value: cst.BaseExpression | None) -> None:
        name = _text(value)
        if name in _REGISTERED:
            ours = f"{_MMCV}.{_REGISTERED[name]}"
            self._names.left(node, f"{name!r} is built by mmcv's registry; {ours} is that layer")


def _text(node: cst.CSTNode | None) -> str | None:
    """Return the value of a string, None for anything else."""
    value = node.evaluated_value if isinstance(node, cst.SimpleString) else None
    return value if isinstance(value, str) else None
