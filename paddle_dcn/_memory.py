"""How the C library hands out memory in this process."""

from __future__ import annotations

import ctypes

# Of mallopt, see its manual.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Keep memory that is freed in this process, for whatever asks next.

    Paddle's CPU kernels allocate every tensor anew. The GNU C library gets what is large from the
    system and returns it at once, which clears each page of it every time: up to half of the time
    of a network of large images. With this call, the process keeps what it has needed at most until
    it ends. For processes that run one network after the other, such as a server.

    It concerns all that uses malloc. Environment variables do the same, also for programs in C++:
    `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=999999999999`.

    Returns:
        Whether the C library has this, which is glibc's alone. Values never depend on it.

    Examples:
        >>> import paddle_dcn
        >>> kept = paddle_dcn.keep_memory()

    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)
    return mallopt is not None and all([mallopt(*each) for each in settings])
