"""The real MindSpeed without a device, `make test-mindspeed MINDSPEED=/path`: it patches, and a step keeps its numbers.

The same command runs `tests/distributed/test_npu_contract.py` with it. The operators compute in plain torch, so that
this is about start-up order, side effects and patches of megatron-core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.closeness import ENGINE, ROUNDING, assert_same_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TEST_MINDSPEED" not in os.environ, reason="TEST_MINDSPEED names no checkout of MindSpeed"),
]


def report(kind: str) -> dict[str, Any]:
    """The report of the process; arguments of ours must not reach MindSpeed."""
    command = [sys.executable, "-m", "tests.mindspeed", kind, "--config-name", "tiny", "training.lr=1", "-h"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def patched() -> dict[str, Any]:
    """A process with MindSpeed's patches."""
    return report("npu")


def test_it_patches_megatron_and_leaves_arguments_logging_and_warnings(patched: dict[str, Any]) -> None:
    assert patched["patches"] > 50
    assert patched["unchanged"] == {"argv": True, "level": True, "handlers": True, "warning filters": True}


def test_loss_gradient_and_steps_are_those_without_patches(patched: dict[str, Any]) -> None:
    plain = report("cpu")
    assert patched["loss"] == pytest.approx(plain["loss"], rel=ROUNDING)
    assert patched["norms"] == pytest.approx(plain["norms"], rel=ROUNDING)
    assert_same_run(*([{"grad_norm": norm} for norm in one["steps"]] for one in (patched, plain)), ENGINE)
