"""`python -m paddle_dcn migrate`: what is rewritten and what is left."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from paddle_dcn import export, migrate
from paddle_dcn.__main__ import main
from tests.support.process import run_python

pytest.importorskip("libcst", reason="pip install libcst")

DATA = Path(__file__).parent / "data"
TARGETS = ("modern", "legacy")


def source(folder, name):
    """Return a fixture's text, `before` the rewrite or `after` it."""
    return (DATA / folder / f"{name}.py").read_bytes().decode()


def rewrite(code, target="modern"):
    """Rewrite code; check that doing it again changes nothing more, and that folders are told."""
    from paddle_dcn._rewrite import concerns, rewrite

    result = rewrite(code, target)
    assert rewrite(result.code, target).code == result.code
    assert concerns(code.encode()) or (result.code == code and not result.remarks)
    return result


STAYS = (
    "stays a static layer, as it creates its own parameters in the program, by name; "
    "paddle_dcn.DeformConv2D is its counterpart in dynamic mode"
)
ENABLE = "Paddle starts in dynamic mode now: call paddle.enable_static() first"
DTYPES = "x.dtype in Paddle 3's programs equals no VarType: compare with paddle.float32"
FAILS = "this import stays, and fails: current Paddle has no paddle.fluid"
TORCH = "paddle_dcn.compat takes Paddle tensors; the torch code around it is not ported"
LACKS = "paddle.fluid.{} is not in paddle_dcn.fluid: use {} of current Paddle"

# The remarks on each fixture, and the lines of the static calls that target modern notes.
REMARKS = {
    "vision_names": [],
    "vision_module": [],
    "vision_attributes": [],
    "vision_classes": [],
    "vision_star": [],
    "vision_local": [],
    "vision_undecided": [
        (12, "left", "'ops' is bound to something else here"),
        (16, "left", "'ops' is bound to something else here"),
        (20, "left", "it is reached by getattr on paddle.vision.ops"),
        (27, "left", "'backend' is bound in more than one way"),
        (31, "left", "paddle.vision.ops.deform_conv2d is named in a string"),
    ],
    "fluid_script": [(9, "note", ENABLE)],
    "fluid_aliases": [(7, "note", ENABLE)],
    "fluid_star": [(8, "note", ENABLE)],
    "fluid_dotted": [(11, "note", ENABLE)],
    "fluid_named": [(8, "note", ENABLE)],
    "fluid_rest": [
        (2, "left", FAILS),
        (3, "left", FAILS),
        (3, "left", LACKS.format("dygraph.Conv2D", "paddle.nn")),
        (8, "left", LACKS.format("layers.roll", "paddle.roll")),
        (9, "left", LACKS.format("layers.nan_to_num", "paddle.nan_to_num")),
        (10, "note", ENABLE),
    ],
    "static_calls": [],
    "mmcv_names": [],
    "mmcv_modules": [],
    "mmcv_optional": [],
    "torchvision_calls": [],
    "torchvision_mixed": [(3, "note", TORCH)],
}
STATIC_CALLS = {
    "fluid_script": [9],
    "fluid_aliases": [7],
    "fluid_star": [8],
    "fluid_dotted": [11],
    "fluid_named": [8, 9, 30],
    "fluid_rest": [10],
    "static_calls": [10, 11, 12],
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REMARKS)
def test_fixture(name, target):
    result = rewrite(source("before", name), target)
    assert result.code == source("after", name)
    lines = STATIC_CALLS.get(name, []) if target == "modern" else []
    wanted = REMARKS[name] + [(line, "note", STAYS) for line in lines]
    assert [tuple(remark) for remark in result.remarks] == sorted(wanted)


def test_fixtures_are_all_here():
    assert {path.stem for path in (DATA / "before").iterdir()} == set(REMARKS)
    assert {path.stem for path in (DATA / "after").iterdir()} == set(REMARKS)


