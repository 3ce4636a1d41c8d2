"""Finds and ends all descendants of a process, in any session, even if their parents have ended.

The standard library only: the process of the user's functions uses it, too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36
ENDED = "ZX"
"""States of a process that has ended, but whose parent has not collected its exit status."""
STOPPED = "Tt"
"""States of a process that was stopped, by a signal or by a debugger."""
# Interval at which the processes are counted again while they end.
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True)
class ProcessState:
    """The state of a process as the kernel reports it.

    Example:
        ProcessState("S", parent=1, started=123456)

    Attributes:
        letter: State, such as S for sleeping, or one of `ENDED`.
        parent: Process id of the parent.
        started: When it started, in clock ticks since boot; tells processes of one id apart.
        cpu_ticks: Clock ticks of processor time that it has used.
    """

    letter: str
    parent: int
    started: int
    cpu_ticks: int = 0


def process_state(pid: int) -> ProcessState | None:
    """Return the state of a process; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in brackets, may contain anything.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessState(fields[0], int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]))


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent ends; otherwise these become children of init.

    Returns:
        Whether the system can do that, as Linux can.
    """
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def process_tree(root: int) -> dict[int, ProcessState]:
    """Return the states of a process and its descendants, parents first; empty where there is no such process."""
    found = {int(name): process_state(int(name)) for name in os.listdir("/proc") if name.isdecimal()}
    states = {pid: state for pid, state in found.items() if state is not None}
    children: dict[int, list[int]] = {}
    for pid, state in states.items():
        children.setdefault(state.parent, []).append(pid)
    tree = [root] if root in states else []
    for pid in tree:
        tree.extend(children.get(pid, ()))
    return {pid: states[pid] for pid in tree}


def living_descendants() -> list[int]:
    """Return the descendants of this process that still run, parents first; ended children are collected."""
    tree = process_tree(os.getpid())
    return [pid for pid, state in tree.items() if pid != os.getpid() and not _has_ended(pid, state)]


def _has_ended(pid: int, state: ProcessState) -> bool:
    if state.letter not in ENDED:
        return False
    if state.parent == os.getpid():
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return True


def end_descendants(timeout_s: float, grace_s: float = 0.0) -> bool:
    """Wait for all descendants to end, and kill those that have not after a grace period.

    Processes may start others in the meantime, so the search is repeated until none is left.

    Args:
        timeout_s: Seconds after which the attempt is given up; a process can resist in a system call.
        grace_s: Seconds to wait before the first one is killed.

    Returns:
        Whether none is left.
    """
    start_s = time.monotonic()
    while living := living_descendants():
        elapsed_s = time.monotonic() - start_s
        if elapsed_s >= timeout_s:
            return False
        if elapsed_s >= grace_s:
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_INTERVAL_S)
    return True
