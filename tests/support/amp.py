"""The state of auto_cast on a GPU, where tests run on a CPU."""

import contextlib

import paddle
from paddle.amp.auto_cast import _update_list
from paddle.base import core


@contextlib.contextmanager
def auto_cast(level="O1", dtype="float16", white=(), black=()):
    """Set what paddle.amp.auto_cast sets on a GPU; on a CPU that does nothing."""
    tracer = paddle.base.framework._dygraph_tracer()
    before = tracer._amp_level, tracer._amp_dtype, tracer._get_amp_op_list()
    tracer._amp_level, tracer._amp_dtype = getattr(core.AmpLevel, level), dtype
    tracer._set_amp_op_list(*_update_list(set(white), set(black), level, dtype))
    try:
        yield
    finally:
        tracer._amp_level, tracer._amp_dtype = before[:2]
        tracer._set_amp_op_list(*before[2])
