"""The key-value store of a job's rendezvous. It is created before the device is activated, so no megatron import."""

from __future__ import annotations

import torch.distributed as dist


def host_store(port: int) -> dist.TCPStore:
    """Serve a store on `port`, or on a free port for 0, which stays bound from then on.

    Raises:
        RuntimeError: The port is in use.
    """
    return dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)
