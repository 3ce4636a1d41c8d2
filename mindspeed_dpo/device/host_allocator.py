"""Memory allocation of a process that computes on the host.

glibc maps each block above 128 KiB (later up to 32 MiB) from the kernel and unmaps it when it is freed. Activations and
logits are such blocks, so the kernel would zero their pages again and again.
"""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1

EQUIVALENT_VARIABLES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""The same settings as environment variables, for a process started by another program."""


def keep_freed_memory() -> bool:
    """Make this process reuse freed memory instead of returning it to the system.

    Its memory then stays at its peak. `MALLOC_` variables of the user apply to allocations before the call.

    Returns:
        Whether the C library supports it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
