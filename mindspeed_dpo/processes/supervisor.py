"""Runs a command's work in a child process, the driver, and cleans up however it ends.

Ray's libraries may abort the process that uses them, or keep it in a call during which Python handles no signal. The
supervisor uses neither: it forwards signals, watches the processes that the driver names, says what ended, and kills
what is left of the run. Exit codes are those of the driver, 130 after a signal, or 1.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from mindspeed_dpo.processes import grace_periods
from mindspeed_dpo.processes.descendants import adopt_orphans, end_descendants, living_descendants
from mindspeed_dpo.processes.driver_link import driver_link
from mindspeed_dpo.processes.exit_codes import FAILED, INTERRUPTED
from mindspeed_dpo.processes.signal_causes import LIKELY_CAUSES
from mindspeed_dpo.processes.watched_processes import Watched, WatchedAddress, WatchedProcess

FORWARDED = (signal.SIGINT, signal.SIGTERM)
POLL_INTERVAL_S = 0.5
# Processes that end within this time of each other are attributed to one cause.
DEATH_ORDER_S = 0.1
# Of a live status that the driver could not end: its line is erased, and the cursor visible again.
END_OF_LIVE_STATUS = "\r\x1b[2K\x1b[?25h"


def supervise(work: Callable[[], int]) -> int:
    """Run a function in a child process and return its exit code; in the child, return as well.

    Args:
        work: What the command does; it may use `driver_link`.

    Returns:
        The exit code, for `sys.exit` in both processes.
    """
    ours, theirs = socket.socketpair()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        return _drive(work, theirs)
    theirs.close()
    adopt_orphans()
    return Supervisor(pid, ours).run()


def _drive(work: Callable[[], int], connection: socket.socket) -> int:
    # Ctrl-C reaches all of a process group; a group of its own lets the supervisor forward it, once.
    os.setpgid(0, 0)
    # For the terminal that group is in the background; with `stty tostop` it would be stopped at its first line.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    driver_link.open(connection)
    signal.signal(signal.SIGTERM, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    try:
        code = work()
    except KeyboardInterrupt:
        # A run that has begun reports it itself.
        _say("interrupted")
        code = INTERRUPTED
    driver_link.announce_end()
    if driver_link.loss():
        # What libraries do at exit would wait for what has ended.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Python handles SIGINT.

    Raises:
        KeyboardInterrupt: Always.
    """
    raise KeyboardInterrupt


