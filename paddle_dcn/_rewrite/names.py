"""What the names in a Python file stand for, as far as deformable convolutions go."""

from __future__ import annotations

import builtins
import importlib
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Union

import libcst as cst
from libcst import metadata as meta

from .notebook import names_kept

FLUID_CALL = "paddle_dcn.fluid.layers.deformable_conv"
STATIC_CALL = "paddle_dcn.static.nn.deform_conv2d"

_V1 = ("deform_conv2d", "DeformConv2d", "DeformConv2dPack")
_V2 = ("modulated_deform_conv2d", "ModulatedDeformConv2d", "ModulatedDeformConv2dPack")
_OLD_FUNCTIONS = ("deform_conv", "modulated_deform_conv")
_OLD_LAYERS = ("DeformConv", "ModulatedDeformConv")
_INTERNIMAGE = "paddle_dcn.compat.internimage"
_MMDET = (*_OLD_FUNCTIONS, *_OLD_LAYERS, "DeformConvPack", "ModulatedDeformConvPack")

# Where the operators are found, where ours are, and which.
_MODULES = (
    ("paddle.fluid.layers", "paddle_dcn.fluid.layers", ("deformable_conv",)),
    ("paddle.fluid.layers.nn", "paddle_dcn.fluid.layers", ("deformable_conv",)),
    ("paddle.static.nn.common", "paddle_dcn.fluid.layers", ("deformable_conv",)),
    ("paddle.static.nn.common", "paddle_dcn.static.nn", ("deform_conv2d",)),
    ("paddle.static.nn", "paddle_dcn.static.nn", ("deform_conv2d",)),
    ("paddle.vision.ops", "paddle_dcn", ("deform_conv2d", "DeformConv2D")),
    ("mmcv.ops", "paddle_dcn.compat.mmcv", _V1 + _V2),
    ("mmcv.ops.deform_conv", "paddle_dcn.compat.mmcv", _V1),
    ("mmcv.ops.modulated_deform_conv", "paddle_dcn.compat.mmcv", _V2),
    ("mmdet.ops", "paddle_dcn.compat.mmdet", _MMDET),
    ("mmdet.ops.dcn", "paddle_dcn.compat.mmdet", _MMDET),
    ("mmdet.ops.dcn.deform_conv", "paddle_dcn.compat.mmdet", _MMDET),
    ("detectron2.layers", "paddle_dcn.compat.detectron2", _OLD_LAYERS),
    (
        "detectron2.layers.deform_conv",
        "paddle_dcn.compat.detectron2",
        (*_OLD_LAYERS, *_OLD_FUNCTIONS),
    ),
    ("dcn_v2", "paddle_dcn.compat.dcn_v2", ("DCN", "DCNv2", "dcn_v2_conv")),
    ("torchvision.ops", "paddle_dcn.compat.torchvision", _V1[:2]),
    ("torchvision.ops.deform_conv", "paddle_dcn.compat.torchvision", _V1[:2]),
    ("torch_npu", "paddle_dcn.compat.npu", ("npu_deformable_conv2d",)),
    ("torch", "paddle_dcn.compat.npu", ("npu_deformable_conv2d",)),
    ("torch.ops.npu", "paddle_dcn.compat.npu", ("npu_deformable_conv2d",)),
    ("ops_dcnv3.modules", _INTERNIMAGE, ("DCNv3",)),
    ("ops_dcnv3.modules.dcnv3", _INTERNIMAGE, ("DCNv3",)),
    ("ops_dcnv3.functions", _INTERNIMAGE, ("DCNv3Function",)),
    ("ops_dcnv3.functions.dcnv3_func", _INTERNIMAGE, ("DCNv3Function",)),
    ("modules.dcnv3", _INTERNIMAGE, ("DCNv3",)),  # run inside of ops_dcnv3
    ("functions.dcnv3_func", _INTERNIMAGE, ("DCNv3Function",)),
    ("DCNv4", _INTERNIMAGE, ("DCNv4", "DCNv4Function")),
    ("DCNv4.modules", _INTERNIMAGE, ("DCNv4",)),
    ("DCNv4.modules.dcnv4", _INTERNIMAGE, ("DCNv4",)),
    ("DCNv4.functions", _INTERNIMAGE, ("DCNv4Function",)),
    ("DCNv4.functions.dcnv4_func", _INTERNIMAGE, ("DCNv4Function",)),
    ("functions.dcnv4_func", _INTERNIMAGE, ("DCNv4Function",)),
)
# Where libraries are that projects keep a copy of, in whatever package: CenterNet has
# models.networks.DCNv2.dcn_v2, BasicSR basicsr.ops.dcn.
_COPIES = {
    "DCNv2.dcn_v2": "dcn_v2",
    "ops.dcn": "mmdet.ops.dcn",
    "ops_dcnv3": "ops_dcnv3",
    "DCNv4.modules": "DCNv4.modules",
    "DCNv4.functions": "DCNv4.functions",
}
_COPY = re.compile(rf"(?:.*\.)?({'|'.join(map(re.escape, _COPIES))})(?=\.|$)")
MOVES = {f"{old}.{name}": f"{new}.{name}" for old, new, names in _MODULES for name in names}
# Paddle's own operators, and the modules that have their calls.
RAW_OPERATORS = ("deformable_conv", "deformable_conv_v1")
RAW_MODULES = ("_C_ops", "_legacy_C_ops", "ops", "_ops")
DISPATCHED = "torch.ops.torchvision.deform_conv2d"
_HOMES = {old: new for old, new, _ in _MODULES}
MODULES = _HOMES.keys() - {"torch"}  # in which much else is looked up by a string
# What a star import of these binds is known.
_STARS = {"paddle.fluid", *_HOMES}
# What finds a part of a module, or a module, by a string.
_ATTRIBUTE_BY_STRING = ("getattr", "setattr", "delattr", "vars")
_MODULE_BY_STRING = ("import_module", "__import__")
BY_STRING = (*_ATTRIBUTE_BY_STRING, "__dict__", *_MODULE_BY_STRING)
# Packages and modules that an operator is reached through.
_PREFIXES = {path[: dot.start()] for path in MOVES for dot in re.finditer(r"\.", path)}
# The last two parts of their names, which give them away on an object that is not known.
_ENDS = {tuple(path.split(".")[-2:]) for path in MOVES}

