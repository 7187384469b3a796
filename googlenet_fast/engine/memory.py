"""Memory of processes that compute on a CPU."""

import ctypes
import mmap
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3), from malloc.h."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process, in huge pages; does nothing without glibc.

    glibc returns large blocks to the system at once. Then every activation of every step costs page
    faults, about a tenth of a step on the CPU. Activations take hundreds of megabytes, more
    pages of 4 KiB than fit the TLB.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    if hasattr(mmap, "MADV_HUGEPAGE") and not _counts_addresses():
        _grow_heap_in_huge_pages(libc, _physical_memory() // 2)


def _grow_heap_in_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Take the next `size` bytes of malloc from huge pages, if the system has them.

    The heap grows by `size`, which takes addresses, but no memory until it is used. malloc then
    splits the block above the heap's old end.
    """
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(size))
    if block is None:  # a limit of the process's addresses
        return
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (block + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(block))


def _counts_addresses() -> bool:
    """Return whether the system counts reserved addresses as used memory."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def _physical_memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
