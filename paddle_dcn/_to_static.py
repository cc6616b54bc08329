"""What `paddle.jit.to_static` must know of this package: what to leave alone, how it fails."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle.base import core

try:
    from paddle.jit.sot.utils.exceptions import SotExtraInfo
except ImportError:  # Paddle 2.6 has none
    SotExtraInfo = None


def opaque(function: Callable) -> Callable:
    """Keep to_static from looking inside: the function is the same in both modes."""
    marker = getattr(paddle.jit, "marker", None)
    return marker.unified(function) if hasattr(marker, "unified") else function


def skip(*files: str) -> None:
    """Keep to_static(full_graph=False) from translating functions of these files and of this one.

    After a graph break it translates every Python function it meets, which makes nothing here
    faster and takes seconds in the argument checks.
    """
    if hasattr(core, "eval_frame_skip_file_prefix"):
        core.eval_frame_skip_file_prefix((__file__, *files))


def breaks_graph(error: Exception) -> Exception:
    """Let an error of a traced call reach the user as it is.

    It tells to_static(full_graph=False) to rerun the call in dynamic mode, where the same error is
    raised again, instead of wrapping it in an InnerError.
    """
    if SotExtraInfo is not None and not paddle.in_dynamic_mode():
        SotExtraInfo(need_breakgraph=True).attach(error)
    return error
