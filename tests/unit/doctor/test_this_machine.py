"""The doctor on this machine: access to the system, child processes that hang or fail, operators, and the command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mindspeed_dpo.controller.node_inspection import InspectionRequest, connected, inspect_node
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.device import ops
from mindspeed_dpo.doctor.machine import Machine, ProbeError
from mindspeed_dpo.doctor.probe_processes import RESULT_PREFIX, CompletedCommand, run_command
from mindspeed_dpo.doctor.probes import operators
from mindspeed_dpo.doctor.request import request_from_config
from tests.support.process_signals import ends
from tests.support.processes import free_port
from tests.unit.autoconfig.quick_inputs import model_folder
from tests.unit.workers.pairs import write_pairs

MACHINE = Machine(timeout_s=200)


def test_a_listening_port_is_in_use() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert MACHINE.ports_in_use([port]) == [port]
    assert MACHINE.ports_in_use([free_port()]) == []


def test_access_to_the_system() -> None:
    assert "lo" in MACHINE.interfaces()
    assert MACHINE.is_own_address("127.0.0.1") and not MACHINE.is_own_address("203.0.113.7")
    assert MACHINE.version("torch") == torch.__version__ and MACHINE.version("no-such-package") is None
    assert MACHINE.package_folder("mindspeed_dpo") and MACHINE.package_folder("no_such_package") is None
    assert MACHINE.read(__file__) and MACHINE.read("/nowhere") is None
    assert MACHINE.max_open_files() != 0 and MACHINE.program("sh") and MACHINE.program("no-such-program") is None


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen(['sleep', '600']); open({str(started)!r}, 'w').write(str(p.pid)); "
        "sys.stderr.write('waiting for the other\\n'); sys.stderr.flush(); time.sleep(600)"
    )
    begin = time.monotonic()
    command = run_command([sys.executable, "-c", code], timeout_s=3)
    assert time.monotonic() - begin < 30
    assert command.exit_code is None and command.result is None
    assert command.failure == "no result within 3 s; last output: waiting for the other"
    assert ends(int(started.read_text()), within_s=30)


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        (CompletedCommand(1, stderr="Traceback\n  x\nImportError: no libhccl.so\n\n"), "ImportError: no libhccl.so"),
        (CompletedCommand(1, stdout="failed\n"), "failed"),
        (CompletedCommand(-9), "exited with code -9 without output"),
        (CompletedCommand(None, timeout_s=5), "no result within 5 s"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(command: CompletedCommand, failure: str) -> None:
    assert command.failure == failure and command.result is None


def test_a_result_is_read_from_between_the_output_of_libraries() -> None:
    assert CompletedCommand(0, f'hello\n{RESULT_PREFIX}{{"a": 1}}\nbye\n').result == {"a": 1}
    assert CompletedCommand(1, f"{RESULT_PREFIX}1\n").result is None
    assert run_command(["/no/such/program"], 1).exit_code == 127


def test_a_failed_probe_reports_the_reason() -> None:
    with pytest.raises(ProbeError, match="No module named 'no_such_library'"):
        MACHINE.probe("library_version", module="no_such_library")


FORWARD_ONLY = {
    "GroupedProduct",
    "grouped_product",
    "attends_by_slot",
    "block_attention",
    "few_rows_product",
    "rows_to_multiply",
    "BlockAttention",
    "Product",
    "VisibleKeys",
}
"""Names of `device.ops` that have no gradient; the tests of generation compare them."""


def test_every_operator_is_compared() -> None:
    assert {case.operator for case in operators.CASES} == set(ops.__all__) - FORWARD_ONLY


def test_operators_match_their_definitions_and_an_incorrect_one_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_device() -> torch.device:
        plain = ops.swiglu
        monkeypatch.setattr(ops, "swiglu", lambda x: plain(x) * 1.1)
        return torch.device("cpu")

    assert all(row["error"] <= row["tolerance"] for row in operators.compare(lambda: torch.device("cpu")))
    rows = list(operators.compare(other_device))
    assert {row["name"] for row in rows if row["error"] > row["tolerance"]} == {"swiglu"}


def test_a_result_that_is_not_finite_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_device() -> torch.device:
        monkeypatch.setattr(ops, "rms_norm", lambda x, weight, epsilon: x * weight * float("nan"))
        return torch.device("cpu")

    assert {row["name"] for row in operators.compare(other_device) if row["error"] is None} == {"rms_norm"}


def test_a_node_reports_paths_without_access(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    request = InspectionRequest(
        ("torch",), (str(tmp_path / "there"), "/nowhere/x"), (str(tmp_path / "new/folder"), "/proc/new")
    )
    report = inspect_node(request)
    assert report["versions"]["torch"] == torch.__version__
    assert report["unreadable"] == ["/nowhere/x"]
    assert report["unwritable"] == ([] if os.access("/proc", os.W_OK) else ["/proc/new"])


def test_an_address_without_a_cluster_fails_within_seconds() -> None:
    begin = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"no Ray cluster responds at 127\.0\.0\.1:1 "),
        connected("127.0.0.1:1", False),
    ):
        pass
    assert time.monotonic() - begin < 10


def test_the_request_of_a_configuration_has_the_paths_of_its_run() -> None:
    overrides = ("training.output_dir=some/folder", "actor_rollout_ref.actor_rollout.load=/w/model")
    request = request_from_config("offline_dpo_trainer_tiny", overrides, None)
    assert request.run is not None and request.problems == ()
    assert "/w/model" in request.reads and all(os.path.isabs(path) for path in request.reads)
    assert any(path.endswith("_packed_chosen_input_ids_document.bin") for path in request.reads)
    assert request.writes == (os.path.abspath("some/folder"),)
    unknown = request_from_config("offline_dpo_trainer_tini", (), None)
    assert "no such configuration" in unknown.problems[0] and unknown.is_unreadable


def test_a_configuration_may_leave_model_and_steps_to_its_files(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs")
    keys = {"stage": "dpo", "num_train_epochs": 2, "global_batch_size": 4, "lr": 1e-6, "load": str(model_folder())}
    (tmp_path / "mine.yaml").write_text(json.dumps({"training": {**keys, "data_path": str(data), "seq_length": 64}}))
    request = request_from_config(str(tmp_path / "mine.yaml"), ("micro_batch_size=2",), None)
    assert request.problems == () and request.run is not None
    assert request.run.loop.train_iters == 3 and request.run.actor.batch.micro_batch_size == 2


@pytest.mark.distributed
@pytest.mark.slow
def test_the_command_checks_this_machine(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-m", "mindspeed_dpo.doctor", "--json", "--device", "cpu", "--address", "127.0.0.1:1"]
    done = subprocess.run([*command, "--path", data, "--path", "/nowhere"], capture_output=True, text=True, timeout=400)
    report = json.loads(done.stdout)
    actual = {one["name"]: one for one in report["findings"]}
    assert done.returncode == 1 and report["device"] == "cpu"
    assert {name for name, one in actual.items() if one["verdict"] == "fix"} == {"nodes", "/nowhere"}
    for name in ("torch", "megatron-core", "start of a worker", "all-reduce", "swiglu", "segment_attention", str(data)):
        assert actual[name]["verdict"] == "ok", actual[name]
    assert actual["driver"] == {
        "group": "CANN and driver", "verdict": "not here", "found": "no NPU", "remedy": "", "name": "driver",
    }  # fmt: skip
