"""The vLLM process: it serves the requests of one rollout worker until that ends.

Runs in the interpreter that vLLM is installed in, which need not have this package: `bootstrap` makes it importable,
and nothing below imports another library of the trainer. Requests arrive over a socket (`messages`), weights in memory
that both processes share. vLLM itself runs in this process, its tensor-parallel workers are children of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch
import vllm

from mindspeed_dpo.processes.descendants import adopt_orphans, end_descendants, living_descendants
from mindspeed_dpo.vllm_engine.heartbeat import Heartbeat
from mindspeed_dpo.vllm_engine.leftovers import remove_files, shared_segments
from mindspeed_dpo.vllm_engine.messages import receive_message
from mindspeed_dpo.vllm_engine.served_engine import Refused, ServedEngine

END_TIMEOUT_S = 5.0
WORKER_TIMEOUT_S = 1.0
"""How long a worker may take to end that is being killed while its engine reports that."""


def serve(descriptor: int) -> None:
    """Serve the requests that come over a socket, the first of which starts the engine."""
    os.set_inheritable(descriptor, False)
    adopt_orphans()
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    heartbeat = Heartbeat(connection)
    engine: ServedEngine | None = None
    workers: list[BaseProcess] = []
    while True:
        message, descriptors = _receive(connection)
        heartbeat.begin()
        try:
            if engine is None:
                engine = ServedEngine(message, descriptors[0], heartbeat.advance)
                workers = multiprocessing.active_children()
                heartbeat.answer({"vllm": vllm.__version__, "torch": torch.__version__})
            else:
                heartbeat.answer(engine.answer(message))
        # vLLM raises errors of any type, all of which the worker reports.
        except Exception as error:
            out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
            heartbeat.answer({"failed": _one_line(error) + _killed(workers), "out_of_memory": out_of_memory})
            if not isinstance(error, Refused):
                raise


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for a request; where the worker has ended, so does this process."""
    try:
        content, descriptors = receive_message(connection)
    except (EOFError, ConnectionResetError):
        _end()
    return json.loads(content), descriptors


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _killed(workers: Sequence[BaseProcess]) -> str:
    """Return which of vLLM's workers was killed, of which vLLM itself says less; empty if none was."""
    for worker in workers:
        worker.join(WORKER_TIMEOUT_S)
        if worker.exitcode == -signal.SIGKILL:
            return (
                f"; its worker {worker.name} (process {worker.pid}) was killed by signal {signal.SIGKILL:d}, as the "
                "kernel does when memory runs out"
            )
    return ""


def _end_with_parent(descriptor: int) -> None:
    """End this process and all that it started once the other end of the socket has closed, whatever runs here."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    poll.poll()
    _end()


def _end() -> NoReturn:
    """End this process and all that it started, and remove what that would leave behind."""
    segments = shared_segments([os.getpid(), *living_descendants()])
    end_descendants(END_TIMEOUT_S)
    remove_files(segments)
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os._exit(0)