# Imports and what becomes of them, None for nothing.
IMPORTS = {
    "import a.b as c": (
        "import torchvision.ops as c\nc.deform_conv2d(x, o, w)\n",
        "import paddle_dcn.compat.torchvision as c\nc.deform_conv2d(x, o, w)\n",
    ),
    "alias of the name it has": (
        "import mmcv.ops as mmcv\nmmcv.deform_conv2d(x)\n",
        "import paddle_dcn.compat.mmcv as mmcv\nmmcv.deform_conv2d(x)\n",
    ),
    "from a import b": (
        "from mmcv import ops, cnn\nops.DeformConv2d(1, 2, 3)\n",
        "from mmcv import cnn\nfrom paddle_dcn.compat import mmcv as ops\n"
        "ops.DeformConv2d(1, 2, 3)\n",
    ),
    "import a": (
        "import torchvision, os\nprint(torchvision.ops.deform_conv2d, os)\n",
        "import os\nimport paddle_dcn.compat.torchvision\n"
        "print(paddle_dcn.compat.torchvision.deform_conv2d, os)\n",
    ),
    "import a, still used": (
        "import torchvision\nprint(torchvision.ops.deform_conv2d, torchvision.io)\n",
        "import torchvision\nimport paddle_dcn.compat.torchvision\n"
        "print(paddle_dcn.compat.torchvision.deform_conv2d, torchvision.io)\n",
    ),
    "import a.b, a still used": (
        "import mmcv.ops\nprint(mmcv.ops.deform_conv2d, mmcv.imread)\n",
        "import mmcv\nimport paddle_dcn.compat.mmcv\n"
        "print(paddle_dcn.compat.mmcv.deform_conv2d, mmcv.imread)\n",
    ),
    "beside one that is there": (
        "import paddle\nimport paddle_dcn\nprint(paddle.vision.ops.deform_conv2d, paddle.add)\n",
        "import paddle\nimport paddle_dcn\nprint(paddle_dcn.deform_conv2d, paddle.add)\n",
    ),
    "in a function": (
        "def f(x):\n    import mmcv.ops  # late\n    return mmcv.ops.deform_conv2d(x)\n",
        "def f(x):\n    import paddle_dcn.compat.mmcv  # late\n"
        "    return paddle_dcn.compat.mmcv.deform_conv2d(x)\n",
    ),
    "comments between names": (
        "from mmcv.ops import (  # ops\n    nms,\n    # deform\n    DeformConv2dPack,\n"
        "    # more\n    deform_conv2d  # last\n)\n",
        "from mmcv.ops import (  # ops\n    nms\n    # deform\n    # more\n)\n"
        "from paddle_dcn.compat.mmcv import (\n    DeformConv2dPack,\n"
        "    deform_conv2d,  # last\n)\n",
    ),
    "comment on a dropped line": (
        "import mmcv.ops\nimport mmcv.ops.deform_conv  # both\nmmcv.ops.deform_conv2d(x)\n",
        "import paddle_dcn.compat.mmcv\npass  # both\npaddle_dcn.compat.mmcv.deform_conv2d(x)\n",
    ),
    "named in __all__": (
        "from paddle.vision import ops, nms\n__all__ = ['ops']\nvision = ops.deform_conv2d\n",
        "from paddle.vision import nms\nimport paddle_dcn as ops\n"
        "__all__ = ['ops']\nvision = ops.deform_conv2d\n",
    ),
    "named in __all__, with full names": (
        "import torchvision\n__all__ = ['torchvision']\nprint(torchvision.ops.deform_conv2d)\n",
        "import torchvision\nimport paddle_dcn.compat.torchvision\n__all__ = ['torchvision']\n"
        "print(paddle_dcn.compat.torchvision.deform_conv2d)\n",
    ),
    "comment on an unused name": (
        "from paddle import (\n    vision,  # ops\n)\nprint(vision.ops.deform_conv2d)\n",
        "from paddle import (\n    vision,  # ops\n)\nimport paddle_dcn\n"
        "print(paddle_dcn.deform_conv2d)\n",
    ),
    "several statements in a line": (
        "import os;import mmcv.ops as o; o.deform_conv2d(os)\n",
        "import os;import paddle_dcn.compat.mmcv as o; o.deform_conv2d(os)\n",
    ),
    "import a.b, a passed on": (
        "import mmcv.ops\nprint(mmcv.ops.deform_conv2d, mmcv)\n",
        "import mmcv.ops\nimport paddle_dcn.compat.mmcv\n"
        "print(paddle_dcn.compat.mmcv.deform_conv2d, mmcv)\n",
    ),
    "two star imports": (
        "from mmcv.ops import *\nfrom torchvision.ops import *\ndeform_conv2d(DeformConv2dPack)\n",
        "from mmcv.ops import *\nfrom paddle_dcn.compat.mmcv import DeformConv2dPack\n"
        "from torchvision.ops import *\nfrom paddle_dcn.compat.torchvision import deform_conv2d\n"
        "deform_conv2d(DeformConv2dPack)\n",
    ),
    "aliases of what is not ours": (
        "import mmcv.ops as ops\nfrom paddle.vision import ops as o2\nnms = ops.nms\n"
        "(o2 if x else (a := o2)).nms\nprint(ops.deform_conv2d, o2.deform_conv2d)\n",
        "import mmcv.ops as ops\nimport paddle_dcn.compat.mmcv\n"
        "from paddle.vision import ops as o2\nnms = ops.nms\n(o2 if x else (a := o2)).nms\n"
        "print(paddle_dcn.compat.mmcv.deform_conv2d, paddle_dcn.deform_conv2d)\n",
    ),
    "a class that reads the name outside": (
        "import torchvision\nimport mmcv.ops as ops\nclass A:\n    torchvision = torchvision.io\n"
        "    ops = ops.nms\nprint(torchvision.ops.deform_conv2d, ops.deform_conv2d)\n",
        "import torchvision\nimport paddle_dcn.compat.torchvision\nimport mmcv.ops as ops\n"
        "import paddle_dcn.compat.mmcv\nclass A:\n    torchvision = torchvision.io\n"
        "    ops = ops.nms\nprint(paddle_dcn.compat.torchvision.deform_conv2d, "
        "paddle_dcn.compat.mmcv.deform_conv2d)\n",
    ),
    "bound behind a star import": (
        "from mmcv.ops import *\nfrom mylib import f as deform_conv2d\ndeform_conv2d(nms)\n",
        None,
    ),
    "a class that imports it": (
        "class A:\n    import paddle.vision.ops as o\n    a = o.deform_conv2d\n"
        "    b = lambda s: s.o.nms\n",
        "class A:\n    import paddle.vision.ops as o\n    import paddle_dcn\n"
        "    a = paddle_dcn.deform_conv2d\n    b = lambda s: s.o.nms\n",
    ),
    "a function of the same name": (
        "from paddle.vision.ops import deform_conv2d\ndef f():\n    def deform_conv2d(): ...\n"
        "    return deform_conv2d()\n",
        "from paddle_dcn import deform_conv2d\ndef f():\n    def deform_conv2d(): ...\n"
        "    return deform_conv2d()\n",
    ),
    "alias in a walrus": (
        "import paddle\nif (ops := paddle.vision.ops): ops.deform_conv2d(paddle.add)\n",
        "import paddle\nimport paddle_dcn\n"
        "if (ops := paddle.vision.ops): paddle_dcn.deform_conv2d(paddle.add)\n",
    ),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_imports(name):
    before, after = IMPORTS[name]
    code, remarks = rewrite(before)
    assert code == (before if after is None else after)
    assert all(remark == (1, "note", TORCH) for remark in remarks)
    assert rewrite(before.replace("\n", "\r\n")).code == code.replace("\n", "\r\n")


# What cannot be decided and stays: the code, and the remark on its last line.
OPS = "import paddle.vision.ops as ops\n"
LEFT = {
    "other module in a branch": (
        "if x:\n    import torchvision.ops as ops\nelse:\n    " + OPS + "ops.deform_conv2d(x)",
        "'ops' is bound in more than one way",
    ),
    "loop variable": (
        OPS + "for ops in x:\n    ops.deform_conv2d(x)",
        "'ops' is bound in more than one way",
    ),
    "alias of an undecided name": (
        "if x:\n    import torchvision.ops as ops\nelse:\n    "
        + OPS
        + "a = ops\na.deform_conv2d(x)",
        "'a' is bound in more than one way",
    ),
    "attribute of a class": (
        OPS + "class A:\n    o = ops\n    def f(self): self.o.deform_conv2d(x)",
        "it may be paddle.vision.ops.deform_conv2d: that module is used as a value",
    ),
    "attribute of that name": (
        OPS + "class A:\n    ops = ops\n    def f(self): self.ops.deform_conv2d(x)",
        "it may be paddle.vision.ops.deform_conv2d: that module is used as a value",
    ),
    "star imports in branches": (
        "try:\n    from mmcv.ops import *\nexcept ImportError:\n    from torchvision.ops import *\n"
        "deform_conv2d(x)",
        "another star import may bind 'deform_conv2d'",
    ),
    "alias of something else": (
        OPS + "a = ops\nif x: a = y\na.deform_conv2d(x)",
        "'a' is bound in more than one way",
    ),
    "match": (
        OPS + "match x:\n  case [ops]: ops.deform_conv2d(x)",
        "'ops' is bound in more than one way",
    ),
    "parameter": (
        OPS + "def f(ops): return ops.deform_conv2d(x)",
        "'ops' is bound to something else here",
    ),
    "tuple assignment": (
        OPS + "a, b = ops, x\na.deform_conv2d(x)",
        "it may be paddle.vision.ops.deform_conv2d: that module is used as a value",
    ),
    "passed on": (
        OPS + "f(ops); x.ops.deform_conv2d(x)",
        "it may be paddle.vision.ops.deform_conv2d: that module is used as a value",
    ),
    "assigned to": (
        OPS + "ops.deform_conv2d = x",
        "paddle.vision.ops.deform_conv2d is assigned to or deleted in this file",
    ),
    "attribute of a class that imports it": (
        "class A:\n    from paddle.vision import ops\n    def f(self): self.ops.deform_conv2d(x)",
        "it may be paddle.vision.ops.deform_conv2d: that module is used as a value",
    ),
    "attribute of an object": (
        "self.fluid.layers.deformable_conv(x)",
        "layers.deformable_conv is reached through something unknown",
    ),
    "attribute of an expression": (
        "f(x)[0].static.nn.deform_conv2d(x)",
        "nn.deform_conv2d is reached through something unknown",
    ),
    "attribute of a parameter": (
        "def f(ops): return ops.DeformConv2D(x)",
        "ops.DeformConv2D is reached through something unknown",
    ),
    "getattr": (OPS + "getattr(ops, x)", "it is reached by getattr on paddle.vision.ops"),
    "vars": (OPS + "vars(ops)[x]", "it is reached by vars on paddle.vision.ops"),
    "__dict__": (OPS + "ops.__dict__.get(x)", "it is reached by __dict__ on paddle.vision.ops"),
    "import_module": (
        "import importlib\nimportlib.import_module('mmcv.ops').deform_conv2d(x)",
        "mmcv.ops is imported by a call",
    ),
    "string annotation": (
        "import mmcv\ndef f(x: 'mmcv.ops.DeformConv2d'): ...",
        "mmcv.ops.DeformConv2d is named in a string",
    ),
    "unknown star": (
        "from paddle.vision.ops import *\nfrom mine import *\ndeform_conv2d(x)",
        "another star import may bind 'deform_conv2d'",
    ),
    "star or definition": (
        "try:\n    from mmcv.ops import *\nexcept ImportError:\n    deform_conv2d = x\n"
        "deform_conv2d(x)",
        "a star import may bind 'deform_conv2d' too",
    ),
    "no binding at all": (
        "from mine import *\nfluid.layers.deformable_conv(x)",
        "'fluid' may come from any star import, or from none",
    ),
    "global statement": (
        "def f():\n    global mmcv\n    import mmcv.ops\nmmcv.ops.deform_conv2d(x)",
        "'mmcv' is imported through a global statement",
    ),
    "name taken": (
        "import paddle\npaddle_dcn = paddle.add\npaddle.vision.ops.deform_conv2d(x)",
        "the name paddle_dcn is taken",
    ),
    "name bound elsewhere in the function": (
        "import paddle\ndef f(x):\n    import paddle_dcn\n    paddle.vision.ops.deform_conv2d(x)",
        "paddle_dcn would be bound both inside and outside a function",
    ),
    "another library's operator": (
        "from mylib import deform_conv2d",
        "deform_conv2d comes from mylib, which is not known here",
    ),
    "EDVR": (
        "from models.modules.DCNv2.dcn_v2 import DCN_sep",
        "DCN_sep of models.modules.DCNv2.dcn_v2 is not in paddle_dcn.compat.dcn_v2",
    ),
    "through a module": (
        "import dcn_v2\ndcn_v2.DCNv2Pooling()",
        "DCNv2Pooling of dcn_v2 is not in paddle_dcn.compat.dcn_v2",
    ),
    "an attribute of what is not ours": (
        "import mmcv.ops.deform_conv\nmmcv.ops.deform_conv.DeformConv2dFunction.apply(x)",
        "DeformConv2dFunction of mmcv.ops.deform_conv is not in paddle_dcn.compat.mmcv",
    ),
    "an attribute, through a module": (
        "from mmcv import ops\nops.ModulatedDeformConv2dFunction.apply(x)",
        "ModulatedDeformConv2dFunction of mmcv.ops is not in paddle_dcn.compat.mmcv",
    ),
    "a private function": (
        "import dcn_v2\ndcn_v2._DCNv2.apply(x)",
        "_DCNv2 of dcn_v2 is not in paddle_dcn.compat.dcn_v2",
    ),
    "a private class": (
        "from detectron2.layers.deform_conv import _DeformConv",
        "_DeformConv of detectron2.layers.deform_conv is not in paddle_dcn.compat.detectron2",
    ),
    "Ascend's layer": (
        "import torch_npu\ntorch_npu.contrib.module.ModulatedDeformConv(1, 2)",
        "ModulatedDeformConv comes from torch_npu.contrib.module, which is not known here",
    ),
    "AdelaiDet, through a module": (
        "import adet.layers as al\nal.DFConv2d(1, 2)",
        "DFConv2d comes from adet.layers, which is not known here",
    ),
    "BasicSR, through a module": (
        "import models.archs.arch_util as a\na.DCNv2Pack()",
        "DCNv2Pack comes from models.archs.arch_util, which is not known here",
    ),
    "a copy with other arguments": (
        "from models.archs.dcn.deform_conv import ModulatedDeformConvPack as DCN",
        "ModulatedDeformConvPack comes from models.archs.dcn.deform_conv, which is not known here",
    ),
    "AdelaiDet": (
        "from adet.layers import DFConv2d",
        "DFConv2d comes from adet.layers, which is not known here",
    ),
    "getattr on a copy": (
        "from lib.models.DCNv2 import dcn_v2\ngetattr(dcn_v2, x)",
        "it is reached by getattr on dcn_v2",
    ),
    "name bound later in the function": (
        "import paddle_dcn\ndef f():\n    paddle_dcn.deform_conv2d(x)\n"
        "    import mmcv.ops\n    mmcv.ops.deform_conv2d(x)",
        "paddle_dcn would be bound both inside and outside a function",
    ),
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.skipif(sys.version_info < (3, 10), reason="match")
def test_left(name):
    code, text = LEFT[name]
    result = rewrite(code + "\n")
    assert result.code == code + "\n"
    assert {(remark.kind, remark.text) for remark in result.remarks} == {("left", text)}
    assert result.remarks[-1].line == code.count("\n") + 1


# Static code, the notes on it with both targets, the lines of those with modern only, and what is
# undecided where some is moved.
LACKS_ROLL = LACKS.format("layers.roll", "paddle.roll")
STAYING = "paddle.fluid{} stays, and fails: current Paddle has no paddle.fluid"
FLUID_IMPORT = "import paddle.fluid as fluid\n"
STATIC_NOTES = {
    "one layer for two calls": (
        FLUID_IMPORT + "def f(x, o, m):\n"
        "    return fluid.layers.deformable_conv(x, o, m, 2, 3, param_attr='w', bias_attr='b')\n"
        "f(*a)\nf(*b)\n",
        [(3, ENABLE)],
        [3],
    ),
    "alias": (
        FLUID_IMPORT + "conv = fluid.layers.deformable_conv\nconv(x, o, m, 2, 3)\n",
        [(2, ENABLE)],
        [2],
    ),
    "values": (
        FLUID_IMPORT + "from paddle.fluid import core as c\nx = fluid.layers.deformable_conv(y)\n"
        "f(x, fluid.core.VarDesc.VarType.FP32, c.VarDesc.VarType.FP16)\n",
        [(3, ENABLE), (4, DTYPES)],
        [3],
        [],
    ),
    "what modules have of themselves": (
        FLUID_IMPORT + "fluid.layers.deformable_conv(fluid.layers.__file__)\n",
        [(2, ENABLE)],
        [2],
        [(1, FAILS)],
    ),
    "functions of arrays": (
        FLUID_IMPORT + "def f(x, out):\n    return fluid.layers.py_func(fluid.LoDTensor, x, out)\n"
        "fluid.layers.deformable_conv(x)\n",
        [(4, ENABLE)],
        [4],
    ),
    "static mode is entered": (
        "import paddle\n" + FLUID_IMPORT + "if x: paddle.enable_static()\n"
        "fluid.layers.deformable_conv(x)\n",
        [],
        [4],
    ),
    "2.x, where it was entered": ("import paddle\npaddle.static.nn.deform_conv2d(x)\n", [], [2]),
    "an undecided call": (FLUID_IMPORT + "fluid.layers.deformable_conv = x\n", [(1, FAILS)], []),
    "the rest of a module stays": (
        "from paddle.fluid.layers import deformable_conv, roll\ndeformable_conv(roll)\n",
        [(2, ENABLE)],
        [2],
        [(1, LACKS_ROLL), (1, FAILS)],
    ),
    "the rest of a star import stays": (
        "from paddle.fluid.layers import *\ndeformable_conv(roll)\n",
        [(2, ENABLE)],
        [2],
        [(1, FAILS), (2, LACKS_ROLL)],
    ),
    "another part stays": (
        "from paddle import fluid, add\nfrom paddle.vision.ops import deform_conv2d\n"
        "import os, paddle.fluid.layers\n",
        [],
        [],
        [(1, FAILS), (3, FAILS)],
    ),
    "another name for it stays": (
        "import paddle\ndef f(x):\n    fluid = paddle.fluid\n"
        "    return fluid.layers.deformable_conv(x)\nlayers = paddle.fluid.layers\n"
        "layers.deformable_conv(x)\ndef g(fluid=paddle.fluid): ...\n"
        "paddle.fluid.layers.roll(x)\n",
        [(4, ENABLE)],
        [4, 6],
        [(3, STAYING.format("")), (5, STAYING.format(".layers")), (7, STAYING.format(""))]
        + [(8, LACKS_ROLL)],
    ),
    "an attribute stays": (
        "import paddle\npaddle.vision.ops.deform_conv2d(x)\npaddle.fluid.layers.fc(x)\n",
        [],
        [],
        [(3, STAYING.format(".layers.fc"))],
    ),
    "nothing stays": (
        "from paddle.fluid.layers import *\nfrom mmcv.ops import *\n"
        "deformable_conv(deform_conv2d)\n",
        [(3, ENABLE)],
        [3],
    ),
}


@pytest.mark.parametrize("name", STATIC_NOTES)
def test_notes_on_static_code(name):
    code, both, modern, *undecided = STATIC_NOTES[name]
    for target in TARGETS:
        result = rewrite(code, target)
        notes = [(remark.line, remark.text) for remark in result.remarks if remark.kind == "note"]
        more = [(line, STAYS) for line in modern] if target == "modern" else []
        assert sorted(notes) == sorted(both + more)
        left = [(remark.line, remark.text) for remark in result.remarks if remark.kind == "left"]
        assert sorted(left) == sorted(*undecided) if undecided else result.code == code or not left
        assert result.code == rewrite(code).code
        assert "DeformConv2D" not in result.code


# The command line

OLD = b"import paddle\ny = paddle.vision.ops.deform_conv2d(x, offset, weight)\n"
NEW = OLD.replace(b"paddle.vision.ops", b"paddle_dcn").replace(b"paddle\n", b"paddle_dcn\n")

# Kinds of files: what is put before the code, and what its line ends are.
FILES = {
    "plain.py": (b"", b"\n"),
    "two words.py": (b"# caf\xc3\xa9\n", b"\n"),
    "windows.py": (b"\xef\xbb\xbf# mark\n", b"\r\n"),
    "latin.py": (b"#!/usr/bin/python\n# -*- coding: latin-1 -*-\n# caf\xe9\n", b"\n"),
    "folder/open.py": (b"", b"\n"),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write FILES below the current folder; gives what they have to be afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    after = {}
    for name, (head, end) in FILES.items():
        Path(name).write_bytes((head + OLD).replace(b"\n", end))
        after[name] = (head + NEW).replace(b"\n", end)
    Path("folder/open.py").write_bytes(OLD[:-1])  # no line end at the end
    return after | {"folder/open.py": NEW[:-1]}


def command(*arguments):
    parser = argparse.ArgumentParser()
    migrate.add_arguments(parser)
    return migrate.main(parser.parse_args(arguments))


def contents(names):
    return {name: Path(name).read_bytes() for name in names}


def test_write_keeps_everything_else(files, capsysbinary):
    Path("plain.py").chmod(0o751)
    assert command(".", "--write") == 0
    assert contents(files) == files
    assert Path("plain.py").stat().st_mode & 0o777 == 0o751
    shown = capsysbinary.readouterr()
    assert sorted(shown.out.decode().split("\n")) == sorted([*files, ""])
    assert shown.err.decode().startswith("5 files, 5 rewritten, 0 places left undecided, 0 errors")
    assert not [name for name in os.listdir() if name.startswith(".")]
    assert command(".", "--write") == 0 and capsysbinary.readouterr().out == b""


def test_diff_applies(files, capsysbinary):
    git = shutil.which("git") or pytest.skip("needs git")
    before = contents(files)
    assert command(".") == 0
    assert contents(files) == before
    subprocess.run([git, "apply"], input=capsysbinary.readouterr().out, check=True)
    assert contents(files) == files


def test_check(files, capsysbinary):
    assert command("plain.py", "folder", "plain.py", "--check") == 1
    assert capsysbinary.readouterr().out.decode().split() == ["plain.py", "folder/open.py"]
    assert command("folder", "--write") == 0
    assert command("folder", "--check") == 0


# Files that cannot be read, and what is said of them.
UNREADABLE = {
    b"deform_conv2d(": ":1: error: not Python 3.{minor}: ",
    b"if x:\n deform_conv2d()\n\tx\n": ":3: error: not Python 3.{minor}: ",
    b"deform_conv2d  # \xff\n": ": error: invalid or missing encoding declaration",
    b"\n\ndeform_conv2d  # \xff\n": ": error: not utf-8 text: invalid start byte at byte 19",
    b"# coding: klingon\ndeform_conv2d\n": ": error: unknown encoding: klingon",
    b"deform_conv2d\0\n": " error: source code string cannot contain null bytes",
    OLD.replace(b"\n", b"\r"): ": error: it has form feeds or bare carriage returns",
    b"deform_conv2d" + b"(" * 5000 + b")" * 5000: "error: not Python 3.{minor}: too many nested",
    b"deform_conv2d" + b" + 1" * 2000: ": error: nested too deeply",
}


def test_unreadable_files_do_not_stop_the_others(files, capsysbinary):
    for i, data in enumerate(UNREADABLE):
        Path(f"bad{i}.py").write_bytes(data)
    Path("elsewhere.py").write_bytes(b"no operator (")  # found, but not one of ours
    assert command(".", "missing", "--write") == 1
    assert contents(files) == files
    errors = capsysbinary.readouterr().err.decode().splitlines()
    for i, text in enumerate(UNREADABLE.values()):
        (line,) = (line for line in errors if line.startswith(f"bad{i}.py"))
        assert text.format(minor=sys.version_info.minor) in line
    assert "missing: error: no such file or folder" in errors
    assert not any("elsewhere" in line for line in errors)
    assert command("elsewhere.py") == 1  # named: read in any case


def test_read_only_files_are_left(files, capsysbinary):
    Path("plain.py").chmod(0o444)
    assert command("plain.py", "folder", "--write") == 1
    assert b"plain.py: error: read-only, not rewritten" in capsysbinary.readouterr().err
    assert Path("plain.py").read_bytes() == OLD
    assert Path("folder/open.py").read_bytes() == files["folder/open.py"]


def test_links_and_skipped_folders(files, capsysbinary):
    for folder in (".hidden", "environment", "__pycache__", "empty"):
        Path(folder).mkdir()
        shutil.copy("plain.py", f"{folder}/code.py" if folder != "empty" else "empty/code.txt")
    Path("environment/pyvenv.cfg").touch()
    os.mkfifo("folder/pipe.py")  # reading it would not end
    links = {"folder/loop": "..", "folder/link.py": "../plain.py", "folder/broken.py": "nothing"}
    for link, to in links.items():
        Path(link).symlink_to(to)
    assert command("environment", "empty", "folder", "--check") == 1
    shown = capsysbinary.readouterr()
    assert shown.out.decode().split() == ["environment/code.py", "folder/open.py"]
    notes = {f"{link}: note: a symbolic link, not followed" for link in links}
    notes |= {
        "empty: note: no Python files in it",
        "folder/pipe.py: note: not a regular file, not read",
    }
    assert notes < set(shown.err.decode().splitlines())
    assert command(".", "--check") == 1
    assert set(capsysbinary.readouterr().out.decode().splitlines()) == set(files)

    assert command("folder/link.py", "--write") == 0  # a link that is named is followed
    assert Path("folder/link.py").is_symlink() and Path("plain.py").read_bytes() == NEW


def test_remarks_and_status(files, capsysbinary):
    Path("left.py").write_bytes(OLD + b"getattr(paddle.vision.ops, x)\n")
    Path("static.py").write_bytes(b"import paddle.fluid as f\nf.layers.deformable_conv(*x)\n")
    assert command("static.py") == 0
    assert b"static.py:2: note: stays a static layer" in capsysbinary.readouterr().err
    assert command("static.py", "--target", "legacy") == 0
    assert b"stays a static layer" not in capsysbinary.readouterr().err
    assert command("left.py") == 1
    assert b"left.py:3: left: it is reached by getattr" in capsysbinary.readouterr().err
    assert command("left.py", "--write") == 1  # now behind one more import
    assert b"left.py:4: left: it is reached by getattr" in capsysbinary.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command("--write", "--check", "left.py")


def test_hard_links_stay_one_file(files, capsysbinary):
    os.link("plain.py", "twin.py")
    assert command(".", "--write") == 0
    assert Path("plain.py").samefile("twin.py") and Path("twin.py").read_bytes() == NEW


# Files without an operator's name, and what is said of them.
NAMELESS = {
    "mmcv": ("import mmcv.ops as o\ngetattr(o, x)\n", "left: it is reached by getattr on mmcv.ops"),
    "InternImage": (
        "from ops_dcnv3 import modules as o\ngetattr(o, x)\n",
        "left: it is reached by getattr on ops_dcnv3.modules",
    ),
    "import_module": (
        "import importlib\nimportlib.import_module('torchvision.ops')\n",
        "left: torchvision.ops is imported by a call",
    ),
    "fluid": ("x = 1\nimport paddle.fluid\n", f"note: {FAILS}"),
}


@pytest.mark.parametrize("name", NAMELESS)
def test_folder_tells_what_a_file_tells(name, tmp_path, capsys):
    code, text = NAMELESS[name]
    Path(tmp_path, "code.py").write_text(code)
    Path(tmp_path, "book.ipynb").write_text(notebook([[code]]))
    for paths in [[tmp_path], tmp_path.iterdir(), [tmp_path, *tmp_path.iterdir()]]:
        assert command(*map(str, paths)) == text.startswith("left")
        errors = capsys.readouterr().err
        assert f"code.py:2: {text}" in errors
        assert f"book.ipynb:cell 2, line 2: {text}" in errors
        assert "2 files, 0 to be rewritten" in errors


def test_libcst_is_an_extra(files, capsysbinary, monkeypatch):
    monkeypatch.setitem(sys.modules, "libcst", None)
    assert command("plain.py", "--write") == 2
    assert capsysbinary.readouterr().err.count(b"\n") == 1
    assert Path("plain.py").read_bytes() == OLD


def test_module(files):
    done = run_python("-m", "paddle_dcn", "migrate", "plain.py")
    assert done.returncode == 0
    assert "+y = paddle_dcn.deform_conv2d(x, offset, weight)" in done.stdout


# An unset variable of the shell in place of a path, which pathlib takes for the current folder.
EMPTY = {
    "migrate": ["migrate", "--write", ""],
    "migrate, among others": ["migrate", "--write", "plain.py", ""],
    "convert": ["convert", "", "--to", "portable"],
    "convert --out": ["convert", ".", "--to", "portable", "--out", ""],
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_path(name, files, capsys, monkeypatch):
    before = contents(files)
    monkeypatch.setattr(sys, "argv", ["paddle_dcn", *EMPTY[name]])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert ": expected some text, got none" in capsys.readouterr().err
    assert contents(files) == before


def test_empty_path_of_a_model():
    with pytest.raises(ValueError, match="model: expected the path of a model, got ''"):
        export.convert("", "out", "portable")


@pytest.mark.parametrize("arguments", [["info"], ["migrate", "plain.py"]], ids=" ".join)
def test_nobody_reads(arguments, files, monkeypatch):
    """`| head` ends a command without a traceback."""
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "argv", ["paddle_dcn", *arguments])
    with open(write, "w") as closed, open("errors", "w") as errors:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", errors)
        assert main() == 141
    assert "Traceback" not in Path("errors").read_text()


def test_output_that_fails(files, monkeypatch, capsys):
    """What is written is told, and nothing is written after that."""
    before = contents(files)
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full))
        with pytest.raises(OSError, match="No space left"):
            command("plain.py", "folder", "--write")
    assert contents(files) == before | {"plain.py": NEW}
    assert capsys.readouterr().err == "plain.py: rewritten\n"


def test_output_that_is_closed(files, monkeypatch, capsys):
    before = contents(files)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["paddle_dcn", "migrate", "--write", "."])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: standard output is closed" in capsys.readouterr().err
    assert contents(files) == before


