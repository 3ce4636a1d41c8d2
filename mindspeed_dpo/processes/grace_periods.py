"""Times that the supervisor waits before it kills: after a signal, a loss, the result, and the end of the driver."""

from __future__ import annotations

SIGNAL_GRACE_S = 3.0
"""Time that the driver may take to end after Ctrl-C or SIGTERM, unless it reports that it finishes a step."""
LOSS_GRACE_S = 4.0
"""The same after a process that it needs has ended."""
RESULT_GRACE_S = 20.0
"""The same after its results are complete."""
CLOSE_GRACE_S = 1.0
"""Time that processes of a run that ended in order, such as Ray's agents, may take to end by themselves."""
KILL_TIMEOUT_S = 10.0
"""Time within which processes that were killed must be gone."""
