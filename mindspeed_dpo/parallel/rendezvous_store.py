"""The key-value store of a job's rendezvous. It is created before the device is activated, so no megatron import.

Torch's store has no authentication, and by itself listens on every interface. Here it listens at one address only: the
loopback address where all processes are on one machine, which no other machine reaches.
"""

from __future__ import annotations

import errno
import socket

import torch.distributed as dist

LOOPBACK = "127.0.0.1"


def host_store(port: int, host: str = LOOPBACK) -> dist.TCPStore:
    """Serve a store on `port`, or on a free port for 0, which stays bound from then on.

    Args:
        port: The port, or 0.
        host: Address of this machine at which the other processes reach the store.

    Raises:
        OSError: The port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        # A machine behind address translation is reached at an address that it does not have.
        listener, host = socket.create_server(("", port)), LOOPBACK
    port = listener.getsockname()[1]
    # The store takes over the descriptor, and connects to itself.
    return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
