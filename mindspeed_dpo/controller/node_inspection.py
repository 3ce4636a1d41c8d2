"""What every node of a cluster has: devices, versions, paths. It is asked, and nothing is taken or changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mindspeed_dpo.controller.cluster import OBJECT_STORE_BYTES, QUIET, ClusterError, join_running

KNOCK_TIMEOUT_S = 5.0
RESOURCES = ("NPU", "GPU", "CPU")


@dataclass(frozen=True)
class Question:
    """What each node is asked.

    Attributes:
        packages: Whose versions are told.
        reads: Paths that should be readable; a folder also to be entered.
        writes: Paths that should be writable, or made where they do not exist yet.
    """

    packages: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def look(question: Question) -> dict[str, Any]:
    """The answer of this node: versions by package (`python` too), and the paths that cannot be used."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in question.packages}},
        "unreadable": [path for path in question.reads if not os.access(path, _reading(path))],
        "unwritable": [path for path in question.writes if not os.access(_existing(path), os.W_OK | os.X_OK)],
    }


@contextmanager
def connected(address: str | None, start: bool) -> Iterator[bool]:
    """Connect to a cluster and let go of it.

    Args:
        address: Where it answers; None is the one that runs on this machine.
        start: Start one of this process's own instead, and end it.

    Yields:
        Whether there is one: without an address there may be none.

    Raises:
        ClusterError: None answers at the address, or none could be started.
    """
    try:
        yield _connect(address, start)
    finally:
        ray.shutdown()


def _connect(address: str | None, start: bool) -> bool:
    if start:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **QUIET)
        # Ray raises Exception itself when its processes do not come up in time.
        except Exception as error:
            raise ClusterError(f"Ray did not start on this machine ({error})") from error
        return True
    if address is not None:
        _knock(address)
    try:
        join_running(address or "auto")
    except ClusterError as error:
        if address is None and isinstance(error.__cause__, ConnectionError):
            return False
        raise
    return True


def _knock(address: str) -> None:
    """Find out in seconds that nobody is there; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterError(f"nothing answers at {address} ({error.strerror or error})") from error


def ask_nodes(question: Question, timeout_s: float) -> list[dict[str, Any]]:
    """Ask every node that lives, all at once; call it while connected.

    Returns:
        For each node `address`, `resources`, `error` (empty, or why it gave no answer) and what `look` says.
    """
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
    remote = ray.remote(look)
    answers = [remote.options(**_placed_on(node["NodeID"])).remote(question) for node in nodes]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=timeout_s) if answers else ([], [])
    return [_told(node, answer, answer in ready) for node, answer in zip(nodes, answers, strict=True)]


def _placed_on(node: str) -> dict[str, Any]:
    # No CPU is asked for: a node that is busy answers too.
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False), "max_retries": 0}


def _told(node: dict[str, Any], answer: Any, is_ready: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "address": str(node["NodeManagerAddress"]),
        "resources": {name: int(node["Resources"].get(name, 0)) for name in RESOURCES},
        "error": "" if is_ready else "no answer in time",
    }
    if is_ready:
        try:
            found.update(ray.get(answer))
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            found["error"] = lines[-1].strip()
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reading(path: str) -> int:
    return os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK


def _existing(path: str) -> str:
    """The path, or the nearest folder above it that exists."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
