"""A phase of a command: what it is, how much of it is done, and its line."""

from __future__ import annotations

from collections.abc import Callable

_BAR_WIDTH, _SHORTEST_BAR = 24, 6
_FULL, _EMPTY = "━", "─"
_MANY = 10_000_000
_UNFINISHED = 0.99
"""Largest share that is shown of a phase whose share is only expected."""


class Phase:
    """A phase that counts what is done.

    Attributes:
        what: A few words.
        total: What `done` is at the end; None if unknown.
        done: What is complete; `advance` and `set_done` change it.
        num_lines: Lines logged so far.
        has_lines: Whether its progress is logged; false for phases with lines of their own.
    """

    def __init__(
        self, what: str, clock: Callable[[], float], total: int | None, done: int, expected_s: float | None
    ) -> None:
        """Start a phase now; `expected_s` is how long one of this name took the last time."""
        self.what, self.total, self.done = what, total, done
        self.num_lines, self.has_lines = 0, True
        self._clock, self._start_s, self._done_before = clock, clock(), done
        self._expected_s = expected_s
        # Of the first count: what comes before it, such as the start of processes, is not part of the rate.
        self._first_s, self._first_done = 0.0, done

    def advance(self, count: int = 1) -> None:
        """Count more as done."""
        self.set_done(self.done + count)

    def set_done(self, done: int) -> None:
        """Set what is complete."""
        if self.done == self._done_before and done > self.done:
            self._first_s, self._first_done = self.elapsed_s, done
        self.done = done

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_s

    @property
    def share(self) -> float | None:
        """Share that is done, from 0 to 1; without a count the share of the expected duration; None if unknown."""
        if self.total:
            return min(self.done / self.total, 1.0)
        return min(self.elapsed_s / self._expected_s, _UNFINISHED) if self._expected_s else None

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left; None if unknown."""
        if self.total:
            done = self.done - self._first_done
            since_first_s = self.elapsed_s - self._first_s
            return since_first_s * max(self.total - self.done, 0) / done if done > 0 else None
        return max(self._expected_s - self.elapsed_s, 0.0) if self._expected_s else None


def status_line(phase: Phase, width: int | None = None) -> str:
    """Return the line of a phase, at most `width` columns with a bar, or without limit and bar.

    Counts are exact; a share and a time left that are only expected begin with a tilde.
    """
    about = "" if phase.total else "~"
    parts = [_amount(phase)] if phase.total or phase.done else []
    parts += [] if phase.share is None else [f"{about}{phase.share:.0%}"]
    parts.append(duration(phase.elapsed_s))
    parts += [] if phase.eta_s is None else [f"eta {about}{duration(phase.eta_s)}"]
    if width is None:
        return f"{phase.what}: {', '.join(parts)}"
    return _fitted(phase, parts, width)


def _amount(phase: Phase) -> str:
    """Return what is done, of how much if that is known; large amounts in millions."""
    size, unit = (1_000_000, " M") if max(phase.done, phase.total or 0) >= _MANY else (1, "")
    amounts = (phase.done, phase.total) if phase.total else (phase.done,)
    return "/".join(f"{amount / size:,.0f}" for amount in amounts) + unit


def _fitted(phase: Phase, parts: list[str], width: int) -> str:
    """Join name, bar and parts within a width: first the bar is left out, then parts from the front."""
    tail = "  ".join(parts)
    bar_width = min(width - len(phase.what) - len(tail) - 4, _BAR_WIDTH)
    if phase.share is not None and bar_width >= _SHORTEST_BAR:
        full = round(phase.share * bar_width)
        return f"{phase.what}  {_FULL * full}{_EMPTY * (bar_width - full)}  {tail}"
    while len(phase.what) + len(tail) + 2 > width and len(parts) > 1:
        parts = parts[1:]
        tail = "  ".join(parts)
    return f"{phase.what}  {tail}"[: max(width, 0)]


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds, such as 26:03:09."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
