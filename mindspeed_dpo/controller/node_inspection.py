"""Inspects the nodes of a cluster: devices, versions, paths. Nothing is allocated or changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mindspeed_dpo.controller.local_raylets import raylet_started_here
from mindspeed_dpo.controller.ray_connection import join_raylet, raylet_at, start_private_cluster

RESOURCES = ("NPU", "GPU", "CPU")


@dataclass(frozen=True)
class InspectionRequest:
    """The packages and paths to inspect on each node.

    Example:
        InspectionRequest(packages=("torch",), reads=("/data/pairs",), writes=("/runs/out",))

    Attributes:
        packages: Packages whose versions are reported.
        reads: Paths that should be readable, folders also searchable.
        writes: Paths that should be writable, or that can be created.
    """

    packages: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def inspect_node(request: InspectionRequest) -> dict[str, Any]:
    """Inspect this node: versions by package (`python` too), and the paths that cannot be used."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in request.packages}},
        "unreadable": [path for path in request.reads if not os.access(path, _read_mode(path))],
        "unwritable": [path for path in request.writes if not os.access(_nearest_existing(path), os.W_OK | os.X_OK)],
    }


@contextmanager
def connected(address: str | None, start: bool) -> Iterator[bool]:
    """Connect to a cluster, and disconnect at the end.

    Args:
        address: `host:port` of the cluster; None for the one that this user began with `ray start` on this machine.
        start: Start a local cluster instead, and stop it at the end.

    Yields:
        Whether there is a cluster; without an address there may be none.

    Raises:
        ClusterError: No cluster responds at the address, or none could be started.
    """
    if start:
        with start_private_cluster(os.cpu_count() or 1):
            yield True
        return
    raylet = raylet_started_here() if address is None else raylet_at(address)
    if raylet is None:
        yield False
        return
    with join_raylet(raylet):
        yield True


def inspect_nodes(request: InspectionRequest, timeout_s: float) -> list[dict[str, Any]]:
    """Inspect all live nodes in parallel; a cluster must be connected.

    Args:
        request: What to inspect.
        timeout_s: Seconds to wait for all nodes.

    Returns:
        For each node `address`, `resources`, `error` (empty, or why it did not respond) and the result of
        `inspect_node`.
    """
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
    remote = ray.remote(inspect_node)
    results = [remote.options(**_placed_on(node["NodeID"])).remote(request) for node in nodes]
    ready, _ = ray.wait(results, num_returns=len(results), timeout=timeout_s) if results else ([], [])
    return [_report(node, result, result in ready) for node, result in zip(nodes, results, strict=True)]


def _placed_on(node: str) -> dict[str, Any]:
    # No CPU is requested, so that a busy node responds too.
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False), "max_retries": 0}


def _report(node: dict[str, Any], result: Any, is_ready: bool) -> dict[str, Any]:
    report: dict[str, Any] = {
        "address": str(node["NodeManagerAddress"]),
        "resources": {name: int(node["Resources"].get(name, 0)) for name in RESOURCES},
        "error": "" if is_ready else "no response in time",
    }
    if is_ready:
        try:
            report.update(ray.get(result))
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            report["error"] = lines[-1].strip()
    return report


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_mode(path: str) -> int:
    return os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK


def _nearest_existing(path: str) -> str:
    """Return the path, or its nearest existing parent."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
