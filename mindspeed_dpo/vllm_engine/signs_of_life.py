"""Whether the vLLM process works on a request: what it says, and what the kernel says of it and its descendants.

A process that is stopped or hangs is distinguished from one that computes for long: a heartbeat comes during any
computation that releases Python's lock, and any other uses processor time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mindspeed_dpo.processes.descendants import STOPPED, ProcessState, process_tree

LOOK_INTERVAL_S = 2.0
LONGEST_STEP_S = 1.0
"""Most that one interval counts: while this process did not run itself, nothing could be heard."""
_LOOKS_PER_SILENCE = 5


class SignsOfLife:
    """The signs of life of one process during one request."""

    def __init__(
        self,
        pid: int,
        progress_s: float,
        silence_s: float,
        *,
        is_starting: bool,
        key: str = "vllm",
        look: Callable[[int], Mapping[int, ProcessState]] = process_tree,
    ) -> None:
        """Begin to watch.

        Args:
            pid: The process.
            progress_s: Seconds without progress after which it hangs, whatever else it does.
            silence_s: Seconds after which it hangs if it is stopped, or neither beats nor uses processor time.
            is_starting: Whether it starts: before its first heartbeat it imports libraries, perhaps from a file system
                that answers late.
            key: The setting that the limit of `progress_s` belongs to.
            look: Returns the states of a process and its descendants.
        """
        self._pid, self._silence_s, self._look = pid, silence_s, look
        self._progress_s, self._is_starting, self._key = progress_s, is_starting, key
        self._look_interval_s = min(LOOK_INTERVAL_S, silence_s / _LOOKS_PER_SILENCE)
        self._now_s = self._advanced_s = self._heard_s = self._looked_s = 0.0
        self._completed: int | None = None
        self._ticks: int | None = None
        self._stopped: tuple[int, float] | None = None

    def beat(self, completed: int) -> None:
        """Note a heartbeat, which says how many steps have been completed."""
        self._heard_s = self._now_s
        if completed != self._completed:
            self._advanced_s, self._completed = self._now_s, completed

    def problem_after(self, elapsed_s: float) -> str:
        """Return by what a process is found to hang; empty if it is not.

        Args:
            elapsed_s: Seconds since the last call.
        """
        self._now_s += min(elapsed_s, LONGEST_STEP_S)
        if self._now_s - self._looked_s >= self._look_interval_s:
            self._looked_s = self._now_s
            self._note(self._look(self._pid))
        if self._stopped is not None and self._now_s - self._stopped[1] >= self._silence_s:
            return f"its process {self._stopped[0]} is stopped, as by SIGSTOP or a debugger"
        if not self._is_importing and self._now_s - self._heard_s >= self._silence_s:
            return f"it gave no sign of life for {self._silence_s:g} s and used no processor time"
        if self._now_s - self._advanced_s >= self._progress_s:
            limit = f"{self._key}.{'start_timeout_s' if self._is_starting else 'timeout_s'}"
            return f"no progress for {self._progress_s:g} s; if it only needs longer, raise {limit}"
        return ""

    @property
    def _is_importing(self) -> bool:
        return self._is_starting and self._completed is None

    def _note(self, states: Mapping[int, ProcessState]) -> None:
        stopped = next((pid for pid, state in states.items() if state.letter in STOPPED), None)
        if stopped is None:
            self._stopped = None
        elif self._stopped is None or self._stopped[0] != stopped:
            self._stopped = stopped, self._now_s
        ticks = states[self._pid].cpu_ticks if self._pid in states else None
        if ticks != self._ticks:
            self._ticks, self._heard_s = ticks, self._now_s
