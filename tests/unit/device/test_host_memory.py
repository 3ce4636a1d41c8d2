"""Freed memory is used again: a block of the same size does not fault its pages in again."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

FAULTS_OF_TEN_BLOCKS = """
import ctypes, resource, sys
from mindspeed_dpo.device.host_allocator import keep_freed_memory
library, size = ctypes.CDLL(None), 1 << 26
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.memset.argtypes, library.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]

def use_a_block():
    block = library.malloc(size)
    library.memset(block, 1, size)
    library.free(block)

if sys.argv[1] == "reused":
    assert keep_freed_memory()
use_a_block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use_a_block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    command = [sys.executable, "-c", FAULTS_OF_TEN_BLOCKS, word]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_block_that_was_freed_is_not_fetched_from_the_kernel_again() -> None:
    pages_of_a_block = (1 << 26) // resource.getpagesize()
    assert faults("reused") < pages_of_a_block
