"""A pool of tokenization processes, sized by the number of rows, that end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_TOKENIZER_MODULES = ("transformers.models.auto.tokenization_auto", "transformers.tokenization_utils_tokenizers")
"""What opening a tokenizer imports, torch among it: more than a second of processor time in each process otherwise."""


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_pool(count: int, preload: str) -> ProcessPoolExecutor:
    """Create a pool whose processes are forked from a server that has only imported a module and the tokenizers.

    Forking this process would copy locks held by threads of its tokenizer, and each spawned process would import torch.

    Args:
        count: Number of processes.
        preload: Name of the module.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload, *_TOKENIZER_MODULES])
    return ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process when its parent ends, also if the parent is killed and cannot tell its pool."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def map_in_order(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], max_pending: int
) -> Iterator[Result]:
    """Map like `pool.map`, but consume `items` lazily, with at most `max_pending` pending calls."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= max_pending:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
