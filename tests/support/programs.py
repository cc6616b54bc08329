"""Static programs for tests."""

import contextlib

import numpy as np
import paddle
import pytest
from paddle.utils import unique_name

needs_paddle_3 = pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="Paddle 2 is supported in dynamic mode"
)
# Before, where() spreads NaN backward, and matrix products refuse an empty batch.
PADDLE_3_1 = not paddle.__version__.startswith(("2.", "3.0."))


# Of its parts some have names of their own, or refuse what those before and after take.
PADDLE_3_1_ITSELF = paddle.__version__.startswith("3.1.")


def needs_paddle_3_1(reason: str) -> pytest.MarkDecorator:
    """Return a mark for what Paddle itself cannot do before, and why."""
    return pytest.mark.skipif(not PADDLE_3_1, reason=reason)


@contextlib.contextmanager
def static_program():
    """Build the block's operators into a new static program."""
    paddle.enable_static()
    try:
        main = paddle.static.Program()
        with paddle.static.program_guard(main, paddle.static.Program()):
            yield main
    finally:
        paddle.disable_static()


@contextlib.contextmanager
def fresh_program():
    """Static mode with a new program, scope and name counter; gives an executor."""
    paddle.enable_static()
    try:
        programs = paddle.static.Program(), paddle.static.Program()
        scope = paddle.static.scope_guard(paddle.static.Scope())
        with paddle.static.program_guard(*programs), scope, unique_name.guard():
            yield paddle.static.Executor(paddle.CPUPlace())
    finally:
        paddle.disable_static()


def initialize(executor):
    executor.run(paddle.static.default_startup_program())


def parameters():
    """Shapes of the program's parameters, by name."""
    found = paddle.static.default_main_program().global_block().all_parameters()
    assert len({parameter.name for parameter in found}) == len(found)
    return {parameter.name: [*parameter.shape] for parameter in found}


def value(name):
    """A parameter's value; bfloat16, which NumPy does not have, as float32."""
    array = np.array(paddle.static.global_scope().find_var(name).get_tensor())
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


KINDS = ["pir", "old"]


@contextlib.contextmanager
def programs_1x(kind):
    """Static mode as `fresh_program`, in programs of Paddle 3, or of Paddle 2 (`"old"`).

    The latter are those of FLAGS_enable_pir_api=0. Gives an executor of `paddle_dcn.fluid`.
    """
    from paddle_dcn import fluid

    with paddle.pir_utils.OldIrGuard() if kind == "old" else contextlib.nullcontext():
        with fresh_program():
            yield fluid.Executor(fluid.CPUPlace())