# Names that operators and their layers have, and names that other things have too, but for modules
# that are called after the operator.
_OPERATOR = re.compile(
    r"_?(modulated_?)?deform(able)?_?conv|DCNv[34]|DCNv2Pack|DFConv", re.IGNORECASE
)
_SHORT = re.compile(r"_?DCN(v2|_|$)|dcn_v2")

FLUID = "paddle.fluid."
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")

Import = Union[cst.Import, cst.ImportFrom]


class Remark(NamedTuple):
    """What the user has to know about one line: `left` (undecided and untouched) or `note`."""

    line: int
    kind: str
    text: str


@dataclass(eq=False)
class Binding:
    """One name bound by one import: `path` is what it stands for (`a` for `import a.b`)."""

    statement: Import
    alias: cst.ImportAlias | None  # None: a star import
    path: str

    @property
    def attached(self) -> bool:
        """Whether it binds the root of a dotted name: `import a.b`, `import a`."""
        return isinstance(self.statement, cst.Import) and self.alias.asname is None


@dataclass(eq=False)
class Mention:
    """A name, or a name and its attributes, that the file reads, assigns to or deletes."""

    node: cst.Name | cst.Attribute | cst.SimpleString | cst.Comment
    words: list[str]
    scope: meta.Scope
    loads: bool

    @property
    def quoted(self) -> str:
        """What it stands in if it can be understood, not rewritten."""
        return {cst.SimpleString: "a string", cst.Comment: "a line for IPython"}.get(
            type(self.node), ""
        )


@dataclass(eq=False)
class Group:
    """A name that imports bind in one scope, and all that the file reaches through it."""

    name: str
    scope: meta.Scope
    bindings: list[Binding] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    contested: bool = False  # other uses may reach it, or something else of that name

    @property
    def path(self) -> str | None:
        """What the name stands for, None where its imports differ."""
        paths = {binding.path for binding in self.bindings}
        return paths.pop() if len(paths) == 1 else None


@dataclass(eq=False)
class Use:
    """A mention that is understood: `path` is its full name, `old` the part of it that moves."""

    mention: Mention
    group: Group
    path: str
    old: str
    new: str | None  # None: nothing of ours
    node: cst.CSTNode | None  # what spells `old`; None where a single name does
    aliased: bool  # reached through `name = module`, not through the import's own name

    @property
    def settled(self) -> bool:
        """Whether it follows its alias without an edit of its own."""
        return self.aliased and self.new is not None and self.node is None


