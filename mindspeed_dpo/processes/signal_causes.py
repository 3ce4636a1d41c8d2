"""Likely causes of the signals that end a process."""

from __future__ import annotations

import signal

LIKELY_CAUSES = {
    signal.SIGKILL: "the system may be out of memory",
    signal.SIGBUS: "a file that it had mapped into memory was cut, or its disk has failed or is full",
}
