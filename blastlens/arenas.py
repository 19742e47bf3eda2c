"""How a process that runs for weeks keeps its memory small: what the C library does with memory that is free again."""

import ctypes
import platform
import threading
import time

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGE, KEPT_FREE = 1 << 20, 64 << 20  # bytes
EVERY_S = 10.0


def share_arenas(count: int = 2) -> bool:
    """Have threads share so many of the C library's pools of memory; whether it could be done.

    glibc gives up to eight pools for each core to threads that allocate at the same time, and each keeps what its
    largest request left behind: the page grew by a fifth over two thousand requests. Call it before other threads
    start, since pools that are there stay. Other C libraries are left as they are.
    """
    return _has_glibc() and bool(ctypes.CDLL(None).mallopt(ARENA_MAX, count))


def part_large_blocks(size: int = LARGE) -> bool:
    """Give each block of so many bytes pages of its own, which go back when it does; whether it could be done.

    glibc begins so, too, but raises its limit to the largest block that it has seen, up to 32 MB; decoded images then
    lie among all the rest and leave holes. Smaller blocks are not given back at once, which would cost them time.
    """
    if not _has_glibc():
        return False
    set_to = ctypes.CDLL(None).mallopt
    return bool(set_to(MMAP_THRESHOLD, size)) and bool(set_to(TRIM_THRESHOLD, KEPT_FREE))


def keep_giving_back(every_s: float = EVERY_S) -> bool:
    """From now on, return to the system time and again what the pools hold and nobody uses; whether it can be done.

    It takes 3 ms each time. Of a page that has answered for a while that is 30 to 40 MB.
    """
    if not _has_glibc():
        return False
    trim = ctypes.CDLL(None).malloc_trim

    def work() -> None:
        while True:
            time.sleep(every_s)
            trim(0)

    threading.Thread(target=work, name="give-back", daemon=True).start()
    return True


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