class Meaning(NamedTuple):
    """What a name stands for in a scope."""

    group: Group | None = None
    path: str = ""
    aliased: bool = False
    rivals: frozenset[tuple[Group, str]] = frozenset()  # if it is not always the same import
    unknown: bool = False  # it is, or may be, something that no import binds
    unbound: bool = False


class _Scan(cst.CSTVisitor):
    """Collects imports, mentions, strings, calls and the names that match statements bind."""

    def __init__(self, scopes, contexts, parents):
        super().__init__()
        self._scopes, self._contexts, self._parents = scopes, contexts, parents
        self.imports: list[Import] = []
        self.mentions: list[Mention] = []
        self.attributes: list[cst.Attribute] = []  # of expressions that are no names
        self.strings: list[cst.SimpleString] = []
        self.calls: list[cst.Call] = []
        self.captured: set[str] = set()

    def _mention(self, node, words) -> None:
        context, scope = self._contexts.get(node), self._scopes.get(node)
        if context is not meta.ExpressionContext.STORE or isinstance(node, cst.Attribute):
            loads = context in (None, meta.ExpressionContext.LOAD)
            if scope is not None:  # None: the name of a type parameter
                self.mentions.append(Mention(node, words, scope, loads))

    def visit_Import(self, node: cst.Import) -> bool:
        self.imports.append(node)
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        self.imports.append(node)
        return False

    def visit_Global(self, node: cst.Global) -> bool:
        return False

    def visit_Nonlocal(self, node: cst.Nonlocal) -> bool:
        return False

    def visit_Name(self, node: cst.Name) -> None:
        self._mention(node, [node.value])

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        words = words_of(node)
        if words:
            self._mention(node, words)
        else:
            self.attributes.append(node)
            node.value.visit(self)
        return False

    def visit_Arg(self, node: cst.Arg) -> bool:
        node.value.visit(self)
        return False

    def visit_Call(self, node: cst.Call) -> None:
        self.calls.append(node)

    def visit_SimpleString(self, node: cst.SimpleString) -> None:
        self.strings.append(node)
        parent = node
        while isinstance(parent, (cst.BaseExpression, cst.BaseSlice, cst.SubscriptElement)):
            parent = self._parents[parent]
        if isinstance(parent, cst.Annotation) and isinstance(node.evaluated_value, str):
            for dotted in _DOTTED.findall(node.evaluated_value):
                self._mention(node, dotted.split("."))

    def visit_Comment(self, node: cst.Comment) -> None:
        for dotted in names_kept(node.value):
            self._mention(node, dotted.split("."))

    def visit_MatchAs(self, node: cst.MatchAs) -> None:
        self._capture(node.name)

    def visit_MatchStar(self, node: cst.MatchStar) -> None:
        self._capture(node.name)

    def visit_MatchMapping(self, node: cst.MatchMapping) -> None:
        self._capture(node.rest)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:
        if isinstance(self._scopes.get(node), meta.ComprehensionScope):
            self._capture(node.target)

    def _capture(self, name) -> None:
        # libcst takes these for reads, or binds them in the wrong scope.
        if isinstance(name, cst.Name):
            self.captured.add(name.value)


