"""How edits are written: imports, full names, and static calls as layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import libcst as cst

from .names import FLUID_CALL, STATIC_CALL, Import, words_of

Edit = Callable[[cst.CSTNode], cst.CSTNode]


@dataclass
class ImportEdit:
    """What becomes of one import statement."""

    paths: dict[cst.ImportAlias, str | None] = field(default_factory=dict)  # None: dropped
    named: list[tuple[str, str]] = field(default_factory=list)  # (path, name) behind a star import
    beside: list[str] = field(default_factory=list)  # modules to import too
    drop_star: bool = False


def import_lines(statement: Import, edit: ImportEdit) -> list[cst.CSTNode]:
    """Return the statements that replace an import."""
    beside = [_statement(f"import {module}") for module in edit.beside]
    if isinstance(statement, cst.Import):
        return _edited_import(statement, edit.paths) + beside
    if isinstance(statement.names, cst.ImportStar):
        kept = [] if edit.drop_star else [statement]
        return kept + _froms((*path, "") for path in edit.named) + beside
    return _edited_from(statement, edit.paths) + beside


class Apply(cst.CSTTransformer):
    """Makes the planned edits."""

    def __init__(
        self, expressions: dict[cst.CSTNode, Edit], statements: dict[Import, list[cst.CSTNode]]
    ):
        super().__init__()
        self._expressions, self._statements = expressions, statements

    def on_leave(self, original, updated):
        if original in self._expressions:
            return self._expressions[original](updated)
        if isinstance(original, (cst.SimpleStatementLine, cst.SimpleStatementSuite)):
            return self._line(original, updated)
        return super().on_leave(original, updated)

    def _line(self, original, updated):
        if not any(statement in self._statements for statement in original.body):
            return updated
        small = []
        for before, after in zip(original.body, updated.body):
            new = self._statements.get(before, [after])
            small += [s.with_changes(semicolon=cst.MaybeSentinel.DEFAULT) for s in new[:-1]]
            small += [s.with_changes(semicolon=before.semicolon) for s in new[-1:]]
        if len(original.body) > 1 or isinstance(original, cst.SimpleStatementSuite):
            return updated.with_changes(body=small)
        comments = [line.comment for line in updated.leading_lines]
        if not small and not any([*comments, updated.trailing_whitespace.comment]):
            return cst.RemoveFromParent()
        first = updated.with_changes(body=small[:1] or [cst.Pass()])
        return cst.FlattenSentinel([first, *(cst.SimpleStatementLine([s]) for s in small[1:])])


def renamer(path: str) -> Edit:
    """Return the edit that makes an expression a full name, within the parentheses it had."""
    new = cst.parse_expression(path)
    return lambda node: new.with_changes(lpar=node.lpar, rpar=node.rpar)


def _statement(text: str) -> cst.BaseSmallStatement:
    return cst.parse_statement(text).body[0]


def _edited_import(statement: cst.Import, paths: dict) -> list[cst.CSTNode]:
    """`import a, b as c` with some paths changed or dropped."""
    names = []
    for alias in statement.names:
        path = paths.get(alias, alias.evaluated_name)
        if path == alias.evaluated_name:
            names.append(alias)
        elif path:
            asname = None if alias.evaluated_alias == path else alias.asname
            names.append(alias.with_changes(name=cst.parse_expression(path), asname=asname))
    if not names:
        return []
    names[-1] = names[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return [statement.with_changes(names=names)]


def _edited_from(statement: cst.ImportFrom, paths: dict) -> list[cst.CSTNode]:
    """`from a import b, c as d` with some paths changed or dropped."""
    moved = []
    for i, alias in enumerate(statement.names):
        if paths.get(alias):
            name = alias.evaluated_alias or alias.evaluated_name
            moved.append((paths[alias], name, _comment(_gap(statement, i + 1))))
    parents = {path.rpartition(".")[0] for path, _, _ in moved}
    if len(moved) == len(statement.names) and len(parents) == 1 and "" not in parents:
        names = []
        for alias in statement.names:
            last = paths[alias].rpartition(".")[2]
            bound = alias.evaluated_alias or alias.evaluated_name
            asname = alias.asname or cst.AsName(name=cst.Name(bound))
            changes = {"name": cst.Name(last), "asname": None if last == bound else asname}
            names.append(alias.with_changes(**changes))
        module = cst.parse_expression(parents.pop())
        return [statement.with_changes(module=module, names=names)]
    return _without(statement, [i for i, a in enumerate(statement.names) if a in paths]) + _froms(
        moved
    )


def _froms(items: Iterable[tuple[str, str, str]]) -> list[cst.CSTNode]:
    """Import statements for (path, name to bind, comment), one for each module."""
    statements, froms = [], {}
    for path, name, comment in items:
        module, _, last = path.rpartition(".")
        bound = last if last == name else f"{last} as {name}"
        if module:
            froms.setdefault(module, {})[bound] = comment
        else:
            statements.append(_statement(f"import {bound}"))
    for module, names in froms.items():
        text = f"from {module} import {', '.join(names)}"
        if any(names.values()) or len(text) > 79:
            lines = (f"    {n},{'  ' if c else ''}{c}\n" for n, c in names.items())
            text = f"from {module} import (\n{''.join(lines)})"
        statements.append(_statement(text))
    return statements


def _gap(statement: cst.ImportFrom, index: int) -> cst.BaseParenthesizableWhitespace:
    """Return the space before name `index`, or behind the last."""
    empty = cst.SimpleWhitespace("")
    if index == 0:
        return statement.lpar.whitespace_after if statement.lpar else empty
    comma = statement.names[index - 1].comma
    if isinstance(comma, cst.Comma):
        return comma.whitespace_after
    return statement.rpar.whitespace_before if statement.rpar else empty


def _comment(gap: cst.BaseParenthesizableWhitespace) -> str:
    """Return the comment on the line that a gap starts in."""
    comment = gap.first_line.comment if isinstance(gap, cst.ParenthesizedWhitespace) else None
    return comment.value if comment else ""


def _without(statement: cst.ImportFrom, dropped: list[int]) -> list[cst.CSTNode]:
    """`from a import b, c` without some names; comments on lines of their own stay."""
    kept = [i for i in range(len(statement.names)) if i not in dropped]
    if not kept:
        return []
    gaps, names = [_gap(statement, 0)], []
    for i, alias in enumerate(statement.names):
        gap = _gap(statement, i + 1)
        if i in kept:
            names.append(alias)
            gaps.append(gap)
        else:
            gaps[-1] = _joined(gaps[-1], gap)
    for i, alias in enumerate(names):
        if i < len(names) - 1 or isinstance(statement.names[-1].comma, cst.Comma):
            names[i] = alias.with_changes(comma=cst.Comma(whitespace_after=gaps[i + 1]))
        else:
            names[i] = alias.with_changes(comma=cst.MaybeSentinel.DEFAULT)
    changes = {"names": names}
    if statement.lpar:
        changes["lpar"] = statement.lpar.with_changes(whitespace_after=gaps[0])
        if not isinstance(names[-1].comma, cst.Comma):
            changes["rpar"] = statement.rpar.with_changes(whitespace_before=gaps[-1])
    return [statement.with_changes(**changes)]


def _joined(before, after):
    """Return the space that remains where a name between two gaps is taken out."""
    if not isinstance(after, cst.ParenthesizedWhitespace):
        return before
    if not isinstance(before, cst.ParenthesizedWhitespace):
        newline = after.first_line.newline
        return after.with_changes(first_line=cst.TrailingWhitespace(newline=newline))
    lines = [*before.empty_lines, *after.empty_lines]
    return after.with_changes(first_line=before.first_line, empty_lines=lines)


# Static calls as layers

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


def code_of(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)


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
    return isinstance(value, (cst.BaseString))
