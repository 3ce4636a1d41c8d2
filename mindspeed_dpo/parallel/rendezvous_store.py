"""The key-value store of a job's rendezvous. It is created before the device is activated, so no megatron import.

Torch's store in a socket has no authentication, so other users of the machine could read and write what the processes
exchange at start. Where all processes are on one machine, the store is therefore a file in memory that is reached
through the file descriptors of the process that made it, which the kernel opens to processes of the same user only. It
ends with that process and leaves nothing behind. Between machines the store listens at one address of the first node.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

LOOPBACK = "127.0.0.1"
_PROCESSES = "/proc/"


@dataclass(frozen=True)
class HostedStore:
    """A store that this process serves, and where the others reach it.

    Example:
        HostedStore(store, "/proc/4242/fd/7") or HostedStore(store, "10.0.0.1:29500")
    """

    store: dist.Store
    address: str


def host_store(port: int | None = None, host: str = LOOPBACK) -> HostedStore:
    """Serve a store as long as this process lives.

    Args:
        port: A port; None takes any free one, and none on the loopback address.
        host: Address of this machine at which the other processes reach the store.

    Raises:
        OSError: The port is in use.
    """
    if port is None and host == LOOPBACK:
        path = f"{_PROCESSES}{os.getpid()}/fd/{os.memfd_create('rendezvous')}"
        return HostedStore(dist.FileStore(path), path)
    store = _listening_store(port or 0, host)
    return HostedStore(store, f"{host}:{store.port}")


def reach_store(address: str, timeout: timedelta) -> dist.Store:
    """Open the store at the address of a `HostedStore`, with a limit for each of its operations."""
    if address.startswith(_PROCESSES):
        store = dist.FileStore(address)
        store.set_timeout(timeout)
        return store
    host, port = address.rsplit(":", 1)
    return dist.TCPStore(host, int(port), is_master=False, timeout=timeout, wait_for_workers=False)


def is_on_this_machine(address: str) -> bool:
    """Return whether only processes of one machine reach the address of a `HostedStore`."""
    return address.startswith((_PROCESSES, f"{LOOPBACK}:"))


def _listening_store(port: int, host: str) -> dist.TCPStore:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        # A machine behind NAT is reached at an address that none of its interfaces has.
        listener, host = socket.create_server(("", port)), LOOPBACK
    port = listener.getsockname()[1]
    # The store takes ownership of the descriptor and connects to itself.
    return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
