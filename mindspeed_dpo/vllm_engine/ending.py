"""The end of a vLLM process as its worker sees it: how it came, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from mindspeed_dpo.processes.descendants import process_tree
from mindspeed_dpo.vllm_engine.leftovers import remove_files

END_TIMEOUT_S = 10.0
_LOG_TAIL_BYTES = 4096


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """Return how a process ended that has closed its connection, as the rest of a sentence about it."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    code = process.returncode
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    cause = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by signal {-code}{cause}"


def last_line(log_file: Path) -> str:
    """Return the last line of a log that is not empty."""
    with suppress(OSError), log_file.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def end_process(process: subprocess.Popen[bytes], link: socket.socket, temporary: str, segments: set[str]) -> None:
    """End a process and all that it has started: it does so itself once the socket is closed."""
    link.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    kill_process(process)
    process.wait()
    remove_files(segments)
    shutil.rmtree(temporary, ignore_errors=True)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started, of which some may still run when it has ended."""
    for pid in process_tree(process.pid) if process.returncode is None else ():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # It leads a process group.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
