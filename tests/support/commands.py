"""The project's command lines as a user starts them: processes at the repository's root, in a clean environment.

What a command prints goes to a file, so that a process it leaves behind can neither block it nor hide. A command is
given up after a bounded time, and nothing here sleeps: conditions are waited for.
"""

from __future__ import annotations

import json
import os
import runpy
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pytest
import torch

from tests.support.processes import free_port
from tests.support.runs import Layout, overrides

ROOT = Path(__file__).resolve().parents[2]
# Far more than any command takes alone: machines that test are busy.
TIMEOUT_S = 480.0
# Between two looks at a condition, most of which go through all processes of the machine.
LOOK_S = 0.05
# The same for one that holds for a moment only.
SHORT_LOOK_S = 0.01
START_ATTEMPTS = 4
# Authentication of the clusters that tests start, as on nodes that share a token; runs that join them do not get it.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# As `examples/cluster` sets it: Ray's own default would make the workers the last on a busy machine.
NOT_NICE = {"RAY_worker_niceness": "0"}
_NOT_INHERITED = {"PYTHONPATH", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"}


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code, negative for a signal, and what it printed."""

    code: int
    text: str


class Running:
    """A command in a session of its own, started in a folder; leaving the block kills it with all it started."""

    def __init__(
        self, arguments: Sequence[str | Path], folder: Path = ROOT, terminal: int | None = None, **environment: str
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dpo", ignore_cleanup_errors=True)
        self._output = Path(self._folder.name) / "output"
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=folder,
                env={**_environment(self._folder.name), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._seen: set[psutil.Process] = set()

    @property
    def pid(self) -> int:
        """Process id of the command itself."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the command itself is over."""
        return self._process.poll() is not None

    def printed(self) -> str:
        """What it has printed until now."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], bool], what: str, look_s: float = LOOK_S) -> None:
        """Wait for a condition; fails if the command ends without it."""

        until(lambda: condition() or self.has_ended, what, look_s=look_s)
        assert condition(), f"ended with {self._process.returncode} before {what}:\n{self.printed()}"

    def finish(self, timeout_s: float = TIMEOUT_S) -> Finished:
        """Wait for the end."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end within {timeout_s:g} s:\n{self.printed()}") from error
        return Finished(self._process.returncode, self.printed())

    def signal(self, number: int) -> None:
        """Send a signal to the command itself."""
        self.family()
        self._process.send_signal(number)

    def family(self) -> set[psutil.Process]:
        """What the command has started, and what they have, as seen until now."""
        with suppress(psutil.NoSuchProcess):
            self._seen.update(psutil.Process(self.pid).children(recursive=True))
        return self._seen

    def listening(self) -> set[str]:
        """Addresses at which the family listens for connections of TCP."""
        addresses = set()
        for process in self.family():
            with suppress(psutil.Error):
                addresses.update(
                    one.laddr.ip for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN
                )
        return addresses

    def named(self, name: str) -> psutil.Process:
        """The first process of the family that has a name such as raylet and still runs."""
        return next(process for process in self.family() if _lives(process) and process.name() == name)

    def has_started(self, name: str) -> bool:
        """Whether a process of that name runs in the family."""
        return any(_lives(process) and process.name() == name for process in self.family())

    def ray_folders(self) -> list[str]:
        """Names of the folders of the Ray that a run has started for itself, as far as they exist."""
        return [path.name for path in Path(self._folder.name).glob("dpo_ray_*")]

    def left_behind(self, timeout_s: float = 30.0) -> list[str]:
        """Titles of what still runs of the family, Ray's own agents too, after some time to end."""
        with suppress(AssertionError):
            until(lambda: not self._lasting(), "the end of all processes", timeout_s)
        return self._lasting()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.family(), *self._session()]:
            if _lives(process):
                process.kill()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _lasting(self) -> list[str]:
        return [_title(process) for process in {*self._seen, *self._session()} if _lives(process)]

    def _session(self) -> list[psutil.Process]:
        """Processes of the session that the command leads, itself left out."""
        return [p for p in psutil.process_iter() if p.pid != self.pid and _session_of(p) == self.pid]


