"""Random programs reach the same operators after `migrate`, through whatever names they use.

They run on stand-ins for all the modules, whose operators note that they were called.
"""

import builtins
import random
import types

import pytest

pytest.importorskip("libcst", reason="pip install libcst")

from paddle_dcn._rewrite import rewrite
from paddle_dcn._rewrite.names import MOVES

FLUID = {f"paddle.fluid.{name}": f"paddle_dcn.fluid.{name}" for name in ("layers.data", "Executor")}
NEW = MOVES | FLUID
OTHERS = """mmcv.imread mmcv.ops.nms other.deform_conv2d other.ops.deform_conv2d paddle.add
    paddle.fluid.layers.conv2d paddle.static.nn.fc paddle.vision.ops.nms torchvision.ops.nms"""

IMPORTS = """import paddle, paddle as pd|import paddle.vision.ops|import paddle.vision.ops as ops
    from paddle.vision import ops|from paddle import vision, fluid|import paddle.fluid as fluid
    from paddle.vision.ops import deform_conv2d as dc, nms|import paddle.fluid|import mmcv, other
    import mmcv.ops|import mmcv.ops.deform_conv|from mmcv.ops import deform_conv2d, DeformConv2d
    from mmcv.ops import deform_conv, nms|import torchvision.ops as ops|import torchvision
    from torchvision.ops import (DeformConv2d, nms)|from paddle.fluid import layers
    from paddle.fluid.layers import deformable_conv, data|import paddle.static.nn as nn
    from paddle.static import nn|from other import deform_conv2d, ops|import paddle_dcn
    import paddle_dcn.compat.mmcv|import paddle_dcn as ops|from paddle_dcn import deform_conv2d"""
STARS = ("paddle.vision.ops", "mmcv.ops", "paddle.fluid.layers", "paddle.fluid", "other")
CALLED = f"""{OTHERS} paddle.vision.ops.deform_conv2d ops.deform_conv2d ops.DeformConv2d ops.nms
    vision.ops.DeformConv2D deform_conv2d dc nms mmcv.ops.DeformConv2d DeformConv2d data
    pd.vision.ops.deform_conv2d torchvision.ops.deform_conv2d fluid.layers.deformable_conv
    fluid.layers.data fluid.layers.conv2d fluid.Executor layers.deformable_conv layers.data
    deformable_conv paddle.fluid.layers.deformable_conv paddle.fluid.layers.data nn.deform_conv2d
    nn.fc deform_conv.deform_conv2d paddle_dcn.deform_conv2d alias alias.deform_conv2d
    mmcv.ops.deform_conv.deform_conv2d alias.layers.deformable_conv Executor"""
BOUND = "ops fluid alias dc layers deform_conv2d mmcv paddle nn".split()
ASSIGNED = """ops fluid.layers fluid paddle.vision.ops mmcv.ops ops.deform_conv2d ops.nms
    fluid.layers.conv2d paddle.add None other 3""".split()