class Supervisor:
    """Watches one driver until it has ended."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        """Supervise a child process.

        Args:
            pid: The child.
            link: Connection to its `driver_link`.
        """
        self._pid, self._link = pid, link
        self._received = b""
        self._code: int | None = None
        self._num_signals = 0
        self._is_graceful = self._has_ended_in_order = False
        self._result: int | None = None
        self._watched: list[Watched] = []
        self._folders: list[str] = []
        # When the driver is killed, and with which sentence and exit code.
        self._deadline_s: float | None = None
        self._limit: tuple[float, str] | None = None
        self._sentence, self._exit_code = "", FAILED
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Wait for the driver's end, end what it leaves, and return the exit code of the command."""
        signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        for number in FORWARDED:
            signal.signal(number, self._forward)
        signal.signal(signal.SIGTSTP, self._suspend)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        while not self._has_ended():
            self._wait()
            self._receive()
            if not self._has_ended():
                self._check()
        self._receive()
        return self._finish()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Pass a first signal to the driver; a second one kills it."""
        self._num_signals += 1
        self._exit_code = INTERRUPTED
        if self._num_signals > 1:
            self._kill()
            return
        self._deadline_s = time.monotonic() + grace_periods.SIGNAL_GRACE_S
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Suspend this process only, as Ctrl-Z asks for: Ray and collectives would not survive a pause of the run."""
        _say("suspended: the command only; the run goes on. Continue the command with fg or bg")
        os.kill(os.getpid(), signal.SIGSTOP)

    def _has_ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is not None

    def _wait(self) -> None:
        descriptors = [self._wakeup, self._link.fileno()]
        select.select(descriptors, [], [], POLL_INTERVAL_S)
        with suppress(BlockingIOError):
            os.read(self._wakeup, 4096)

    def _receive(self) -> None:
        with suppress(BlockingIOError, ConnectionResetError):
            while data := self._link.recv(65536, socket.MSG_DONTWAIT):
                self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            self._handle(json.loads(line))

    def _handle(self, message: dict[str, Any]) -> None:
        if "watch" in message:
            self._watch(message)
        elif "limit_s" in message:
            limit_s = message["limit_s"]
            self._limit = None if limit_s is None else (time.monotonic() + limit_s, message["message"])
        elif "folder" in message:
            self._folders.append(message["folder"])
        elif "graceful" in message:
            self._is_graceful = True
        elif "result" in message:
            self._result = message["result"]
            self._deadline_s = time.monotonic() + grace_periods.RESULT_GRACE_S
        else:
            self._has_ended_in_order = True

    def _watch(self, message: dict[str, Any]) -> None:
        if message["watch"] is None:
            self._watched.clear()
        elif "pid" in message:
            self._watched.append(WatchedProcess(message["watch"], message["pid"]))
        else:
            self._watched.append(WatchedAddress(message["watch"], message["address"], self._wake))

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wakeup_end, b"\0")

    def _check(self) -> None:
        """Note what has ended, and kill the driver when its time is over."""
        now_s = time.monotonic()
        if loss := self._loss():
            if self._takes_others_with_it():
                return
            self._watched.clear()
            self._sentence, self._deadline_s = loss, now_s + grace_periods.LOSS_GRACE_S
            with suppress(OSError):
                self._link.sendall(json.dumps({"lost": loss}).encode() + b"\n")
        if self._limit is not None and now_s >= self._limit[0]:
            self._sentence, self._deadline_s = self._limit[1], now_s
        if self._deadline_s is not None and now_s >= self._deadline_s and not self._is_finishing_step():
            self._kill()

    def _takes_others_with_it(self) -> bool:
        """Return whether the driver itself was killed: its children end with it, some of them a moment earlier."""
        time.sleep(DEATH_ORDER_S)
        return self._has_ended() and self._code == -signal.SIGKILL

    def _is_finishing_step(self) -> bool:
        return self._is_graceful and not self._sentence and self._result is None

    def _loss(self) -> str:
        """Return a sentence about a required process that ended; none is required once the results are complete."""
        if self._sentence or self._result is not None:
            return ""
        return next(filter(None, (one.loss() for one in self._watched)), "")

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _finish(self) -> int:
        """Report what the driver could not report, end its remaining processes, and return the exit code."""
        code = self._final_code()
        for one in self._watched:
            if isinstance(one, WatchedAddress):
                one.stop()
        has_ended = end_descendants(
            grace_periods.KILL_TIMEOUT_S, grace_periods.CLOSE_GRACE_S if self._has_ended_in_order else 0.0
        )
        if not has_ended:
            pids = ", ".join(map(str, living_descendants()))
            _say(f"error: processes {pids} of this run could not be ended")
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        return code

    def _final_code(self) -> int:
        assert self._code is not None
        if self._result is not None:
            return self._result
        if self._has_ended_in_order and self._code >= 0:
            return self._code
        # The driver may have died of something that has just ended; one that was killed took it along.
        sentence = self._sentence or ("" if self._code == -signal.SIGKILL else self._loss())
        if sys.stderr.isatty():
            _say(END_OF_LIVE_STATUS, end="")
        if self._num_signals and not sentence:
            _say("interrupted: the run was ended at once; checkpoints saved earlier are complete")
            return INTERRUPTED
        _say(f"error: {sentence or self._death()}")
        return FAILED

    def _death(self) -> str:
        assert self._code is not None
        if self._code >= 0:
            return f"the driver (process {self._pid}) ended with exit code {self._code} before the run was complete"
        number = signal.Signals(-self._code)
        reason = LIKELY_CAUSES.get(number, "it crashed")
        return f"the driver (process {self._pid}) died of {number.name}: {reason}, or it was killed"


def _say(text: str, end: str = "\n") -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text + end)
        sys.stderr.flush()