def test_file_that_changes_meanwhile(files, monkeypatch, capsys):
    def edited(path, *rest):
        outcome = looked_at(path, *rest)
        path.write_bytes(b"mine = 1\n")
        return outcome

    looked_at = migrate._migrate
    monkeypatch.setattr(migrate, "_migrate", edited)
    assert command("plain.py", "--write") == 1
    assert "plain.py: error: changed in the meantime, not rewritten" in capsys.readouterr().err
    assert Path("plain.py").read_bytes() == b"mine = 1\n"


# What is reached by no import of ours: it stays, and is listed.
LAYER = "paddle_dcn.compat.mmcv.ModulatedDeformConv2dPack"
REGISTERED = f"'DCNv2' is built by mmcv's registry; {LAYER} is that layer"
TAKES = "; paddle_dcn.deform_conv2d takes the same tensors"
KERNEL, CONV = "{} is the kernel of a library; paddle_dcn.{} is ours", "deform_conv2d"
RAW = {
    "append_op": (
        "def f(helper, x):\n    helper.append_op(type='deformable_conv', inputs={'Input': x})\n",
        "the operator deformable_conv is appended by name" + TAKES,
    ),
    "append_op, by position": (
        "LayerHelper('d').append_op('deformable_conv_v1')\n",
        "the operator deformable_conv_v1 is appended by name" + TAKES,
    ),
    "_C_ops": (
        "import paddle\npaddle._C_ops.deformable_conv(x, o, w, m)\n",
        "paddle._C_ops.deformable_conv is a raw operator" + TAKES,
    ),
    "_C_ops, imported": (
        "from paddle import _C_ops\n_C_ops.deformable_conv(x, o, w, m)\n",
        "_C_ops.deformable_conv is a raw operator" + TAKES,
    ),
    "registry": (
        "from mmcv.cnn import build_conv_layer\n"
        "layer = build_conv_layer(dict(type='DCNv2'), 8, 8, 3)\n",
        REGISTERED,
    ),
    "configuration": ("model = {'dcn': {'type': 'DCNv2', 'groups': 1}}\n", REGISTERED),
    "_C_ops, the name itself": (
        "from paddle._C_ops import deformable_conv\n",
        "deformable_conv comes from paddle._C_ops, which is not known here",
    ),
    "torch.ops": (
        "import torch\ny = torch.ops.torchvision.deform_conv2d(x, w, o, m, b, 1, 1)\n",
        "torch.ops.torchvision.deform_conv2d is a raw operator" + TAKES,
    ),
    "torch.ops, by an alias": (
        "import torch\nops = torch.ops.torchvision\ny = ops.deform_conv2d.default(x)\n",
        "torch.ops.torchvision.deform_conv2d is a raw operator" + TAKES,
    ),
    "torch.ops, by getattr": (
        "import torch\nf = getattr(torch.ops.torchvision, 'deform_conv2d')\n",
        "it is reached by getattr on torch.ops.torchvision",
    ),
    "torch.ops of mmcv": (
        "import torch\ntorch.ops.mmcv.deform_conv(x)\n",
        "deform_conv comes from torch.ops.mmcv, which is not known here",
    ),
    "_legacy_C_ops, by a string": (
        "import paddle\ngetattr(paddle._legacy_C_ops, 'deformable_conv_v1')\n",
        "it is reached by getattr on paddle._legacy_C_ops",
    ),
    "_C_ops, under another name": (
        "from paddle import _C_ops as C\nC.deformable_conv(x)\n",
        "deformable_conv comes from paddle._C_ops, which is not known here",
    ),
    "_C_ops, by getattr": (
        "import paddle\nf = getattr(paddle._C_ops, 'deformable_conv')\n",
        "it is reached by getattr on paddle._C_ops",
    ),
    "a copy of DCNv2": ("_backend.dcn_v2_forward(x, w)\n", KERNEL.format("dcn_v2_forward", CONV)),
    "a copy of mmdet": (
        "deform_conv_cuda.modulated_deform_conv_cuda_forward(x)\n",
        KERNEL.format("modulated_deform_conv_cuda_forward", CONV),
    ),
    "a copy of DCNv4": ("ext.dcnv4_forward(*args)\n", KERNEL.format("dcnv4_forward", "dcnv4")),
    "setattr": (
        "import paddle\nsetattr(paddle.vision.ops, 'deform_conv2d', mine)\n",
        "it is reached by setattr on paddle.vision.ops",
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_raw(name, tmp_path, capsys):
    code, text = RAW[name]
    result = rewrite(code)
    assert result.code == code
    assert [(r.line, r.kind, r.text) for r in result.remarks] == [(code.count("\n"), "left", text)]
    (tmp_path / "raw.py").write_text(code)
    assert command(str(tmp_path)) == 1  # found in a folder, too
    assert text in capsys.readouterr().err


# Imports that something else than an expression of the file needs.
NEEDED = {
    "a doctest": 'import paddle\ndef f(x):\n    """>>> f(paddle.ones([1]))"""\n    return {}(x)\n',
    "eval": "import paddle\ny = eval('pad' + 'dle.ones([1])') + {}(x)\n",
    "globals": "import paddle\ny = globals()['pad' + 'dle'] , {}(x)\n",
}


@pytest.mark.parametrize("name", NEEDED)
def test_import_that_is_needed(name):
    code = NEEDED[name]
    wanted = code.replace("import paddle\n", "import paddle\nimport paddle_dcn\n")
    result = rewrite(code.format("paddle.vision.ops.deform_conv2d"))
    assert result.code == wanted.format("paddle_dcn.deform_conv2d")


# Libraries that mmcv's operators come from: a file that uses them, and what becomes of it.
OLDER = {
    "mmdet.ops": (
        "from mmdet.ops import DeformConvPack, ModulatedDeformConvPack as DCNv2, deform_conv\n",
        "from paddle_dcn.compat.mmdet import DeformConvPack, ModulatedDeformConvPack as DCNv2, "
        "deform_conv\n",
    ),
    "mmdet.ops.dcn": (
        "from mmdet.ops.dcn import ModulatedDeformConv\n",
        "from paddle_dcn.compat.mmdet import ModulatedDeformConv\n",
    ),
    "detectron2": (
        "import detectron2.layers\nlayer = detectron2.layers.ModulatedDeformConv(1, 2, 3)\n",
        "import paddle_dcn.compat.detectron2\n"
        "layer = paddle_dcn.compat.detectron2.ModulatedDeformConv(1, 2, 3)\n",
    ),
    "detectron2's functions": (
        "from detectron2.layers.deform_conv import deform_conv\ny = deform_conv(x, o, w)\n",
        "from paddle_dcn.compat.detectron2 import deform_conv\ny = deform_conv(x, o, w)\n",
    ),
    "internimage": (
        "from ops_dcnv3.modules import DCNv3\nimport DCNv4\nlayer = DCNv3(8), DCNv4.DCNv4(8)\n",
        "from paddle_dcn.compat.internimage import DCNv3\n"
        "import paddle_dcn.compat.internimage\n"
        "layer = DCNv3(8), paddle_dcn.compat.internimage.DCNv4(8)\n",
    ),
    "DCNv4's modules": (
        "from DCNv4.modules.dcnv4 import DCNv4\nfrom DCNv4.functions.dcnv4_func import "
        "DCNv4Function\n",
        "from paddle_dcn.compat.internimage import DCNv4\n"
        "from paddle_dcn.compat.internimage import DCNv4Function\n",
    ),
    "CenterNet": (
        "from .DCNv2.dcn_v2 import DCN\nfrom lib.DCNv2.dcn_v2 import DCN\n"
        "from.DCNv2 import dcn_v2\nlayers = DCN(1, 2, 3, 1, 1), dcn_v2.DCNv2(1, 2, 3, 1, 1)\n",
        "from paddle_dcn.compat.dcn_v2 import DCN\nfrom paddle_dcn.compat.dcn_v2 import DCN\n"
        "from paddle_dcn.compat import dcn_v2\n"
        "layers = DCN(1, 2, 3, 1, 1), dcn_v2.DCNv2(1, 2, 3, 1, 1)\n",
    ),
    "BasicSR": (
        "from basicsr.ops.dcn import ModulatedDeformConvPack, modulated_deform_conv\n"
        "from ..ops.dcn.deform_conv import DeformConv\n",
        "from paddle_dcn.compat.mmdet import ModulatedDeformConvPack, modulated_deform_conv\n"
        "from paddle_dcn.compat.mmdet import DeformConv\n",
    ),
    "a copy of ops_dcnv3": (
        "import models.ops_dcnv3.modules as opsm\nlayer = opsm.DCNv3(8)\n",
        "import paddle_dcn.compat.internimage as opsm\nlayer = opsm.DCNv3(8)\n",
    ),
    "dcn_v2": (
        "from dcn_v2 import DCN\nlayer = DCN(1, 2, 3, 1, 1)\n",
        "from paddle_dcn.compat.dcn_v2 import DCN\nlayer = DCN(1, 2, 3, 1, 1)\n",
    ),
}


@pytest.mark.parametrize("name", OLDER)
def test_libraries_before_mmcv(name):
    code, wanted = OLDER[name]
    assert rewrite(code).code == wanted


def test_ascend():
    code = "import torch_npu\ny, s = torch_npu.npu_deformable_conv2d(x, w, o, None, [3, 3])\n"
    result = rewrite(code)
    assert result.code == code.replace("torch_npu", "paddle_dcn.compat.npu")


# Packages that register what is reached through torch: a file, and its imports afterwards.
REGISTERED_BY = {
    "torch.npu_...": (
        "import torch\nimport torch_npu\n"
        "y = torch.npu_deformable_conv2d(torch.npu_format_cast(x), w, o, None, [3, 3])\n"
        "z = torch_npu.npu_deformable_conv2d(y)\n",
        ["torch", "torch_npu", "paddle_dcn.compat.npu"],
    ),
    "a device": (
        "import torch_npu\ny = torch_npu.npu_deformable_conv2d(x.npu(), w, o, None, [3, 3])\n",
        ["torch_npu", "paddle_dcn.compat.npu"],
    ),
    "torch.ops": (
        "import torch\nimport torchvision.ops as o\n"
        "y = o.deform_conv2d(torch.ops.torchvision.roi_align(x))\n",
        ["torch", "torchvision", "paddle_dcn.compat.torchvision"],
    ),
    "torch alone": (
        "import torch\ny = torch.ops.npu.npu_deformable_conv2d(x)\n",
        ["paddle_dcn.compat.npu"],
    ),
}


@pytest.mark.parametrize("name", REGISTERED_BY)
def test_what_registers_stays(name):
    code, modules = REGISTERED_BY[name]
    result = rewrite(code)
    imports = [line.split()[1] for line in result.code.split("\n") if line.startswith("import ")]
    assert sorted(imports) == sorted(modules)
    assert "torch.npu_deform" not in result.code and "npu.npu_deform" not in result.code.replace(
        "compat.npu.npu_deform", ""
    )


def test_other_files_of_a_project(tmp_path, capsys):
    """They are looked at themselves; a library is not."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/layers.py").write_text("def deform_conv(x): return x\n")
    code = "from .layers import deform_conv\nfrom mine.layers import deform_conv\n"
    code += "from . import layers\nlayers.deform_conv(x)\nfrom . import deform_conv\n"
    code += "from mine.layers import Net\nNet.deform_conv(x)\n"
    (tmp_path / "mine/net.py").write_text(code)
    assert command(str(tmp_path)) == 0
    errors = capsys.readouterr().err
    where = {1: ".layers", 2: "mine.layers", 4: ".layers", 5: ".", 7: "mine.layers.Net"}
    for i, module in where.items():
        assert f":{i}: note: deform_conv comes from {module}, another file of this" in errors


# Notebooks

CELLS = [
    ["# Deformable\n", "from paddle.vision.ops import deform_conv2d"],
    ["%matplotlib inline\n", "import paddle\n", "!pip list\n", "if True:\n", "    %time x = 1\n"],
    ["%%bash\n", "echo deform_conv2d (\n"],
    ["y = paddle.vision.ops.deform_conv2d(x, deform_conv2d)\n", "paddle.ones?\n", "# é\n", "\n"],
    [],
    ["z = getattr(paddle.vision.ops, name)"],
]
AFTER = [
    ["# Deformable\n", "from paddle_dcn import deform_conv2d"],
    [
        "%matplotlib inline\n",
        "import paddle\n",
        "import paddle_dcn\n",
        "!pip list\n",
        "if True:\n",
        "    %time x = 1\n",
    ],
    CELLS[2],
    ["y = paddle_dcn.deform_conv2d(x, deform_conv2d)\n", *CELLS[3][1:]],
    *CELLS[4:],
]


def notebook(sources, **settings):
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["deform_conv2d?\n"]}]
    for source in sources:
        cells.append({"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": []})
        cells[-1]["source"] = source
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}, **settings)


@pytest.mark.parametrize("settings", [{"indent": 1}, {}], ids=str)
@pytest.mark.parametrize("joined", [False, True])
def test_notebook(settings, joined, tmp_path, capsys):
    """Cells are rewritten together, in the form they had; all else stays as it is."""
    before, after = (
        [source if not joined else "".join(source) for source in sources]
        for sources in (CELLS, AFTER)
    )
    end = "\n" if settings else ""
    text = notebook(before, ensure_ascii=False, **settings) + end
    path = tmp_path / "trial.ipynb"
    path.write_text(text, encoding="utf-8")
    assert command(str(tmp_path), "--write") == 1
    wanted = notebook(after, ensure_ascii=False, **settings) + end
    assert path.read_text(encoding="utf-8") == wanted
    shown = capsys.readouterr().err
    assert "trial.ipynb:cell 7, line 1: left: it is reached by getattr on paddle.vision" in shown
    assert command(str(tmp_path), "--write") == 1
    assert path.read_text(encoding="utf-8") == wanted


def test_notebook_layout(tmp_path):
    """Line ends, tabs and a mark of byte order are kept."""
    before, after = (
        b"\xef\xbb\xbf" + notebook(cells, indent="\t").replace("\n", "\r\n").encode() + b"\r\n"
        for cells in (CELLS, AFTER)
    )
    path = tmp_path / "windows.ipynb"
    path.write_bytes(before)
    assert command(str(path), "--write") == 1
    assert path.read_bytes() == after


@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_notebook_of_another_writer(space, tmp_path):
    """What is not rewritten keeps its bytes: numbers, escapes, white space and keys given twice."""
    lines = [
        r'"import mmcv.ops\n"',
        r'"x = \"\u003c\u00e9\"\n"',
        '"mmcv.ops.DeformConv2d(1, 2, 3)"',
    ]
    rest = r'"outputs":[{"a": 1.50e+03,"b":[ ],"c":1E400}],"d":"\ud800","d":"\/"'
    cells = ",".join(
        f'{{"source" :[{space}{f",{space}".join(source)}],"cell_type":"code",{rest}}}'
        for source in (['"x = 1"'], lines, lines[1:2])
    )
    text = f'{{"cells": [{cells}],"nbformat":4}}'
    path = tmp_path / "book.ipynb"
    path.write_bytes(text.encode())
    assert command(str(path), "--write") == 0
    assert path.read_bytes() == text.replace("mmcv.ops", "paddle_dcn.compat.mmcv").encode()


# Cells with lines for IPython: whether they need `import torchvision`, and what is left in them.
IN_LINE = "{} is named in a line for IPython"
CALL = "torchvision.ops.deform_conv2d"
IPYTHON = {
    "%timeit torchvision.ops.deform_conv2d(a, b, c)": (True, {1: IN_LINE.format(CALL)}),
    "%time z = torchvision.models.resnet18()": (True, {}),
    "!echo {torchvision.__version__}": (True, {}),
    "!pip install torchvision": (False, {}),
    "%%bash\npip install torchvision": (False, {}),
    "%cd torchvision/mmcv.ops": (False, {}),
    "%%html\nabout mmcv.ops and torchvision": (False, {}),
    "torchvision.ops.nms?": (True, {}),
    "%%memit\nif x:\n\n    torchvision.io(x)\n": (True, {}),
    "%%memit\nx = 1\ntorchvision.ops.deform_conv2d(x)": (True, {3: IN_LINE.format(CALL)}),
    "x = !ls\nif x:\n    a, b[0] = %time f()": (False, {}),
    "y = %time torchvision.ops.deform_conv2d(x)": (True, {1: IN_LINE.format(CALL)}),
    "%%time import mmcv.ops as o\nx = 1": (False, {1: IN_LINE.format("mmcv.ops")}),
    "def f():\n    %time torchvision.io": (True, {}),
    "!python train.py \\\n  --with torchvision.ops \\\n\t--n {torchvision.x}\nx = 1": (True, {}),
    "if x:\n    y = !pip install \\\ntorchvision\n    z()": (False, {}),
    f"%time f(1, \\\n  {CALL}(x))": (True, {2: IN_LINE.format(CALL)}),
    "x = (y\n % 3)\nz = '''\n!torchvision\n?\n'''": (False, {}),
}


@pytest.mark.parametrize("cell", IPYTHON)
def test_lines_for_ipython(cell):
    """What they name is used, and cannot be rewritten."""
    from paddle_dcn._rewrite.notebook import Notebook

    needed, left = IPYTHON[cell]
    book = Notebook(notebook([[f"import torchvision\ny = {CALL}(x)"], [cell]]))
    code, remarks = rewrite(book.source)
    first, second = (c["source"] for c in json.loads(book.with_source(code))["cells"][1:])
    assert ("import torchvision\n" in first) == needed and first[-1].startswith("y = paddle_dcn")
    assert "".join(second) == cell
    found = {book.locate(book.source, r.line): r.text for r in remarks if r.kind == "left"}
    assert found == {f"cell 3, line {line}": text for line, text in left.items()}
    assert {r.text for r in remarks if r.kind == "note"} <= {TORCH}


# Cells with the code of another file or program, and whether something in it is to be moved.
OTHER_PYTHON = {
    "%%writefile net.py\nfrom mmcv.ops import DeformConv2d\n": "%%writefile",
    "%%file -a 'a b.py'\nimport mmcv.ops\nmmcv.ops.DeformConv2d(1)": "%%file",
    "%%writefile net.py\r\nfrom mmcv.ops import DeformConv2d\r\n": "%%writefile",
    "%%python3 -u\nfrom torchvision.ops import deform_conv2d\nprint(": "%%python3",
    "%%python\nfrom mine import DeformConv": "%%python",
    "%%writefile net.py\nimport paddle.fluid\n": None,
    "%%writefile net.py\nfrom paddle_dcn import deform_conv2d\n": None,
    "%%writefile notes.txt\nfrom mmcv.ops import DeformConv2d\n": None,
}


@pytest.mark.parametrize("cell", OTHER_PYTHON)
def test_code_in_cells(cell, tmp_path, capsys):
    """It is listed, and left."""
    text, magic = notebook([["x = 1\n"], [cell]]), OTHER_PYTHON[cell]
    path = tmp_path / "book.ipynb"
    path.write_text(text)
    assert command(str(path), "--write") == (magic is not None)
    listed = f"{path}:cell 3, line 1: left: deformable convolutions in a cell for {magic}\n"
    assert (listed in capsys.readouterr().err) == (magic is not None)
    assert path.read_text() == text


# Notebooks that cannot be read, and what is said of them.
BROKEN = {
    "{": ": error: no notebook of version 4: ",
    "[]": ": error: no notebook of version 4: ",
    '{"worksheets": []}': ": error: no notebook of version 4: KeyError('cells')",
    notebook([["x = 1\n"], ["y = 2\n", "deform_conv2d(\n"]]): ":cell 3, line 2: error: not Python",
    notebook(
        [["  pass  # -*- text: deform_conv2d"]]
    ): ": error: it has lines that would not survive",
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_notebook(text, tmp_path, capsys):
    path = tmp_path / "broken.ipynb"
    path.write_text(text)
    assert command(str(path), "--write") == 1
    assert f"broken.ipynb{BROKEN[text]}" in capsys.readouterr().err
    assert path.read_text() == text
