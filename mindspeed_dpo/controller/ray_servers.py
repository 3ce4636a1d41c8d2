"""The servers of Ray that a private cluster does without: dashboard, autoscaler and reader of the log files.

The dashboard of such a cluster is not used, it never grows, and the driver does not print what workers write. Each
is a Python process that costs half a second of processor time, and `ray.init` would wait for the first. Ray has no
setting that leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray._private.node import Node

UNUSED_SERVERS = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's `Node` that start them. A release without one of these starts what it starts."""


@contextmanager
def without_unused_servers() -> Iterator[None]:
    """Let `ray.init` within the block start a cluster without them."""
    present = {name: getattr(Node, name) for name in UNUSED_SERVERS if hasattr(Node, name)}
    for name in present:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in present.items():
            setattr(Node, name, method)


def _start_nothing(node: Node, *_: object, **__: object) -> None:
    """Take the place of a method that starts a server."""
