"""Deformable convolution v1 to v4 as a PaddlePaddle operator.

The import registers the operator with Paddle, so that programs saved with it load; where no library
fits the installed Paddle, it builds one. The tools that move source code need neither: where Paddle
is missing, and for `python -m paddle_dcn`, the public names are imported when they are used.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _build

__version__ = "0.1.0"

__all__ = [
    "DCNv3",
    "DCNv4",
    "DeformConv2D",
    "DeformConv2DPack",
    "ModulatedDeformConv2DPack",
    "dcnv3",
    "dcnv4",
    "deform_conv2d",
    "deform_conv2d_reference",
    "keep_memory",
    "monitor",
    "patch",
    "patched",
    "unpatch",
]

# Python imports a package before its __main__, with "-m" in place of the program's name.
_FOR_A_COMMAND = sys.argv[:1] == ["-m"] and __name__ in getattr(sys, "orig_argv", ())

if TYPE_CHECKING or not (_FOR_A_COMMAND or find_spec("paddle") is None):
    from . import _flops as _flops
    from . import compat as compat
    from . import export as export
    from ._memory import keep_memory
    from ._patch import patch, patched, unpatch
    from .aggregation import DCNv3, DCNv4, dcnv3, dcnv4
    from .functional import deform_conv2d
    from .layers import DeformConv2D, DeformConv2DPack, ModulatedDeformConv2DPack
    from .monitoring import monitor
    from .reference import deform_conv2d_reference


def __getattr__(name: str) -> Any:
    if name not in (*__all__, "compat", "export"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _build.require_paddle()
    if name not in __all__:
        return import_module(f".{name}", __name__)
    homes = ("functional", "layers", "aggregation", "monitoring", "reference", "_memory", "_patch")
    found = (import_module(f".{home}", __name__) for home in homes)
    return next(getattr(home, name) for home in found if hasattr(home, name))
