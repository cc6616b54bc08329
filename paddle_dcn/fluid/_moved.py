"""Where the names of Paddle 1.x are in current Paddle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle

# Names of `fluid` that current Paddle has unchanged in another place. They are looked up when they
# are used, because Paddle rebinds some of them when it changes its kind of program.
_PLACES = {
    "paddle": (
        "CPUPlace CUDAPinnedPlace CUDAPlace ParamAttr get_flags is_compiled_with_cuda set_flags"
    ),
    "paddle.base": "DataFeeder",
    "paddle.static": (
        "Executor Program cpu_places cuda_places data default_main_program default_startup_program "
        "global_scope gradients load load_program_state name_scope program_guard save scope_guard "
        "set_program_state"
    ),
    "paddle.utils": "unique_name",
}
FLUID = {name: f"{place}.{name}" for place, names in _PLACES.items() for name in names.split()}

# What the other names of each module are called now: first those that changed, then the places
# where a name is looked for that did not.
_CHANGED = {
    "fluid": {
        "backward": "paddle.static.append_backward",
        "clip": "paddle.nn.ClipGradByGlobalNorm",
        "disable_dygraph": "paddle.enable_static",
        "dygraph": "paddle.nn",
        "enable_dygraph": "paddle.disable_static",
        "in_dygraph_mode": "paddle.in_dynamic_mode",
        "install_check": "paddle.utils.run_check",
        "metrics": "paddle.metric",
        "ParallelExecutor": "paddle.static.Executor",
    },
    "fluid.layers": {
        "batch_norm": "paddle.nn.BatchNorm2D",
        "conv2d": "paddle.nn.Conv2D",
        "conv2d_transpose": "paddle.nn.Conv2DTranspose",
        "conv3d": "paddle.nn.Conv3D",
        "cosine_decay": "paddle.optimizer.lr.CosineAnnealingDecay",
        "crop_tensor": "paddle.crop",
        "cross_entropy": (
            'paddle.nn.functional.cross_entropy(..., use_softmax=False, reduction="none")'
        ),
        "elementwise_add": "paddle.add",
        "elementwise_div": "paddle.divide",
        "elementwise_max": "paddle.maximum",
        "elementwise_min": "paddle.minimum",
        "elementwise_mul": "paddle.multiply",
        "elementwise_pow": "paddle.pow",
        "elementwise_sub": "paddle.subtract",
        "expand": "paddle.tile",
        "exponential_decay": "paddle.optimizer.lr.ExponentialDecay",
        "fc": "paddle.nn.Linear",
        "fill_constant": "paddle.full",
        "gaussian_random": "paddle.normal",
        "hard_sigmoid": "paddle.nn.functional.hardsigmoid",
        "hard_swish": "paddle.nn.functional.hardswish",
        "image_resize": "paddle.nn.functional.interpolate",
        "l2_normalize": "paddle.nn.functional.normalize",
        "linear_lr_warmup": "paddle.optimizer.lr.LinearWarmup",
        "matmul": "paddle.matmul",
        "mul": "paddle.matmul",
        "noam_decay": "paddle.optimizer.lr.NoamDecay",
        "piecewise_decay": "paddle.optimizer.lr.PiecewiseDecay",
        "polynomial_decay": "paddle.optimizer.lr.PolynomialDecay",
        "pool2d": "paddle.nn.functional.max_pool2d",
        "range": "paddle.arange",
        "reduce_max": "paddle.max",
        "reduce_mean": "paddle.mean",
        "reduce_min": "paddle.min",
        "reduce_prod": "paddle.prod",
        "reduce_sum": "paddle.sum",
        "resize_bilinear": "paddle.nn.functional.interpolate",
        "resize_nearest": "paddle.nn.functional.interpolate",
        "sigmoid_cross_entropy_with_logits": (
            "paddle.nn.functional.binary_cross_entropy_with_logits"
        ),
        "smooth_l1": "paddle.nn.functional.smooth_l1_loss",
        "sum": "paddle.add_n",
        "sums": "paddle.add_n",
        "uniform_random": "paddle.uniform",
        "While": "paddle.static.nn.while_loop",
    },
    "fluid.io": {
        "load_persistables": "paddle.static.load",
        "PyReader": "paddle.io.DataLoader",
        "save_persistables": "paddle.static.save",
    },
    "fluid.optimizer": {
        "LambOptimizer": "paddle.optimizer.Lamb",
        "LookaheadOptimizer": "paddle.incubate.LookAhead",
    },
}
_SEARCHED = {
    "fluid": ("paddle", "paddle.static", "paddle.static.nn", "paddle.nn.functional", "paddle.io"),
    "fluid.layers": (
        "paddle.static.nn",
        "paddle.nn.functional",
        "paddle.vision.ops",
        "paddle.static",
        "paddle",
    ),
    "fluid.io": ("paddle.static", "paddle.io", "paddle"),
    "fluid.optimizer": ("paddle.optimizer", "paddle.static", "paddle.incubate"),
    "fluid.initializer": ("paddle.nn.initializer",),
    "fluid.regularizer": ("paddle.regularizer",),
    "fluid.param_attr": ("paddle.static",),
}

# Modules of 1.x that share no more than a name with anything in current Paddle.
_MODULES = {
    f"fluid.layers.{name}"
    for name in "control_flow detection device io loss nn ops rnn tensor utils".split()
}


def _find(path: str) -> Any:
    """Return what a dotted path that starts with `paddle` names, None where there is nothing."""
    found = paddle
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    return found


def module_getattr(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of one of this package's modules.

    It finds the names that only moved, and raises an AttributeError that tells where the others
    have gone.
    """
    old = module.partition(".")[2]
    moved = FLUID if old == "fluid" else {}

    def __getattr__(name: str) -> Any:
        if name in moved:
            return _find(moved[name])
        message = f"module {module!r} has no attribute {name!r}"
        if not name.startswith("_") and f"{old}.{name}" not in _MODULES:
            places = (f"{place}.{name}" for place in _SEARCHED[old])
            new = _CHANGED.get(old, {}).get(name) or next(filter(_find, places), None)
            message += f": use {new} of current Paddle" if new else ", nor has current Paddle"
        raise AttributeError(message)

    return __getattr__
