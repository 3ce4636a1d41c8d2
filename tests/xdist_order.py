"""How the tests are spread over the workers of pytest-xdist: which belong together, and which begin first.

A file is the least that a worker takes. The longest begin first, so that none is left to run alone at the end.
"""

from __future__ import annotations

import pytest

OWN_RUN = "tests/end_to_end"
"""Files of this folder that share one run, made once by the worker that has them all."""
APART = (
    "test_interrupted_runs.py",
    "test_online_runs.py",
    "test_installed_package.py",
    "_bad_data.py",
    "_bad_weights.py",
)
"""Ends of the names of those that do not."""
LONGEST = (
    "tests/end_to_end/test_interrupted_runs.py",
    OWN_RUN,
    "tests/end_to_end/test_online_runs.py",
    "tests/distributed/test_recorded_training.py",
    "tests/distributed/test_npu_contract.py",
    "tests/distributed/test_online_learning.py",
    "tests/config_effects/test_every_key.py",
)


def group_of(path: str) -> str:
    """What is run by one worker, for a test's file."""
    return OWN_RUN if path.startswith(f"{OWN_RUN}/") and not path.endswith(APART) else path


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests so that groups of `LONGEST` come first, in their order; within a group nothing moves."""
    items.sort(key=lambda item: _place(group_of(item.nodeid.split("::", 1)[0])))


def _place(group: str) -> int:
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)
