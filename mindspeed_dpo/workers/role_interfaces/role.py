"""The base of the interfaces: what every role has."""

from __future__ import annotations


class Role:
    """A role that a worker process plays: one of the interfaces beside this module."""

    def check_alive(self) -> None:
        """Check that what the role has started beside its process still runs.

        Raises:
            RuntimeError: It has ended.
        """
