"""What holds for every test: one thread per process, logging restored afterwards, tests of absent devices skipped."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

# Before torch is imported: several processes with many threads each would fight for the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings

from tests.xdist_order import group_of, longest_first

# What is imported and collected stays, so nothing looks for garbage before the tests begin.
gc.disable()
# The time of a single example says nothing on a shared machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread the tests over workers by `tests.xdist_order`, where they are spread by files."""
    if config.getoption("dist") != "loadfile":
        return None
    scheduler = importlib.import_module("xdist.scheduler").LoadFileScheduling(config, log)
    scheduler._split_scope = lambda test: group_of(test.split("::", 1)[0])
    return scheduler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that are marked for a device this machine does not have; on workers, begin with the longest."""
    if hasattr(config, "workerinput"):
        longest_first(items)
    absent = {}
    if not torch.cuda.is_available():
        absent["cuda"] = pytest.mark.skip(reason="needs a CUDA device")
    if importlib.util.find_spec("torch_npu") is None:
        absent["npu"] = pytest.mark.skip(reason="needs torch_npu and an Ascend NPU")
    for item in items:
        for marker, skip in absent.items():
            if item.get_closest_marker(marker):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Let the garbage collector begin, with what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def pools_at_rest() -> Iterator[None]:
    """Suspend the processes of pools: each group keeps threads that look for work again and again."""
    yield
    if "tests.support.processes" in sys.modules:
        sys.modules["tests.support.processes"].rest()


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """A test that adds handlers to the root logger and leaves them there fails."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    left = [
        handler for handler in root.handlers if handler not in handlers and "pytest" not in type(handler).__module__
    ]
    root.setLevel(level)
    for handler in left:
        root.removeHandler(handler)
    assert not left, f"handlers left on the root logger: {left}"
