"""Each trap of starting on an NPU bites where its guard is taken out, and none where the guards are.

Lost sums of float64, keyword collectives, torch's autoload and the optimizer's sharding have their own tests:
`test_npu_reference.py`, `test_environment.py` and `tests/distributed/test_npu_contract.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TRAPS = (
    "arguments reach MindSpeed", "root level", "root handlers", "warning filters", "numpy is not reported",
    "float64 is taken", "settings reach a config",
)  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, bool]]:
    """Which traps bit, with and without guards; both processes at once."""
    command = [sys.executable, "-m", "tests.unit.device.npu_traps"]
    processes = {
        kind: subprocess.Popen(
            [*command, kind, "--config-name", "x", "training.lr=1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind in ("guarded", "bare")
    }
    texts = {kind: process.communicate(timeout=240)[1] for kind, process in processes.items()}
    assert all(process.returncode == 0 for process in processes.values()), texts
    return {kind: json.loads(text.splitlines()[-1]) for kind, text in texts.items()}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_bites_only_without_its_guard(trap: str, results: dict[str, dict[str, bool]]) -> None:
    assert {kind: actual[trap] for kind, actual in results.items()} == {"guarded": False, "bare": True}


def test_each_trap_is_looked_at(results: dict[str, dict[str, bool]]) -> None:
    assert set(results["bare"]) == set(TRAPS)


def test_the_extra_for_npus_keeps_numpy_below_2() -> None:
    text = Path(__file__).parents[3].joinpath("pyproject.toml").read_text()
    (extra,) = re.findall(r"^npu\w* = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert re.search(r'"numpy[^"]*<2"', extra)
