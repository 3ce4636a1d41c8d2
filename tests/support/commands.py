"""The project's command lines as a user starts them: processes of their own, at the repository's root, environment clean.

What a command prints goes to files, so that a process it leaves behind can neither block it nor hide. A command is given
up after a bounded time, and nothing here sleeps: conditions are waited for.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.support.processes import free_port
from tests.support.runs import Layout, overrides

ROOT = Path(__file__).resolve().parents[2]
# Far more than any command takes alone: machines that test are busy.
TIMEOUT_S = 240.0
# Between two looks at a condition.
LOOK_S = 0.01
WORKER_TITLE = "ray::WorkerProcess"
_NOT_INHERITED = {"PYTHONPATH", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"}


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """Everything it printed."""
        return self.out + self.err


class Running:
    """A command in a session of its own; leaving the block kills it with all it started."""

    def __init__(self, arguments: Sequence[str | Path]) -> None:
        self._out, self._err = (tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") for _ in range(2))
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )
        self._seen: set[psutil.Process] = set()

    @property
    def pid(self) -> int:
        """Process id of the command itself."""
        return self._process.pid

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for a condition; fails if the command ends without it."""

        def met_or_over() -> bool:
            return condition() or self._process.poll() is not None

        until(met_or_over, what, timeout_s)
        assert condition(), f"ended with {self._process.returncode} before {what}:\n{self._printed().told}"

    def finish(self, timeout_s: float = TIMEOUT_S) -> Finished:
        """Wait for the end."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end within {timeout_s:g} s:\n{self._printed().told}") from error
        return self._printed()

    def signal(self, number: int) -> None:
        """Send a signal to the command itself."""
        self.family()
        self._process.send_signal(number)

    def family(self) -> set[psutil.Process]:
        """What the command has started, and what they have, as seen until now."""
        try:
            self._seen.update(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            pass
        return self._seen

    def workers(self) -> list[psutil.Process]:
        """Ray actors of the command, oldest first."""
        found = [process for process in self.family() if _title(process).startswith(WORKER_TITLE)]
        return sorted(found, key=lambda process: process.create_time())

    def left_behind(self, timeout_s: float = 30.0) -> list[str]:
        """Titles of what still runs of the family, after some time to end."""
        psutil.wait_procs([*self.family(), *self._session()], timeout=timeout_s)
        return [_title(process) for process in {*self._seen, *self._session()} if _lives(process)]

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
        self._out.close()
        self._err.close()

    def _session(self) -> list[psutil.Process]:
        """Processes of the session that the command leads, itself left out."""
        return [p for p in psutil.process_iter() if p.pid != self.pid and _session_of(p) == self.pid]

    def _printed(self) -> Finished:
        for stream in (self._out, self._err):
            stream.seek(0)
        code = self._process.returncode
        return Finished(-999 if code is None else code, self._out.read(), self._err.read())


def command(*arguments: str | Path, timeout_s: float = TIMEOUT_S) -> Finished:
    """Run a program of the repository to its end, e.g. `command("convert_ckpt.py", "--load-dir", folder)`."""
    with Running(arguments) as running:
        return running.finish(timeout_s)


def succeed(*arguments: str | Path) -> Finished:
    """`command` that must end well."""
    finished = command(*arguments)
    assert finished.code == 0, f"{arguments} ended with {finished.code}:\n{finished.told}"
    return finished


def training(layout: Layout, **keys: Any) -> list[str]:
    """The command that trains the tiny model under a layout; keys are of training, or of the actor."""
    tp, pp, dp = layout
    sizes = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp, "sequence_parallel": False}
    name = ["ray_gpt.py", "--config-name", "offline_dpo_trainer_tiny"]
    return [*name, *overrides({**sizes, **keys}), f"resource_pool.actor_rollout=[{tp * pp * dp}]"]


def until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition, looking again and again for a bounded time."""
    pause = threading.Event()
    for _ in range(int(timeout_s / LOOK_S)):
        if condition():
            return
        pause.wait(LOOK_S)
    raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")


@contextmanager
def ray_cluster(num_cpus: int) -> Iterator[str]:
    """A Ray cluster of one node on this machine, for as long as the block lasts; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={address.rpartition(':')[2]}",
        "--node-ip-address=127.0.0.1", f"--ray-client-server-port={free_port()}", f"--num-cpus={num_cpus}",
        "--include-dashboard=false", "--disable-usage-stats", f"--object-store-memory={100 * 1024 * 1024}",
    ]  # fmt: skip
    with Running(arguments) as running:
        running.until(lambda: "Ray runtime started" in running._printed().out, "the Ray cluster's start")
        yield address
        running.signal(15)
        running.finish()


def _environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in _NOT_INHERITED}
    own = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return {**inherited, **own, "RAY_TMPDIR": _ray_folder()}


@functools.cache
def _ray_folder() -> str:
    """Ray's own files; a short path, as sockets lie in it, and apart, so that no other cluster is found or lost."""
    folder = tempfile.mkdtemp(prefix="dpo")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


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
