"""Static programs for tests."""

import contextlib

import paddle
import pytest

needs_paddle_3 = pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="Paddle 2 is supported in dynamic mode"
)


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