class Names:
    """What the names in one file stand for, and what of it cannot be told (`remarks`)."""

    def __init__(self, module: cst.Module, folder: Path | None):
        """Read a module that stands in a folder."""
        self._folder = folder
        wrapper = meta.MetadataWrapper(module)
        self.module = wrapper.module
        self.scopes = wrapper.resolve(meta.ScopeProvider)
        self.parents = wrapper.resolve(meta.ParentNodeProvider)
        contexts = wrapper.resolve(meta.ExpressionContextProvider)
        self._positions = wrapper.resolve(meta.PositionProvider)
        self.scan = _Scan(self.scopes, contexts, self.parents)
        self.module.visit(self.scan)
        self.fluid = False  # whether other parts of paddle.fluid move along
        self.remarks: set[Remark] = set()

        self._bind()
        self._understand()
        if any(path.startswith(FLUID) for path in self._moved_paths()):
            self.fluid = True
            self._understand()
        self._look_elsewhere()

    def block(self, node: cst.CSTNode) -> cst.CSTNode:
        """Return the module or block whose statement a node is, or is in."""
        while not isinstance(node, (cst.Module, cst.BaseSuite)):
            node = self.parents[node]
        return node

    def line(self, node: cst.CSTNode) -> int:
        """Return the line that a node starts in."""
        return self._positions[node].start.line

    def left(self, node: cst.CSTNode, text: str) -> None:
        """Remark that something stays as it is because it cannot be told."""
        self.remarks.add(Remark(self.line(node), "left", text))

    def note(self, node: cst.CSTNode, text: str) -> None:
        """Remark what the user may have to know."""
        self.remarks.add(Remark(self.line(node), "note", text))

    def called(self) -> set[str]:
        """List the last names of all that is called: `c` for `a.b.c()`."""
        functions = (call.func for call in self.scan.calls)
        return {words[-1] for words in map(words_of, functions) if words}

    def _bind(self) -> None:
        """Find the groups: names that imports bind."""
        self.groups: dict[tuple[meta.Scope, str], Group] = {}
        self.star_groups: dict[tuple[Binding, str], Group] = {}
        self.stars: list[Binding] = []
        found = {
            (assignment.node, assignment.name): scope
            for scope in {scope for scope in self.scopes.values() if scope is not None}
            for assignment in scope.assignments
            if isinstance(assignment, meta.ImportAssignment)
        }
        for statement in self.scan.imports:
            for binding, name in _bindings(statement):
                if binding.alias is None:
                    self.stars.append(binding)
                    continue
                scope = found[statement, name]
                group = self.groups.setdefault((scope, name), Group(name, scope))
                group.bindings.append(binding)

    def _meaning(self, name: str, scope: meta.Scope, seen: tuple[str, ...] = ()) -> Meaning:
        """Say what a name stands for; `seen` are the names defined by it."""
        found = [a for a in scope[name] if not isinstance(a, meta.BuiltinAssignment)]
        if not found:
            return Meaning(unbound=True)
        meanings: set[tuple[Group, str]] = set()
        unknown, aliased = name in self.scan.captured, False
        for assignment in found:
            if isinstance(assignment, meta.ImportAssignment):
                group = self.groups[assignment.scope, name]
                meanings |= {(group, binding.path) for binding in group.bindings}
                continue
            value = self._assigned_value(assignment.node)
            if isinstance(value, cst.Name) and value.value == "None":
                continue
            words = words_of(value)
            if not words or words[0] in (name, *seen):
                unknown = True
                continue
            inner = self._meaning(words[0], assignment.scope, (name, *seen))
            rivals = inner.rivals or ({(inner.group, inner.path)} if inner.group else set())
            meanings |= {(group, ".".join([path, *words[1:]])) for group, path in rivals}
            unknown |= inner.group is None
            aliased = True
        scope = found[0].scope
        if isinstance(scope, meta.ClassScope):  # until it is bound, the name is that outside
            outer = self._meaning(name, scope.parent, seen)
            meanings |= outer.rivals | ({(outer.group, outer.path)} if outer.group else set())
        if len(meanings) == 1 and not unknown:
            group, path = meanings.pop()
            return Meaning(group, path, aliased)
        return Meaning(rivals=frozenset(meanings), unknown=unknown)

    def _assigned_value(self, target: cst.CSTNode) -> cst.BaseExpression | None:
        """Return x of `target = x`, None where it is bound in another way."""
        parent = self.parents.get(target)
        if isinstance(parent, cst.AssignTarget):
            parent = self.parents[parent]
        if isinstance(parent, (cst.Assign, cst.AnnAssign, cst.NamedExpr)):
            return parent.value or cst.Name("None")  # a bare annotation binds nothing
        return None

    def move(self, path: str) -> tuple[str, str | None]:
        """Return the part of a full name that moves, and its new name (None: nothing of ours)."""
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            old = ".".join(parts[:end])
            if new := MOVES.get(_original(old)):
                return old, new
        if self.fluid and path.startswith(FLUID) and fluid_lacks(path) is None:
            return path, "paddle_dcn" + path[len("paddle") :]
        return path, None

    def _moved_paths(self) -> Iterator[str]:
        for group in self.all_groups():
            yield from (use.old for use in group.uses if use.new)
            yield from (b.path for b in group.bindings if self.move(b.path)[1])

    def all_groups(self) -> list[Group]:
        return [*self.groups.values(), *self.star_groups.values()]

    def _understand(self) -> None:
        """Sort the mentions into the groups they come from."""
        self.remarks.clear()
        self.star_groups.clear()
        self.unbound: set[str] = set()
        self.fled: set[str] = set()
        self.strange = [(node, _attributes(node)) for node in self.scan.attributes]
        for group in self.groups.values():
            # What a class body imports is an attribute of the class, too.
            in_class = isinstance(group.scope, meta.ClassScope)
            group.uses, group.contested = [], in_class
            self.fled |= {binding.path for binding in group.bindings if in_class}
        for mention in self.scan.mentions:
            root, rest = mention.words[0], mention.words[1:]
            meaning = self._meaning(root, mention.scope)
            if meaning.unbound:
                meaning = self._from_star(mention)
            elif self._starred(mention):
                self.left(mention.node, f"a star import may bind {root!r} too")
                continue
            if meaning.group is None:
                for group, path in meaning.rivals:
                    group.contested = True
                    self.fled.add(".".join([path, *rest]))
                if not self._explain(mention, meaning):
                    self.strange.append((mention.node, rest))
                continue
            path = ".".join([meaning.path, *rest])
            old, new = self.move(path)
            steps = len(old.split(".")) - len(meaning.path.split("."))
            node = _prefix(mention.node, len(rest) - steps) if steps > 0 else None
            use = Use(mention, meaning.group, path, old, new, node, meaning.aliased)
            meaning.group.uses.append(use)

    def _from_star(self, mention: Mention) -> Meaning:
        """Find the star import that an unbound name comes from."""
        root, dotted = mention.words[0], ".".join(mention.words)
        if root.startswith("__") or hasattr(builtins, root):
            return Meaning()
        stars = [star for star in self.stars if self.move(f"{star.path}.{dotted}")[1]]
        if isinstance(mention.node, cst.Comment) and not stars:  # much in it is no name
            if _original(dotted) in MODULES | MOVES.keys():
                self.left(mention.node, f"{dotted} is named in {mention.quoted}")
            self.unbound.add(root)
            return Meaning()
        self.unbound.add(root)
        if not stars and self.fluid:
            stars = [star for star in self.stars if f"{star.path}.".startswith(FLUID)][:1]
        if stars:
            found = stars[-1]
            later = self.stars[self.stars.index(found) + 1 :]
            nested = any(self.block(star.statement) is not self.module for star in stars)
            if any(_original(star.path) not in _STARS for star in later) or (
                nested and len(stars) > 1
            ):
                self.left(mention.node, f"another star import may bind {root!r}")
                return Meaning()
            path = f"{found.path}.{root}"
            binding = Binding(found.statement, None, path)
            group = Group(root, self.scopes[found.statement], [binding])
            return Meaning(self.star_groups.setdefault((found, root), group), path)
        if self.stars and any(f".{old}".endswith(f".{dotted}") for old in MOVES):
            self.left(mention.node, f"{root!r} may come from any star import, or from none")
        return Meaning()

    def _starred(self, mention: Mention) -> bool:
        """Whether a star import may bind a name that is bound elsewhere in the file, too."""
        found = [a for a in mention.scope[mention.words[0]] if isinstance(a, meta.Assignment)]
        if not found or not isinstance(found[0].scope, meta.GlobalScope):
            return False
        for star in self.stars:
            blocks = (self.module, self.block(star.statement))
            start, end = self.line(star.statement), self.line(mention.node)
            overridden = any(
                start < self.line(a.node) < end and self.block(a.node) in blocks for a in found
            )
            if self.move(".".join([star.path, *mention.words]))[1] and not overridden:
                return True
        return False

    def _explain(self, mention: Mention, meaning: Meaning) -> bool:
        """List a mention that may be a deformable convolution; say whether it is one of those."""
        root, rest = mention.words[0], mention.words[1:]
        # With nothing but its name to go by, an import that binds the operator is left in place
        # and pointed at ours whatever else binds the name.
        paths = [path for _, path in meaning.rivals] if rest else []
        text = f"{root!r} is bound in more than one way"
        if meaning.unknown and not meaning.rivals and not self._defined(root, mention.scope):
            groups = (group for group in self.groups.values() if group.name == root)
            paths = [binding.path for group in groups for binding in group.bindings]
            text = f"{root!r} is bound to something else here"
        listed = any(self.move(".".join([path, *rest]))[1] for path in paths)
        if listed:
            self.left(mention.node, text)
        return listed

    def _defined(self, name: str, scope: meta.Scope) -> bool:
        """Whether the name is a function or class written in this file."""
        nodes = [getattr(found, "node", None) for found in scope[name]]
        return all(isinstance(node, (cst.FunctionDef, cst.ClassDef)) for node in nodes)

    def _look_elsewhere(self) -> None:
        """List what reaches a deformable convolution by its name in a string."""
        for call in self.scan.calls:
            words = words_of(call.func)
            values = [arg.value for arg in call.args]
            if not words or not values:
                continue
            texts = [v.evaluated_value if isinstance(v, cst.SimpleString) else None for v in values]
            name = texts[1] if len(texts) > 1 else None
            if len(words) == 1 and words[0] in _ATTRIBUTE_BY_STRING:
                base = words_of(values[0])
                meaning = self._meaning(base[0], self.scopes[call]) if base else Meaning()
                path = _original(".".join([meaning.path, *base[1:]])) if meaning.group else ""
                raw = name in RAW_OPERATORS and path.split(".")[-1] in RAW_MODULES
                found = f"{path}.{name}" in MOVES or f"{path}.{name}" == DISPATCHED
                if raw or found or (path in MODULES and name is None):
                    self.left(call, f"it is reached by {words[0]} on {path}")
            elif words[-1] in _MODULE_BY_STRING and _original(texts[0] or "") in MODULES:
                self.left(call, f"{texts[0]} is imported by a call")
        for string in self.scan.strings:
            if isinstance(string.evaluated_value, str) and (
                _original(string.evaluated_value) in MOVES
            ):
                self.left(string, f"{string.evaluated_value} is named in a string")
        for use in (use for group in self.all_groups() for use in group.uses):
            kept = isinstance(use.mention.node, cst.Comment)
            if use.new is None and not kept and not self.defines_alias(use):
                self.fled.add(use.path)
            module, found, _ = use.path.partition(".__dict__")
            if found and _original(module) in MODULES:
                self.left(use.mention.node, f"it is reached by __dict__ on {module}")
        fled = {_original(path) for path in self.fled} & _PREFIXES
        for node, words in self.strange:
            tails = [".".join(words[i:]) for i in range(len(words))]
            paths = {f"{module}.{tail}" for module in fled for tail in tails} & MOVES.keys()
            for path in paths:
                self.left(node, f"it may be {path}: that module is used as a value")
            end = tuple(words_of(node) or words)[-2:]
            if end in _ENDS and all(remark.line != self.line(node) for remark in self.remarks):
                self.left(node, f"{'.'.join(end)} is reached through something unknown")

    def list_others(self) -> None:
        """List what is called like an operator and comes from a module without one of ours."""
        listed = {remark.line for remark in self.remarks if remark.kind == "left"}
        for group in self.all_groups():
            for binding in group.bindings:
                if isinstance(binding.statement, cst.ImportFrom):
                    self._list_other(binding.path, binding.statement)
            for use in group.uses:
                if use.new is None and self.line(use.mention.node) not in listed:
                    self._list_reached(use)

    def _list_reached(self, use: Use) -> None:
        """List the operator that a use is or has an attribute of; of other modules, if called."""
        node, parts = use.mention.node, use.path.split(".")
        call = self.parents.get(node)
        called = []
        if isinstance(call, cst.Call) and call.func is node:
            called = parts[:-1] if parts[-1] == "apply" else parts
        for end in range(len(parts), len(parts) - len(use.mention.words) + 1, -1):
            if parts[:end] == called or _original(".".join(parts[: end - 1])) in _HOMES:
                self._list_other(".".join(parts[:end]), node)

    def _list_other(self, path: str, node: cst.CSTNode) -> None:
        name = path.rpartition(".")[2]
        module = path[: -len(name)]
        module = module[:-1] if module.strip(".") else module  # dots only: `from .. import a`
        known = _HOMES.get(_original(module))
        called = _OPERATOR.match(name) or (_SHORT.match(name) and "dcn" in module.lower())
        if not called or path.startswith("paddle_dcn.") or _original(path) in _PREFIXES:
            return
        if self.move(path)[1]:
            return
        if known:
            self.left(node, f"{name} of {module} is not in {known}")
        elif _is_here(module, self._folder):
            self.note(node, f"{name} comes from {module}, another file of this project")
        else:
            self.left(node, f"{name} comes from {module}, which is not known here")

    def defines_alias(self, use: Use) -> bool:
        """Whether the use is x of a `name = x` for a module, understood wherever `name` is used."""
        ours = use.path.startswith(FLUID) and fluid_lacks(use.path) == ""
        in_class = isinstance(use.mention.scope, meta.ClassScope)  # where it is an attribute, too
        if in_class or not (ours or _original(use.path) in _PREFIXES):
            return False
        parent = self.parents.get(use.mention.node)
        if isinstance(parent, cst.Assign):
            targets = [target.target for target in parent.targets]
        elif isinstance(parent, cst.AnnAssign):
            targets = [parent.target]
        else:
            return False
        return all(
            isinstance(target, cst.Name)
            and self._meaning(target.value, use.mention.scope).path == use.path
            for target in targets
        )


