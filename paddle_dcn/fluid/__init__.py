"""Paddle 1.x's `paddle.fluid` around `layers.deformable_conv`, as thin names over current Paddle.

`import paddle_dcn.fluid as fluid` in place of `import paddle.fluid as fluid` lets a static script
of Paddle 1.x build and train a deformable convolution again. It does not switch modes: call
`paddle.enable_static()` before, because current Paddle starts in dynamic mode.

Here are the layers `data` and `deformable_conv`, and what a script needs around them: programs,
executors, places, `ParamAttr`, initializers, regularizers, optimizers with the arguments of 1.x,
and saving and loading, which reads the parameter files of the original. Any other name raises an
AttributeError that names its counterpart in current Paddle where there is one.

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

from . import initializer, io, layers, optimizer, param_attr, regularizer
from ._moved import FLUID, module_getattr

__all__ = [
    "initializer",
    "io",
    "layers",
    "optimizer",
    "param_attr",
    "regularizer",
    *FLUID,
]

__getattr__ = module_getattr(__name__)