def command(*arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Finished:
    """Run a program of the repository to its end, e.g. `command("convert_ckpt.py", "--load-dir", folder)`."""
    with Running(arguments) as running:
        return running.finish(timeout_s)


def call(
    main: Callable[[list[str]], int], arguments: Sequence[str | Path], capture: pytest.CaptureFixture[str]
) -> Finished:
    """A command line called in this process: what escapes it as an exception fails the test, with its traceback."""
    capture.readouterr()
    code = main([str(argument) for argument in arguments])
    printed = capture.readouterr()
    return Finished(code, printed.out + printed.err)


def run_here(script: str, *arguments: str | Path) -> None:
    """Run a script of the repository in this process, where its imports are paid for already; it must end well."""
    path, stored = str(ROOT / script), (sys.argv, sys.path[:])
    sys.argv, sys.path[:0] = [path, *map(str, arguments)], [str(Path(path).parent)]
    try:
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, f"{script} ended with {ended.code}"
    finally:
        sys.argv, sys.path[:] = stored


def succeed(*arguments: str | Path) -> Finished:
    """`command` that must end well."""
    finished = command(*arguments)
    assert finished.code == 0, f"{arguments} ended with {finished.code}:\n{finished.text}"
    return finished


def training(layout: Layout, **keys: Any) -> list[str]:
    """The command that trains the tiny model under a layout; keys are of training, or of the actor."""
    tp, pp, dp = layout
    sizes = {
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "sequence_parallel": False,
        "report": False,
    }
    name = ["ray_gpt.py", "--config-name", "offline_dpo_trainer_tiny"]
    return [*name, *overrides({**sizes, **keys}), f"resource_pool.actor_rollout=[{tp * pp * dp}]"]


def until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S, look_s: float = LOOK_S) -> None:
    """Wait for a condition, looking again and again for a bounded time."""
    pause, end_s = threading.Event(), time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return
        pause.wait(look_s)
    raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")


@contextmanager
def simulated_cluster(npus: Sequence[int]) -> Iterator[str]:
    """A Ray cluster of several nodes on this machine, each declaring so many NPUs that are not there."""
    with ExitStack() as stack:
        address = stack.enter_context(ray_cluster(num_cpus=npus[0], resources={"NPU": npus[0]}))
        for count in npus[1:]:
            arguments = [
                "-m", "ray.scripts.scripts", "start", "--block", f"--address={address}", f"--num-cpus={count}",
                f"--resources={json.dumps({'NPU': count})}", f"--object-store-memory={100 * 1024 * 1024}",
                "--node-ip-address=127.0.0.1", "--include-log-monitor=false", "--disable-usage-stats",
            ]  # fmt: skip
            node = stack.enter_context(Running(arguments, **TOKEN, **NOT_NICE))
            node.until(lambda node=node: "Ray runtime started" in node.printed(), "the start of a node")
        yield address


@contextmanager
def ray_cluster(num_cpus: int, resources: Mapping[str, int] | None = None) -> Iterator[str]:
    """A Ray cluster of one node on this machine, for as long as the block lasts; gives its address."""
    for _ in range(START_ATTEMPTS):
        port = free_port()
        arguments = [
            "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
            "--node-ip-address=127.0.0.1", f"--ray-client-server-port={free_port()}", f"--num-cpus={num_cpus}",
            f"--resources={json.dumps(resources or {})}",
            "--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats",
            f"--object-store-memory={100 * 1024 * 1024}",
        ]  # fmt: skip
        with Running(arguments, **TOKEN, **NOT_NICE) as running:
            until(lambda run=running: run.has_ended or "Ray runtime started" in run.printed(), "Ray's start")
            # Another program took a port, or Ray waited 30 s for its own processes: too little on a very busy machine.
            if running.has_ended or not _accepts(port):
                continue
            yield f"127.0.0.1:{port}"
            running.signal(signal.SIGTERM)
            running.finish()
            return
    raise AssertionError(f"Ray did not start in {START_ATTEMPTS} attempts")


def _accepts(port: int) -> bool:
    """Whether a program listens at a port of this machine."""
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def _environment(ray_folder: str) -> dict[str, str]:
    """This process's own, without the variables that describe another job to a command.

    Args:
        ray_folder: Ray's own files lie there. A folder for each command, so that none finds the cluster of another; a
            short path, as sockets lie in it.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in _NOT_INHERITED}
    own = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "RAY_TMPDIR": ray_folder}
    return {**inherited, **own}


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


def open_files(process: psutil.Process) -> set[str]:
    """Paths of the files that a process has open; none where it has ended."""
    try:
        return {file.path for file in process.open_files()}
    except psutil.Error:
        return set()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return -1