def _original(path: str) -> str:
    """Return a full name in a copy of a library as the library itself has it."""
    return _COPY.sub(lambda found: _COPIES[found[1]], path, count=1)


def _is_here(module: str, folder: Path | None) -> bool:
    """Whether a module is a file of the project that a file in the folder is of."""
    if module.startswith("."):
        return True
    below = Path(*module.split("."))
    above = [folder, *folder.parents][:-1] if folder else []
    files = [f"{path}.py" for path in (below, *below.parents) if path.name]  # of what is in it, too
    return any(
        (each / below).is_dir() or any((each / file).is_file() for file in files) for each in above
    )


def words_of(node: cst.CSTNode) -> list[str] | None:
    """Return the names in `a.b.c`, None for other expressions."""
    words = []
    while isinstance(node, cst.Attribute):
        words.append(node.attr.value)
        node = node.value
    return [*words, node.value][::-1] if isinstance(node, cst.Name) else None


def _attributes(node: cst.Attribute) -> list[str]:
    """Return the names behind the expression in `f().a.b`."""
    words = []
    while isinstance(node, cst.Attribute):
        words.append(node.attr.value)
        node = node.value
    return words[::-1]


def _prefix(node: cst.CSTNode, dropped: int) -> cst.CSTNode:
    """Return `a.b` of `a.b.c` and 1."""
    for _ in range(dropped if isinstance(node, cst.Attribute) else 0):
        node = node.value
    return node


