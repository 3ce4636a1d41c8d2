"""The vLLM process as a rollout worker sees it: started, asked, watched, ended.

The worker waits for an answer as long as the process shows signs of life, and names the end or the silence of the
process within seconds. The process ends with the worker, whichever way that ends.
"""

from __future__ import annotations

import os
import select
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

from mindspeed_dpo.processes.descendants import process_tree
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.vllm_engine.ending import end_process, how_it_ended, kill_process, last_line
from mindspeed_dpo.vllm_engine.interpreter import engine_environment, serve_command
from mindspeed_dpo.vllm_engine.leftovers import shared_segments
from mindspeed_dpo.vllm_engine.messages import MalformedMessage, receive_message, send_message
from mindspeed_dpo.vllm_engine.signs_of_life import SignsOfLife

# How often a waiting call looks whether the process is alive; usually its socket reports its end at once.
POLL_INTERVAL_S = 0.2
SILENCE_S = 15.0


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
        timeout_s: Seconds without a completed step after which the engine is taken for hung.
        start_timeout_s: The same while it starts.
        log_file: Receives what it writes to its standard streams.
        environment: Environment variables beside those of this process.
        silence_s: Seconds after which the process is taken for hung if it is stopped, or silent and idle.
        key: The setting that the timeouts and arguments belong to.
        concurrency: The setting with the number of concurrent responses.
        name: What errors call the engine.
    """

    python: str
    arguments: Mapping[str, Any]
    timeout_s: float
    start_timeout_s: float
    log_file: Path
    environment: Mapping[str, str]
    silence_s: float = SILENCE_S
    key: str = "vllm"
    concurrency: str = "rollout_slots"
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
        self._segments: set[str] = set()
        self.close = weakref.finalize(self, end_process, self._process, self._link, temporary, self._segments)

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
        # It removes them itself unless it is killed.
        self._segments.update(shared_segments(process_tree(self.pid)))
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
        self.check_alive()
        with suppress(BrokenPipeError, ConnectionResetError):  # waiting for the answer reports how it ended
            send_message(self._link, message, descriptors)
        signs = SignsOfLife(
            self.pid, timeout_s, self._settings.silence_s, is_starting=what == "start", key=self._settings.key
        )
        while True:
            self._wait_until_readable(what, signs)
            answer = self._receive()
            if "failed" in answer:
                raise self._failure(what, answer)
            if "alive" not in answer:
                return answer
            signs.beat(answer.integer("alive"))

    def _failure(self, what: str, answer: JsonObject) -> EngineFailure:
        settings = self._settings
        lower = f"; lower {settings.key}.gpu_memory_utilization or {settings.concurrency}"
        advice = lower if answer.boolean("out_of_memory") else ""
        return EngineFailure(f"{self._name} failed in {what}: {answer['failed']}{advice}{self._see_log}")

    def _receive(self) -> JsonObject:
        try:
            content, descriptors = receive_message(self._link)
            for descriptor in descriptors:
                os.close(descriptor)
            return parse_json_object(content, "the answer")
        except (EOFError, OSError) as error:
            raise self._death() from error
        except (MalformedMessage, MalformedDataError) as error:
            raise EngineFailure(f"{self._name} sent something else than an answer: {error}{self._see_log}") from error

    def _wait_until_readable(self, what: str, signs: SignsOfLife) -> None:
        looked_s = time.monotonic()
        while not select.select([self._link], [], [], POLL_INTERVAL_S)[0]:
            self.check_alive()
            now_s = time.monotonic()
            if problem := signs.problem_after(now_s - looked_s):
                # A process that is stopped would not notice the end of this one.
                kill_process(self._process)
                self.close()
                raise EngineFailure(f"{self._name} hangs in {what}: {problem}{self._see_log}")
            looked_s = now_s

    def _death(self) -> EngineFailure:
        how, last = how_it_ended(self._process), last_line(self._settings.log_file)
        # Nothing may stay if this process is killed next.
        self.close()
        return EngineFailure(f"{self._name} {how}{f'; it last wrote: {last}' if last else ''}{self._see_log}")

    @property
    def _name(self) -> str:
        return f"{self._settings.name} (process {self.pid}, {self._settings.python})"

    @property
    def _see_log(self) -> str:
        return f"; see {self._settings.log_file}"
