"""How a process that runs for weeks keeps its memory small."""

import ctypes
import platform

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def share_arenas(count: int = 2) -> bool:
    """Have threads share so many of the C library's pools of memory; whether it could be done.

    glibc gives up to eight pools for each core to threads that allocate at the same time, and each keeps what its
    largest request left behind: the page grew by a fifth over two thousand requests. Call it before other threads
    start, since pools that are there stay. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(ARENA_MAX, count))
