"""Which edits a file needs."""

from __future__ import annotations

import re

import libcst as cst
from libcst import metadata as meta

from .edits import Apply, Edit, ImportEdit, code_of, import_lines, renamer
from .names import (
    FLUID,
    FLUID_CALL,
    MOVES,
    STATIC_CALL,
    Binding,
    Group,
    Import,
    Names,
    Use,
    fluid_lacks,
    imported,
)

# Packages that register what is reached through torch, and how it shows that a file needs that.
_REGISTERING = {
    "torch_npu": re.compile(r"(?<!compat)\.npu\b|\btorch\.npu_|[\"']npu\b"),
    "torchvision": re.compile(r"\bops\.torchvision\b"),
}

_DTYPES = "fluid.core.VarDesc.VarType."
_TORCH = ("mmcv", "torch", "torch_npu", "torchvision")


class Plan:
    """The edits of one file."""

    def __init__(self, names: Names, note_static: bool):
        """Decide on the edits; with `note_static` each static call gets a note."""
        self.names = names
        self.stuck: set[Use] = set()  # the uses that cannot move
        self.expressions: dict[cst.CSTNode, Edit] = {}
        self.imports: dict[Import, ImportEdit] = {}
        self._plan()
        self._note_static(each=note_static)
        self._note_rest()

    def carried_out(self) -> str:
        """Return the file's text with all edits made."""
        if not self.expressions and not self.imports:
            return self.names.module.code
        statements = {node: import_lines(node, edit) for node, edit in self.imports.items()}
        return self.names.module.visit(Apply(self.expressions, statements)).code

    def _plan(self) -> None:
        """Decide on the edits, group by group."""
        wanted: list[tuple[Group, set[str]]] = []
        qualified = [group for group in self.names.all_groups() if self._needs_root(group)]
        binders = {group.scope for group in qualified}
        for group in self.names.all_groups():
            if group in qualified and (clash := self._root_clash(group, binders)):
                self._give_up(group, clash)
            elif self._binds_operator(group):
                self._plan_operator(group)
            elif base := self._base(group):
                self._point(group, base)
            elif modules := self._plan_names(group):
                wanted.append((group, modules))
            self._plan_idle(group)
        for group, modules in wanted:
            self._beside(group, modules)
        self._plan_stars()
        self._keep_registrations()

    def _live(self, group: Group) -> list[Use]:
        """List the uses that need the group's name, whatever they become."""
        return [use for use in group.uses if not use.settled]

    def _moving(self, group: Group) -> list[Use]:
        """List the uses that would get a new full name."""
        live = self._live(group)
        moving = [use for use in live if use.new]
        # Where part of what is used of paddle.fluid is not in ours, only the operator moves.
        if any(use.path.startswith(FLUID) and not use.new for use in live):
            moving = [use for use in moving if use.old in MOVES]
        return moving

    def _binds_operator(self, group: Group) -> bool:
        return any(self.names.move(binding.path)[1] for binding in group.bindings)

    def _base(self, group: Group) -> str | None:
        """Return the module that can take the place of the group's, for all that uses it."""
        attached = any(binding.attached for binding in group.bindings)
        if group.path is None or group.contested or attached:
            return None
        bases = set()
        for use in self._live(group):
            if use.new is None and self.names.defines_alias(use):
                continue
            tail = use.old[len(group.path) :]
            movable = use.new and use.mention.loads and use.new.endswith(tail)
            bases.add(use.new[: -len(tail)] if movable and tail else None)
        return bases.pop() if len(bases) == 1 else None

    def _needs_root(self, group: Group) -> bool:
        """Whether the plan for the group writes full names, which start with `paddle_dcn`."""
        whole = self._binds_operator(group) or self._base(group)
        return not whole and bool(self._moving(group))

    def _root_clash(self, group: Group, binders: set[meta.Scope]) -> str | None:
        """Say why the name `paddle_dcn`, imported where the group is, would not reach its uses."""
        name = "paddle_dcn"
        if any(self.names.scopes[b.statement] is not group.scope for b in group.bindings):
            return f"{group.name!r} is imported through a global statement"
        used = [use.mention.scope for use in group.uses if use.new]
        found = {a for scope in used for a in scope[name]}
        if name in self.names.scan.captured or any(
            not isinstance(a, meta.ImportAssignment)
            or self.names.groups[a.scope, name].path != name
            for a in found
        ):
            return f"the name {name} is taken"
        taken = binders | {scope for scope, bound in self.names.groups if bound == name}
        if any(_nearest(scope, taken) is not group.scope for scope in used) or any(
            _nearest(m.scope, taken | {group.scope}) is group.scope
            for m in self.names.scan.mentions
            if m.words[0] == name and all(a.scope is not group.scope for a in m.scope[name])
        ):
            return f"{name} would be bound both inside and outside a function"
        return None

    def _give_up(self, group: Group, reason: str) -> None:
        """Leave the uses of a group that would need full names."""
        for use in group.uses:
            if use.new:
                self._leave(use, reason)

    def _leave(self, use: Use, reason: str) -> None:
        self.stuck.add(use)
        self.names.left(use.mention.node, reason)

    def _plan_operator(self, group: Group) -> None:
        """Point imports of the operator itself at ours."""
        for binding in group.bindings:
            new = self.names.move(binding.path)[1]
            if new:
                self._point_one(binding, group.name, new)

    def _plan_names(self, group: Group) -> set[str]:
        """Write full names; returns the modules that they need."""
        moving = []
        patched = {use.old for use in group.uses if not use.mention.loads}
        for use in self._moving(group):
            if use.old in patched:
                self._leave(use, f"{use.old} is assigned to or deleted in this file")
            elif use.mention.quoted:
                self._leave(use, f"{use.old} is named in {use.mention.quoted}")
            elif "#" in code_of(use.node):
                self._leave(use, "a comment stands inside the name")
            else:
                moving.append(use)
                self.expressions[use.node] = renamer(use.new)
        staying = [use for use in group.uses if use not in moving]
        for binding in group.bindings if moving and self._droppable(group) else ():
            if not staying:
                self._edit(binding).paths[binding.alias] = None
            elif binding.attached:
                below = f"{binding.alias.evaluated_name}."
                if any(use.old.startswith(below) for use in moving):
                    self._trim(binding, below, staying)
        return {_module_of(use.new) for use in moving}

    def _plan_idle(self, group: Group) -> None:
        """Move imports of paddle.fluid that nothing uses: where they stay, the file fails."""
        staying = [use for use in group.uses if use.node not in self.expressions]
        idle = all(self.names.defines_alias(use) for use in group.uses)
        for binding in group.bindings if self.names.fluid and not group.contested else ():
            edit = self.imports.get(binding.statement, ImportEdit())
            if binding.alias is None or binding.alias in edit.paths:
                continue
            if binding.attached:
                self._trim(binding, FLUID, staying)
            elif not f"{binding.path}.".startswith(FLUID):
                continue
            elif idle and fluid_lacks(binding.path) in (None, ""):
                self._point_one(binding, group.name, f"paddle_dcn{binding.path[len('paddle') :]}")

    def _trim(self, binding: Binding, below: str, staying: list[Use]) -> None:
        """Make `import a.b` an `import a` where nothing that stays is below a.b."""
        path, root = binding.alias.evaluated_name, binding.path
        if not f"{path}.".startswith(below) or path == root:
            return
        if any(f"{use.path}.".startswith(below) or use.path == root for use in staying):
            return
        block = self.names.block(binding.statement)
        have = [
            module
            for statement in self.names.scan.imports
            if self.names.block(statement) is block
            for module in self._imported(statement)
        ]
        self._edit(binding).paths[binding.alias] = None if root in have else root

    def _droppable(self, group: Group) -> bool:
        """Whether imports that nothing uses may go: no `__all__`, code in a string or comment does.

        Code in strings is that of doctests, and what `eval` and its like may be given.
        """
        spelled = re.compile(rf"(?<![\w.]){re.escape(group.name)}\.\w")
        texts = [string.evaluated_value for string in self.names.scan.strings]
        named = group.name in texts or any(
            isinstance(text, str) and spelled.search(text) for text in texts
        )
        named |= not self.names.called().isdisjoint(("eval", "exec", "globals", "locals", "vars"))
        noted = any("#" in code_of(b.statement) for b in group.bindings)
        starred = any(binding.alias is None for binding in group.bindings)
        return not (group.contested or named or noted or starred)

    def _edit(self, binding: Binding) -> ImportEdit:
        return self.imports.setdefault(binding.statement, ImportEdit())

    def _point(self, group: Group, path: str) -> None:
        """Let the group's name stand for `path`."""
        for binding in group.bindings:
            self._point_one(binding, group.name, path)

    def _point_one(self, binding: Binding, name: str, path: str) -> None:
        if binding.alias:
            self._edit(binding).paths[binding.alias] = path
        else:
            self._edit(binding).named.append((path, name))

    def _imported(self, statement: Import) -> list[str]:
        """List the modules whose full names an import statement binds once it is edited."""
        edit = self.imports.get(statement, ImportEdit())
        aliases = statement.names if isinstance(statement, cst.Import) else ()
        modules = [edit.paths.get(a, a.evaluated_name) for a in aliases if not a.asname]
        return [module for module in modules if module] + edit.beside

    def _beside(self, group: Group, modules: set[str]) -> None:
        """Import modules beside the group's imports, where their block has not done so before."""
        first = min(self.names.line(use.mention.node) for use in group.uses)
        for binding in group.bindings:
            block, line = self.names.block(binding.statement), self.names.line(binding.statement)
            have = {
                module
                for statement in self.names.scan.imports
                if self.names.block(statement) is block
                and self.names.line(statement) <= max(line, first)
                for module in self._imported(statement)
            }
            for module in sorted(modules, reverse=True):
                if not any(f"{other}.".startswith(f"{module}.") for other in have):
                    self._edit(binding).beside.append(module)
                    have.add(module)

    def _plan_stars(self) -> None:
        """Drop a star import of paddle.fluid, gone from Paddle, if no unbound name needs it."""
        stars = [star for star in self.names.stars if f"{star.path}.".startswith(FLUID)]
        edits = [self._edit(star) for star in stars if self.names.fluid]
        named = {name for edit in self.imports.values() for _, name in edit.named}
        for edit in edits:
            edit.drop_star = self.names.unbound <= named

    def _keep_registrations(self) -> None:
        """Import a package that registers operators where its last import would go."""
        for package, needed in _REGISTERING.items():
            old = [s for s in self.names.scan.imports if _imports(s, package)]
            edits = [self.imports.get(statement, ImportEdit()) for statement in old]
            new = [line for pair in zip(old, edits) for line in import_lines(*pair)]
            going = old and not any(_imports(line, package) for line in new)
            if going and needed.search(self.carried_out()):
                edits[0].beside.insert(0, package)

    def _note_static(self, each: bool) -> None:
        """Say that static calls stay static, and what they and dtypes need for that."""
        uses = [use for group in self.names.all_groups() for use in group.uses]
        static = [
            use
            for use in uses
            if use.new in (FLUID_CALL, STATIC_CALL) and not use.settled and use not in self.stuck
        ]
        for use in static if each else ():
            self.names.note(
                use.mention.node,
                "stays a static layer, as it creates its own parameters in the program, by name; "
                "paddle_dcn.DeformConv2D is its counterpart in dynamic mode",
            )

        # Code for paddle.static was written for a Paddle that starts in dynamic mode as well.
        nodes = [use.mention.node for use in static if use.new == FLUID_CALL]
        if nodes and "enable_static" not in self.names.called():
            text = "Paddle starts in dynamic mode now: call paddle.enable_static() first"
            self.names.note(min(nodes, key=self.names.line), text)

        dtypes = [use.mention.node for use in uses if use.new and _DTYPES in use.path]
        if dtypes:
            text = "x.dtype in Paddle 3's programs equals no VarType: compare with paddle.float32"
            self.names.note(min(dtypes, key=self.names.line), text)

    def _note_rest(self) -> None:
        """Say what remains of fluid and torch: undecided, if it fails in a file that changes."""
        remains = self.names.left if self.expressions or self.imports else self.names.note
        seen: dict[str, cst.CSTNode] = {}
        for group in self.names.all_groups() if self.names.fluid else ():
            places = [(b.path, b.statement) for b in group.bindings if b.alias]
            for path, node in places + [(use.path, use.mention.node) for use in group.uses]:
                reason = fluid_lacks(path) if path.startswith(FLUID) else None
                if reason and not self.names.move(path)[1]:
                    seen.setdefault(f"{path} is not in paddle_dcn.fluid: {reason}", node)
        for use in (use for group in self.names.groups.values() for use in group.uses):
            at_import = any(
                f"{path}.".startswith(FLUID)
                for binding in use.group.bindings
                for path in imported(binding.statement)
            )
            told = at_import or (self.names.fluid and fluid_lacks(use.path)) or use in self.stuck
            stays = not use.aliased and use.node not in self.expressions
            stays &= not isinstance(use.mention.node, cst.SimpleString)  # which nothing evaluates
            if f"{use.path}.".startswith(FLUID) and stays and not told:
                text = f"{use.path} stays, and fails: current Paddle has no paddle.fluid"
                remains(use.mention.node, text)
        for text, node in seen.items():
            remains(node, text)

        for statement in self.names.scan.imports:
            edit = self.imports.get(statement, ImportEdit())
            kept = [path for line in import_lines(statement, edit) for path in imported(line)]
            if any(f"{path}.".startswith(FLUID) for path in kept):
                text = "this import stays, and fails: current Paddle has no paddle.fluid"
                remains(statement, text)

        moved, others = [], False
        for group in self.names.groups.values():
            for binding in group.bindings:
                torch = binding.path.split(".")[0] in _TORCH
                edit = self.imports.get(binding.statement)
                if edit and torch:
                    moved.append(binding.statement)
                others |= torch and not (edit and binding.alias in edit.paths)
        if moved and others:
            text = "paddle_dcn.compat takes Paddle tensors; the torch code around it is not ported"
            self.names.note(min(moved, key=self.names.line), text)


def _imports(statement: cst.CSTNode, package: str) -> bool:
    """Whether a statement is an import of a package or of something in it."""
    if not isinstance(statement, (cst.Import, cst.ImportFrom)):
        return False
    return any(path.split(".")[0] == package for path in imported(statement))


def _nearest(scope: meta.Scope, binders: set[meta.Scope]) -> meta.Scope | None:
    """Return the first of `binders` that a name used in `scope` is looked up in."""
    start = scope
    while scope not in binders or (scope is not start and isinstance(scope, meta.ClassScope)):
        if scope is scope.parent:
            return None
        scope = scope.parent
    return scope


def _module_of(path: str) -> str:
    """Return the module to import for a full name of ours."""
    parts = path.split(".")
    depth = {"compat": 3, "fluid": 2, "static": 2}.get(parts[1], 1)
    return ".".join(parts[:depth])
