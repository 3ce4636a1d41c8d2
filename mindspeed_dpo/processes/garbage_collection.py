"""Python's garbage collector while a process imports its libraries.

torch and megatron-core leave 600,000 objects, which stay as long as the process. The collector looks through them again
and again while they are made, which is a fifth of the time of the imports, and in each full collection of the training.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_suspended() -> Iterator[None]:
    """Suspend the collector in the block, and exclude what exists at its end from later collections.

    For blocks that make objects to stay: cycles that are garbage at the end of the block are never freed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
