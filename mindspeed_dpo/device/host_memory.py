"""How the C library keeps memory of a process that computes on the host.

glibc maps every block of more than 128 KiB (later up to 32 MiB) from the kernel anew and gives it back when it is
freed. Activations and logits are such blocks, again and again, and each time the kernel fills their pages with zeros.
"""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1

ALIKE = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""The same as variables, for a process that cannot be told from within."""


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back; whether the C library could be told so.

    Its memory then stays at its peak. A user's own `MALLOC_` variables count for what was allocated before the call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
