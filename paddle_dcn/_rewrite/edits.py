"""How edits are written: imports and full names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import libcst as cst

from .names import Import

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
        changes = {"module": module, "names": names}
        if statement.relative:
            changes |= {"relative": (), "whitespace_after_from": cst.SimpleWhitespace(" ")}
        return [statement.with_changes(**changes)]
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


def code_of(node: cst.CSTNode) -> str:
    """Return the text of a node."""
    return cst.Module([]).code_for_node(node)
