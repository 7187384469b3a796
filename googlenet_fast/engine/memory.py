"""Memory of processes that compute on a CPU."""

import ctypes
import mmap
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3), from malloc.h."""


def keep_freed_memory() -> None:
    """Let freed memory stay with the process, in huge pages; nothing happens without glibc.

    glibc returns large blocks to the system at once, so that every activation of every step costs
    page faults: on the CPU about a tenth of a step. Activations are hundreds of megabytes, of which
    the usual pages of 4 KiB are more than a processor's address translation holds.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    if hasattr(mmap, "MADV_HUGEPAGE") and not _counts_addresses():
        _grow_heap_in_huge_pages(libc, _physical_memory() // 2)


def _grow_heap_in_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Let the next `size` bytes that malloc hands out be of huge pages, where the system has them.

    The heap is made that much larger, which takes addresses but no memory until they are used. What
    is above the heap's old end is one block, which malloc splits from then on.
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
    """Whether this system takes addresses for memory, of which other programs then have less."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def _physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
