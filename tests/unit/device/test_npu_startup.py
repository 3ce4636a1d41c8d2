"""Start-up on an NPU, with fake libraries in a process of its own: order, settings, what is put back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mindspeed_dpo.device.npu import BASE_SETTINGS, _warn_of_numpy

MODULE = "tests.unit.device.npu_startup_script"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The report of the process; see `npu_startup_script`."""
    command = [sys.executable, "-m", MODULE, "--config-name", "tiny", "training.lr=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_nothing_imports_megatron_before_the_device_is_active(report: dict[str, Any]) -> None:
    assert not report["megatron_after_imports"]
    assert report["seen"]["torch_npu_came_first"] and report["seen"]["megatron_came_later"]


def test_mindspeed_sees_no_argument_of_ours(report: dict[str, Any]) -> None:
    (program,) = report["seen"]["argv"]
    assert program.endswith("npu_startup_script.py")


def test_arguments_logging_and_warnings_are_left_as_they_were(report: dict[str, Any]) -> None:
    assert report["unchanged"] == {"argv": True, "level": True, "handlers": True, "warning filters": True}


def test_repatch_gets_our_settings_over_the_base_ones(report: dict[str, Any]) -> None:
    assert report["seen"]["settings"] == {**BASE_SETTINGS, "seq_length": 77, "use_flash_attn": "overridden"}
    assert BASE_SETTINGS["use_flash_attn"] is True


def test_the_local_device_is_taken(report: dict[str, Any]) -> None:
    assert (report["kind"], report["devices"]) == ("npu", [5])


@pytest.mark.parametrize(
    ("case", "start", "remedy"),
    [
        (
            "without_torch_npu",
            "device=npu: cannot import torch_npu (",
            "install the torch_npu wheel that matches torch",
        ),
        ("without_mindspeed", "device=npu: cannot import mindspeed.megatron_adaptor (", "install MindSpeed, branch"),
        ("after_megatron", "device=npu: megatron was imported before", "activate the device first"),
    ],
)
def test_what_is_missing_or_too_late_is_said(case: str, start: str, remedy: str, report: dict[str, Any]) -> None:
    assert report[case].startswith(start) and remedy in report[case]


@pytest.mark.parametrize(("version", "warns"), [("1.26.4", False), ("2.0.0", True), ("2.4.6", True)])
def test_a_numpy_that_mindspeed_is_not_made_for_is_reported(
    version: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_numpy(version)
    assert ("MindSpeed requires numpy below 2" in caplog.text) == warns
