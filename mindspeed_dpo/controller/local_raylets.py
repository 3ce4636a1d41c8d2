"""Finds the Ray nodes that run on this machine, whose they are, and which of them a run may join without an address."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mindspeed_dpo.processes.watched_processes import connection_error

CURRENT_CLUSTER_FILE = "ray_current_cluster"
# Local connections are accepted within milliseconds; other hosts get the same time for a few retransmissions.
PROBE_TIMEOUT_S = 2.0
# The file is written when the node has started.
START_TOLERANCE_S = 1.0
LOOPBACK = "127.0.0.1"
SHORT_ROOT = "/tmp"


@dataclass(frozen=True)
class Raylet:
    """Ray's process on this machine for one cluster.

    Example:
        Raylet(pid=4711, user_id=1000, address="10.0.0.1:6344", created_s=1.7e9)

    Attributes:
        pid: Process id.
        user_id: User that started it.
        address: `host:port` of the cluster's GCS, as this node was given it.
        created_s: When it started, in seconds since the epoch.
        environment: Its environment variables; empty where this user may not read them.
    """

    pid: int
    user_id: int
    address: str
    created_s: float
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_on_loopback(self) -> bool:
        """Whether the cluster consists of this machine alone, under its loopback address."""
        return self.address.rpartition(":")[0] == LOOPBACK


def local_raylets() -> list[Raylet]:
    """Return the raylets on this machine, of all users and clusters."""
    raylets = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words and Path(words[0]).name == "raylet":
                address = _option(words, "--gcs-address")
                owner = process.uids().real
                raylets.append(Raylet(process.pid, owner, address, process.create_time(), _environment(process)))
    return raylets


def raylet_of(address: str) -> Raylet | None:
    """Return this machine's raylet of the cluster at `host:port`, whichever name of the host is given."""
    host, _, port = address.rpartition(":")
    same_port = [one for one in local_raylets() if one.address.rpartition(":")[2] == port]
    hosts = _addresses_of(host)
    # Ray gives a node that is started with a loopback address another one of its machine.
    is_local = any(one.startswith("127.") or one == "::1" for one in hosts)
    return next((one for one in same_port if one.address.rpartition(":")[0] in hosts or is_local), None)


def raylet_started_here() -> Raylet | None:
    """Return the raylet of the cluster that this user started with `ray start` on this machine, if it is alive.

    `ray start` leaves the address in a file, also after its end and for all users; a cluster that a program started for
    itself leaves none.
    """
    path = current_cluster_file()
    try:
        status = path.stat()
        address = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    raylet = raylet_of(address)
    if raylet is None or status.st_uid != os.getuid() or raylet.user_id != os.getuid():
        return None
    # Another cluster may have got the port of one that has ended.
    if raylet.created_s > status.st_mtime + START_TOLERANCE_S or connection_error(raylet.address, PROBE_TIMEOUT_S):
        return None
    return raylet


def current_cluster_file() -> Path:
    """Return the file in which `ray start` leaves the address of its cluster."""
    return Path(temporary_root(), "ray", CURRENT_CLUSTER_FILE)


def temporary_root() -> str:
    """Return the folder under which Ray puts its files."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT_ROOT


def gcs_server_pid(raylet_address: str) -> int | None:
    """Return the process on this machine that serves the cluster at `host:port`; None if it is on another one."""
    port = raylet_address.rpartition(":")[2]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words and Path(words[0]).name == "gcs_server" and _option(words, "--gcs_server_port") == port:
                return process.pid
    return None


def _option(words: list[str], name: str) -> str:
    return next((word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")), "")


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _addresses_of(host: str) -> set[str]:
    try:
        return {host, *(str(info[4][0]) for info in socket.getaddrinfo(host, None))}
    except OSError:
        return {host}