def _bindings(statement: Import) -> Iterator[tuple[Binding, str]]:
    """List what an import binds, with the names; stars with an empty name."""
    if isinstance(statement, cst.Import):
        for alias in statement.names:
            path = alias.evaluated_name
            name = alias.evaluated_alias or path.partition(".")[0]
            yield Binding(statement, alias, path if alias.asname else name), name
        return
    words = words_of(statement.module) if statement.module else []
    module = "." * len(statement.relative) + ".".join(words)
    if isinstance(statement.names, cst.ImportStar):
        yield Binding(statement, None, module), ""
        return
    for alias in statement.names:
        path = f"{module}{'' if module.endswith('.') else '.'}{alias.evaluated_name}"
        yield Binding(statement, alias, path), alias.evaluated_alias or alias.evaluated_name


def imported(statement: Import) -> list[str]:
    """List the full names that an import needs."""
    if isinstance(statement, cst.Import):
        return [alias.evaluated_name for alias in statement.names]
    return [binding.path for binding, _ in _bindings(statement)]


def fluid_lacks(path: str) -> str | None:
    """Say why paddle_dcn.fluid does not offer a `paddle.fluid...` name; None where it does.

    The reason is empty for modules, and what they have of themselves: ours have less in them.
    """
    part = importlib.import_module("paddle_dcn.fluid")
    for name in path.split(".")[2:]:
        try:
            part = getattr(part, name)
        except AttributeError as error:
            return str(error).rpartition(": ")[2]  # the message ends with what to use instead
    whole = isinstance(part, types.ModuleType) or ".__" in path
    return "" if whole else None
