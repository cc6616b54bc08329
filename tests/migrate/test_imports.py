"""Imports of paddle.fluid, in all spellings: what `migrate` makes of them imports and runs.

What does not is listed as undecided.
"""

import pytest

from tests.support.programs import needs_paddle_3

pytest.importorskip("libcst", reason="pip install libcst")

from paddle_dcn._rewrite import rewrite

pytestmark = needs_paddle_3

# Modules of Paddle 1.8, each with what scripts used of it: all that are here, and others.
HERE = {
    "": "CPUPlace",
    "backward": "append_backward",
    "clip": "GradientClipByNorm",
    "compiler": "CompiledProgram",
    "core": "is_compiled_with_cuda",
    "data_feeder": "DataFeeder",
    "executor": "global_scope",
    "framework": "default_main_program",
    "initializer": "Constant",
    "input": "one_hot",
    "io": "save_params",
    "layer_helper": "LayerHelper",
    "layer_helper_base": "LayerHelperBase",
    "layers": "relu",
    "layers.control_flow": "While",
    "layers.detection": "yolo_box",
    "layers.io": "data",
    "layers.learning_rate_scheduler": "cosine_decay",
    "layers.loss": "smooth_l1",
    "layers.metric_op": "accuracy",
    "layers.nn": "reshape",  # of layers.tensor here
    "layers.ops": "sigmoid",
    "layers.tensor": "concat",
    "layers.utils": "map_structure",
    "metrics": "Accuracy",
    "nets": "glu",
    "optimizer": "Adam",
    "parallel_executor": "ParallelExecutor",
    "param_attr": "ParamAttr",
    "reader": "PyReader",
    "regularizer": "L2Decay",
    "unique_name": "generate",
}
GONE = {
    "average": "WeightedAverage",
    "contrib": "mixed_precision",
    "contrib.mixed_precision": "decorate",
    "dataset": "DatasetFactory",
    "dygraph": "Conv2D",
    "incubate.fleet.collective": "fleet",
    "install_check": "run_check",
    "layers.distributions": "Normal",
    "layers.layer_function_generator": "templatedoc",
    "layers.rnn": "lstm",
    "layers.sequence_lod": "sequence_pool",
    "lod_tensor": "create_lod_tensor",
    "profiler": "profiler",
    "transpiler": "DistributeTranspiler",
}

# How a module or a name of it is imported, and used or not.
SPELLINGS = {
    "import a.b": ("import {path}\n", "{path}.{name}"),
    "import a.b as c": ("import {path} as alias\n", "alias.{name}"),
    "from a import b": ("from {parent} import {last}\n", "{last}.{name}"),
    "from a import b as c": ("from {parent} import {last} as alias\n", "alias.{name}"),
    "from a.b import c": ("from {path} import {name}\n", "{name}"),
    "from a.b import c as d": ("from {path} import {name} as alias\n", "alias"),
    "from a.b import *": ("from {path} import *\n", "{name}"),
    "in a function": ("def f():\n    import {path} as alias\nf()\n", None),
    "beside another": ("from {parent} import {last}, {last} as alias\n", "alias.{name}"),
    "with a module-level alias": ("import {path} as module\nalias = module\n", "alias.{name}"),
}
OPERATORS = (
    ("import paddle.fluid as fluid\n", "fluid.layers.deformable_conv"),
    ("from paddle.fluid.layers import deformable_conv\n", "deformable_conv"),
    ("import paddle.fluid\n", "paddle.fluid.layers.deformable_conv"),
)


def files(module, name, spelling):
    """Write a file that imports something of fluid, beside the operator, and uses it or not."""
    statement, use = SPELLINGS[spelling]
    path = f"paddle.fluid.{module}" if module else "paddle.fluid"
    parent, _, last = path.rpartition(".")
    words = {"path": path, "parent": parent, "last": last, "name": name}
    turn = (len(module) + list(SPELLINGS).index(spelling)) % 3  # each operator is met often enough
    for used in (True, False) if use else (False,):
        head, call = OPERATORS[turn]
        code = statement.format(**words) + head + f"first = {call}\n"
        yield code + (f"second = {use.format(**words)}\n" if used else "")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("module", [*HERE, *GONE])
def test_imports(module, spelling):
    for code in files(module, (HERE | GONE)[module], spelling):
        result = rewrite(code)
        left = [remark.text for remark in result.remarks if remark.kind == "left"]
        assert module in GONE or not left, code
        assert left or "paddle.fluid" not in result.code, code
        try:
            exec(compile(result.code, "<rewritten>", "exec"), found := {})
        except (ImportError, AttributeError):
            assert left, result.code
        else:
            assert found["first"].__module__.startswith("paddle_dcn.fluid")
