"""Memory of processes that compute on a CPU."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3), from malloc.h."""


def keep_freed_memory() -> None:
    """Let freed memory stay with the process; nothing happens where libc is not glibc.

    glibc returns large blocks to the system at once, so that every activation of every step costs
    page faults: on the CPU about a tenth of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
