"""The store through which the processes of a job find each other. No megatron here: it is made before the device is."""

from __future__ import annotations

import torch.distributed as dist


def host_store(port: int) -> dist.TCPStore:
    """A store that listens on `port`, or on a free one for 0, from now on: nobody can take the port meanwhile.

    Raises:
        RuntimeError: The port is taken.
    """
    return dist.TCPStore("localhost", port, is_master=True, wait_for_workers=False)
