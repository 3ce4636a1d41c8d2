"""The child process of `sandbox`, in which the user's functions run. It imports no library that is not Python's own.

Messages are JSON over a separate socket, so that a function's prints do not interfere. A thread reads them, and the
functions run in the main thread, where they may use signals. When the parent ends for whatever reason, the thread kills
this process and everything it started, including what has a session of its own or has lost its parent.

This process is a grandchild of the parent, behind a guard process. Ray kills a worker together with its children, and
would otherwise leave no process to kill what the functions have started; and the guard does so when this process is
killed, for example because a function hangs.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from mindspeed_dpo.processes.descendants import adopt_orphans, end_descendants
from mindspeed_dpo.workers.rewards.function_loading import Function, InvalidFunction, import_function, parameters_of
from mindspeed_dpo.workers.rewards.function_results import FUNCTION_ERRORS, one_line, run_function

END_TIMEOUT_S = 5.0


def main() -> None:
    """Serve the functions named on the command line until the parent ends."""
    descriptor, paths = int(sys.argv[2]), json.loads(sys.argv[3])
    # The user's modules see a command line without arguments, and are looked up in the run's directory first.
    sys.argv[1:] = []
    sys.path.insert(0, os.getcwd())
    os.set_inheritable(descriptor, False)
    _leave_guard(descriptor)
    link = Connection(descriptor)
    requests: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(link, requests), daemon=True).start()
    functions: dict[str, Function] = {}
    _send(link, {path: _load(path, functions) for path in paths})
    while True:
        path, arguments = requests.get()
        _send(link, run_function(functions[path], arguments))


def _leave_guard(descriptor: int) -> None:
    """Continue in a forked child. This process waits for it, ends what it has left, and exits the same way.

    SIGTERM lets this process kill the child, also one that does not react itself. No threads exist yet.
    """
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child == 0:
        adopt_orphans()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return
    os.close(descriptor)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_descendants(END_TIMEOUT_S)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def _listen(link: Connection, requests: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> None:
    try:
        while True:
            requests.put(json.loads(link.recv_bytes()))
    except (EOFError, OSError):
        end_descendants(END_TIMEOUT_S)
        # The group consists of this process and its guard.
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _send(link: Connection, message: Any) -> None:
    link.send_bytes(json.dumps(message).encode())


def _load(path: str, functions: dict[str, Function]) -> dict[str, Any]:
    """Import a function and describe its parameters, or the problem with it."""
    try:
        functions[path] = import_function(path)
        return {"parameters": parameters_of(functions[path])}
    except InvalidFunction as error:
        return {"problem": str(error)}
    except FUNCTION_ERRORS as error:
        traceback.print_exc()
        return {"problem": f"cannot be imported: {one_line(error)}"}
