"""Paddle 1.x's `paddle.fluid` around `layers.deformable_conv`, as thin names over current Paddle.

`import paddle_dcn.fluid as fluid` in place of `import paddle.fluid as fluid` lets a static script
of Paddle 1.x build and train a deformable convolution again. It does not switch modes: call
`paddle.enable_static()` before, because current Paddle starts in dynamic mode.

Here is what networks with deformable convolution use: layers, optimizers, initializers,
regularizers, clipping of gradients, learning-rate schedules, and saving and loading, which reads
the parameter files of the original. Any other name raises an AttributeError that names its
counterpart in current Paddle where there is one.

It works in Paddle 3's programs and, with FLAGS_enable_pir_api=0, in those of Paddle 2's kind. To
the former, importing it adds what scripts expect of programs and tensors: `clone(for_test=True)`,
`all_parameters()`, `global_block().var(name)` and a `name` for every tensor.

Examples:
    >>> import paddle
    >>> import paddle_dcn.fluid as fluid
    >>> paddle.enable_static()
    >>> main, startup = fluid.Program(), fluid.Program()
    >>> with fluid.program_guard(main, startup), fluid.unique_name.guard():
    ...     x = fluid.layers.data("x", [8, 16, 16])
    ...     offset = fluid.layers.data("offset", [18, 16, 16])
    ...     out = fluid.layers.deformable_conv(x, offset, None, 4, 3, padding=1, modulated=False)
    >>> sorted(parameter.name for parameter in main.global_block().all_parameters())
    ['deformable_conv_0.b_0', 'deformable_conv_0.w_0']
    >>> paddle.disable_static()
"""

import sys

from . import (
    backward,
    clip,
    data_feeder,
    executor,
    framework,
    initializer,
    input,
    io,
    layer_helper,
    layer_helper_base,
    layers,
    metrics,
    nets,
    optimizer,
    param_attr,
    reader,
    regularizer,
)
from ._moved import MOVED, find, module_getattr
from .backward import gradients
from .data_feeder import DataFeeder
from .executor import CompiledProgram, ExecutionStrategy, Executor, ParallelExecutor
from .framework import Variable
from .input import embedding, one_hot
from .io import load, load_program_state
from .reader import DataLoader, PyReader

__all__ = [
    "CompiledProgram",
    "DataFeeder",
    "DataLoader",
    "ExecutionStrategy",
    "Executor",
    "ParallelExecutor",
    "PyReader",
    "Variable",
    "backward",
    "clip",
    "compiler",
    "data_feeder",
    "embedding",
    "executor",
    "framework",
    "gradients",
    "initializer",
    "input",
    "io",
    "layer_helper",
    "layer_helper_base",
    "layers",
    "load",
    "load_program_state",
    "metrics",
    "nets",
    "one_hot",
    "optimizer",
    "parallel_executor",
    "param_attr",
    "reader",
    "regularizer",
    *MOVED["fluid"],
]

# Attributes that scripts import as the modules they were.
_MODULES = {
    "compiler": executor,
    "core": find(MOVED["fluid"]["core"]),
    "layers.utils": find(MOVED["fluid.layers"]["utils"]),
    "parallel_executor": executor,
    "unique_name": find(MOVED["fluid"]["unique_name"]),
}
sys.modules.update({f"{__name__}.{_name}": _module for _name, _module in _MODULES.items()})
compiler = parallel_executor = executor

__getattr__ = module_getattr(__name__)