class Program:
    """Writes a random program; each statement `call(number, function)` calls something."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.calls = 0
        self.code = "".join(self.statement("") for _ in range(self.random.randint(4, 9)))

    def pick(self, text, separator=None):
        options = text.replace("\n    ", "|").split(separator) if separator else text.split()
        return self.random.choice(options)

    def block(self, indent, most=3):
        count = self.random.randint(1, most)
        return "".join(self.statement(indent + "    ") for _ in range(count))

    def statement(self, indent):
        bound = self.random.choice(BOUND)
        kind = self.random.random()
        if kind < 0.25:
            return f"{indent}{self.pick(IMPORTS, '|')}\n"
        if kind < 0.27 and not indent:
            return f"from {self.random.choice(STARS)} import *\n"
        if kind < 0.36:
            return f"{indent}{bound} = {self.random.choice(ASSIGNED)}\n"
        if kind < 0.40:
            return f"{indent}alias = {self.random.choice(ASSIGNED[:5])}\n"
        if kind > 0.68 and len(indent) < 12:
            if kind < 0.75:
                fallback = self.random.choice(["pass", f"{bound} = None"])
                head = f"{indent}try:\n{self.block(indent, 2)}"
                return f"{head}{indent}except Exception:\n{indent}    {fallback}\n"
            if kind < 0.79:
                return f"{indent}if {self.random.random() < 0.5}:\n{self.block(indent, 2)}"
            if kind < 0.83:
                return f"{indent}class Class:\n{self.block(indent)}"
            argument = self.random.choice(["", "", f"{bound}=None"])
            outer = f"{indent}    global {bound}\n" if kind > 0.98 and not argument else ""
            head = f"{indent}def function({argument}):\n{outer}"
            return f"{head}{self.block(indent, 4)}{indent}call(0, function)\n"
        self.calls += 1
        called = self.pick(CALLED)
        body = f"lambda: {called}(1)"
        if kind < 0.42:
            body = f"lambda: [{called}(1) for {bound} in [0, other]]"
        elif kind < 0.44:
            body = f"lambda x={called}: x(1)"
        elif kind < 0.45:
            body = f"lambda: (alias := {self.random.choice(ASSIGNED[:5])}).{self.pick(CALLED)}(1)"
        elif kind < 0.47:
            body = f"lambda {bound}=None: {called}({self.pick(CALLED)}(2))"
        return f"{indent}call({self.calls}, {body})\n"


class Operator:
    """Notes in `called` that it was called."""

    def __init__(self, path, called):
        self.path, self.called = path, called

    def __call__(self, *args):
        self.called.append(self.path)
        return self


def run(code):
    """Run code on stand-ins; gives what each call reached, None where it failed, and the error."""
    called, reached, root = [], {}, types.SimpleNamespace()
    for path in [*NEW, *NEW.values(), *OTHERS.split()]:
        module, *names = root, *path.split(".")
        for name in names[:-1]:
            module = module.__dict__.setdefault(name, types.SimpleNamespace())
        if not hasattr(module, names[-1]):
            setattr(module, names[-1], Operator(path, called))

    def find(path, _globals=None, _locals=None, names=(), _level=0):
        module = root
        for name in path.split("."):
            module = getattr(module, name, None)
        if not isinstance(module, types.SimpleNamespace):
            raise ImportError(path)
        if names == ("*",):  # operators, and the one module that paddle.fluid exports
            exported = types.ModuleType(path)
            for name, part in vars(module).items():
                if isinstance(part, Operator) or name == "layers":
                    setattr(exported, name, part)
            return exported
        return module if names else getattr(root, path.split(".")[0])

    def call(number, function):
        start = len(called)
        try:
            function()
            result = called[start:]
        except Exception:
            result = None
        if number:
            reached.setdefault(number, []).append(result)

    environment = {"call": call, "__name__": "program"}
    environment["__builtins__"] = vars(builtins) | {"__import__": find}
    try:
        exec(compile(code, "program", "exec"), environment)
    except Exception as error:
        return reached, error
    return reached, None


@pytest.mark.parametrize("seed", range(120))
def test_same_operators_are_reached(seed, monkeypatch):
    from paddle_dcn._rewrite import names

    monkeypatch.setattr(names, "fluid_lacks", lambda path: None if path in FLUID else "it lacks it")
    code = Program(seed).code
    try:
        compile(code, "program", "exec")
    except SyntaxError:
        pytest.skip("a name is used before it is declared global")
    target = ("modern", "legacy")[seed % 2]
    result = rewrite(code, target)
    assert rewrite(result.code, target).code == result.code
    (before, old_error), (after, new_error) = run(code), run(result.code)
    left = any(
        remark.kind == "left" and not remark.text.endswith("not known here")
        for remark in result.remarks
    )
    if old_error is None:
        assert new_error is None
        assert after.keys() >= before.keys()
    for number in before.keys() & after.keys():
        for old, new in zip(before[number], after[number]):
            if old is not None:  # what failed may fail in another way, or not at all
                assert new is not None
                assert [NEW.get(path, path) for path in old] == [
                    NEW.get(path, path) for path in new
                ]
                assert left or not any(path in MOVES for path in new)
