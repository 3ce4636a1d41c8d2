"""The vLLM process as a rollout worker sees it: started, asked, watched, ended.

The worker waits for an answer as long as the process shows signs of life, and names the end or the silence of the
process within seconds. The process ends with the worker, whichever way that ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.vllm_engine.interpreter import engine_environment, serve_command
from mindspeed_dpo.vllm_engine.messages import MalformedMessage, receive_message, send_message

# How often a waiting call looks whether the process is alive; usually its socket reports its end at once.
POLL_INTERVAL_S = 0.2
END_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 4096


class EngineFailure(RuntimeError):
    """The vLLM process ended, hung, or could not do what was asked."""


@dataclass(frozen=True)
class EngineSettings:
    """The settings of a vLLM process.

    Example:
        EngineSettings(
            python="/opt/vllm/bin/python", arguments={"model": "/models/qwen3-8b", "dtype": "bfloat16"},
            timeout_s=300.0, start_timeout_s=1800.0, log_file=Path("out/logs/rollout_0_vllm.log"), environment={},
        )

    Attributes:
        python: The interpreter that vLLM is installed in.
        arguments: Arguments of its engine, JSON values.
        timeout_s: Seconds without a sign of life after which the process is taken for hung.
        start_timeout_s: The same while it starts.
        log_file: Receives what it writes to its standard streams.
        environment: Environment variables beside those of this process.
        key: The setting that the timeouts belong to.
        name: What errors call the engine.
    """

    python: str
    arguments: Mapping[str, Any]
    timeout_s: float
    start_timeout_s: float
    log_file: Path
    environment: Mapping[str, str]
    key: str = "vllm"
    name: str = "the vLLM engine"


class EngineProcess:
    """A vLLM process and the socket to it.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Start the process; `start` starts the engine in it."""
        self._settings = settings
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # The process removes it at its end, or this one does.
        temporary = tempfile.mkdtemp(prefix="vllm_engine_")
        settings.log_file.parent.mkdir(parents=True, exist_ok=True)
        with theirs, settings.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                serve_command(settings.python, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=engine_environment({**settings.environment, "TMPDIR": temporary}),
                start_new_session=True,
            )
        self.pid = self._process.pid
        # The process ends with this object, or with the interpreter.
        self.close = weakref.finalize(self, _end, self._process, self._link, temporary)

    def start(self, tensors: Sequence[Any], weights: int) -> str:
        """Start the engine and return the version of vLLM.

        Args:
            tensors: Name, dtype, shape and offset of each tensor in the shared memory.
            weights: File descriptor of that memory.

        Raises:
            EngineFailure: vLLM refuses the arguments, or the process ended or hung.
        """
        message = {"arguments": dict(self._settings.arguments), "tensors": list(tensors)}
        answer = self._ask("start", message, (weights,), self._settings.start_timeout_s)
        return answer.text("vllm")

    def ask(self, request: str, message: Mapping[str, Any]) -> JsonObject:
        """Send a request and wait for the answer.

        Raises:
            EngineFailure: The engine could not serve it, or the process ended or hung.
        """
        return self._ask(request, {"request": request, **message}, (), self._settings.timeout_s)

    def check_alive(self) -> None:
        """Check that the process has not ended.

        Raises:
            EngineFailure: It has.
        """
        if self._process.poll() is not None:
            raise self._death()

    def _ask(self, what: str, message: dict[str, Any], descriptors: tuple[int, ...], timeout_s: float) -> JsonObject:
        with suppress(BrokenPipeError, ConnectionResetError):  # waiting for the answer reports how it ended
            send_message(self._link, message, descriptors)
        while True:
            answer = self._receive(what, timeout_s)
            if "failed" in answer:
                raise EngineFailure(f"{self._name} failed in {what}: {answer['failed']}{self._see_log}")
            if "alive" not in answer:
                return answer

    def _receive(self, what: str, timeout_s: float) -> JsonObject:
        self._wait_until_readable(what, timeout_s)
        try:
            content, descriptors = receive_message(self._link)
            for descriptor in descriptors:
                os.close(descriptor)
            return parse_json_object(content, "the answer")
        except (EOFError, OSError) as error:
            raise self._death() from error
        except (MalformedMessage, MalformedDataError) as error:
            raise EngineFailure(f"{self._name} sent something else than an answer: {error}{self._see_log}") from error

    def _wait_until_readable(self, what: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not select.select([self._link], [], [], POLL_INTERVAL_S)[0]:
            self.check_alive()
            if time.monotonic() >= deadline_s:
                raise EngineFailure(
                    f"{self._name} gave no sign of life for {timeout_s:g} s in {what}; if it only needs longer, raise "
                    f"{self._settings.key}.{'start_timeout_s' if what == 'start' else 'timeout_s'}{self._see_log}"
                )

    def _death(self) -> EngineFailure:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        code = self._process.returncode
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            killed = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
            how = f"was killed by signal {-code}{killed}"
        last = self._last_line()
        return EngineFailure(f"{self._name} {how}{f'; it last wrote: {last}' if last else ''}{self._see_log}")

    @property
    def _name(self) -> str:
        return f"{self._settings.name} (process {self.pid}, {self._settings.python})"

    @property
    def _see_log(self) -> str:
        return f"; see {self._settings.log_file}"

    def _last_line(self) -> str:
        """Return the last line of the log that is not empty."""
        with suppress(OSError), self._settings.log_file.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""


def _end(process: subprocess.Popen[bytes], link: socket.socket, temporary: str) -> None:
    """End a process and all that it has started: it does so itself once the socket is closed."""
    link.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    # It leads a process group; what it started may still run if it was killed or does not react.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(temporary, ignore_errors=True)
