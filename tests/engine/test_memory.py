"""Freed memory stays with the process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import torch
from googlenet_fast.engine.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):  # glibc may set some blocks side by side first
    torch.empty(2**24).fill_(1)
counts = []
for _ in range(4):
    before = faults()
    torch.empty(2**20 * 15).fill_(1)
    counts.append(faults() - before)
print(min(counts))  # a block may still be set beside the others
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_blocks_are_used_again_without_page_faults() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PROGRAM, mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("return") / 10


HUGE = """
import re
from pathlib import Path
import torch
from googlenet_fast.engine.memory import keep_freed_memory

keep_freed_memory()
address = torch.empty(2**24).data_ptr() + 2**24  # not where the heap ended before
for mapping in re.split(r"\\n(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text()):
    first, last = (int(end, 16) for end in mapping.split()[0].split("-"))
    if first <= address < last:
        print(re.search("VmFlags:(.*)", mapping)[1])
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="only Linux with glibc",
)
def test_the_heap_is_of_huge_pages() -> None:
    command = [sys.executable, "-c", HUGE]
    flags = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "hg" in flags.split()
