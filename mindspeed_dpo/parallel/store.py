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
    listener = _listen(port, host)
    # The store takes over the descriptor.
    return dist.TCPStore(
        host, listener.getsockname()[1], is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def _listen(port: int, host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        # A machine behind address translation is reached at an address that it does not have.
        return socket.create_server(("", port))
