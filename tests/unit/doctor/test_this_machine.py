"""The doctor on this machine: its questions to the system, processes that hang or die, operators, and the command."""

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

from mindspeed_dpo.controller.node_inspection import ClusterError, InspectionRequest, connected, inspect_node
from mindspeed_dpo.device import ops
from mindspeed_dpo.doctor.machine import Machine, ProbeFailed
from mindspeed_dpo.doctor.probes import operators
from mindspeed_dpo.doctor.processes import ANSWER, Ran, run
from mindspeed_dpo.doctor.request import of_configuration
from tests.support.processes import ends, free_port

HERE = Machine(timeout_s=200)


def test_a_port_that_is_listened_on_is_taken() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert HERE.taken_ports([port]) == [port]
    assert HERE.taken_ports([free_port()]) == []


def test_the_system_answers() -> None:
    assert "lo" in HERE.interfaces()
    assert HERE.is_own_address("127.0.0.1") and not HERE.is_own_address("203.0.113.7")
    assert HERE.version("torch") == torch.__version__ and HERE.version("no-such-package") is None
    assert HERE.package_folder("mindspeed_dpo") and HERE.package_folder("no_such_package") is None
    assert HERE.read(__file__) and HERE.read("/nowhere") is None
    assert HERE.open_files() != 0 and HERE.program("sh") and HERE.program("no-such-program") is None


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen(['sleep', '600']); open({str(started)!r}, 'w').write(str(p.pid)); "
        "sys.stderr.write('waiting for the other\\n'); sys.stderr.flush(); time.sleep(600)"
    )
    begin = time.monotonic()
    ran = run([sys.executable, "-c", code], timeout_s=3)
    assert time.monotonic() - begin < 30
    assert ran.code is None and ran.answer is None
    assert ran.reason == "no answer within 3 s; last it said: waiting for the other"
    assert ends(int(started.read_text()), within_s=30)


@pytest.mark.parametrize(
    ("ran", "reason"),
    [
        (Ran(1, err="Traceback\n  x\nImportError: no libhccl.so\n\n"), "ImportError: no libhccl.so"),
        (Ran(1, out="told\n"), "told"),
        (Ran(-9), "ended with code -9 and said nothing"),
        (Ran(None, timeout_s=5), "no answer within 5 s"),
    ],
)
def test_why_a_command_failed_is_one_line(ran: Ran, reason: str) -> None:
    assert ran.reason == reason and ran.answer is None


def test_an_answer_is_found_among_what_libraries_print() -> None:
    assert Ran(0, f'hello\n{ANSWER}{{"a": 1}}\nbye\n').answer == {"a": 1}
    assert Ran(1, f"{ANSWER}1\n").answer is None
    assert run(["/no/such/program"], 1).code == 127


def test_a_probe_that_fails_says_why() -> None:
    with pytest.raises(ProbeFailed, match="No module named 'no_such_library'"):
        HERE.probe("loads", module="no_such_library")


def test_every_operator_is_compared() -> None:
    assert {case.operator for case in operators.CASES} == set(ops.__all__) - operators.FOR_GENERATION


def test_operators_meet_their_definition_here_and_a_wrong_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_device() -> torch.device:
        plain = ops.swiglu
        monkeypatch.setattr(ops, "swiglu", lambda x: plain(x) * 1.1)
        return torch.device("cpu")

    assert all(row["error"] <= row["allowed"] for row in operators.compare(lambda: torch.device("cpu")))
    rows = list(operators.compare(wrong_device))
    assert {row["name"] for row in rows if row["error"] > row["allowed"]} == {"swiglu"}


def test_a_value_that_is_not_finite_is_no_small_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_device() -> torch.device:
        monkeypatch.setattr(ops, "rms_norm", lambda x, weight, epsilon: x * weight * float("nan"))
        return torch.device("cpu")

    assert {row["name"] for row in operators.compare(wrong_device) if row["error"] is None} == {"rms_norm"}


def test_a_node_says_which_paths_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    question = InspectionRequest(
        ("torch",), (str(tmp_path / "there"), "/nowhere/x"), (str(tmp_path / "new/folder"), "/proc/new")
    )
    found = inspect_node(question)
    assert found["versions"]["torch"] == torch.__version__
    assert found["unreadable"] == ["/nowhere/x"]
    assert found["unwritable"] == ([] if os.access("/proc", os.W_OK) else ["/proc/new"])


def test_an_address_where_nobody_is_is_told_in_seconds() -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=r"nothing responds at 127\.0\.0\.1:1"), connected("127.0.0.1:1", False):
        pass
    assert time.monotonic() - begin < 10


def test_a_configuration_tells_what_its_run_reads_and_writes() -> None:
    overrides = ("training.output_dir=some/folder", "actor_rollout_ref.actor_rollout.load=/w/model")
    request = of_configuration("offline_dpo_trainer_tiny", overrides, None)
    assert request.run is not None and request.problems == ()
    assert "/w/model" in request.reads and all(os.path.isabs(path) for path in request.reads)
    assert any(path.endswith("_packed_chosen_input_ids_document.bin") for path in request.reads)
    assert request.writes == (os.path.abspath("some/folder"),)
    assert "no such configuration" in of_configuration("offline_dpo_trainer_tini", (), None).problems[0]


@pytest.mark.distributed
@pytest.mark.slow
def test_the_command_checks_this_machine(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-m", "mindspeed_dpo.doctor", "--json", "--device", "cpu", "--address", "127.0.0.1:1"]
    done = subprocess.run([*command, "--path", data, "--path", "/nowhere"], capture_output=True, text=True, timeout=400)
    report = json.loads(done.stdout)
    found = {one["name"]: one for one in report["findings"]}
    assert done.returncode == 1 and report["device"] == "cpu"
    assert {name for name, one in found.items() if one["verdict"] == "fix"} == {"nodes", "/nowhere"}
    for name in ("torch", "megatron-core", "start of a worker", "all-reduce", "swiglu", "segment_attention", str(data)):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["driver"] == {
        "group": "CANN and driver", "verdict": "not here", "found": "no NPU", "remedy": "", "name": "driver",
    }  # fmt: skip
