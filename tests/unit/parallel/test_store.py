"""The store of a rendezvous listens at one address, and nowhere else."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch.distributed as dist

from mindspeed_dpo.parallel.rendezvous_store import host_store

LISTENING = "0A"


def addresses_of(port: int) -> set[str]:
    """Hexadecimal addresses at which some process of this machine listens on a port."""
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, hexadecimal = local.split(":")
            if state == LISTENING and int(hexadecimal, 16) == port:
                addresses.add(address)
    return addresses


def test_a_store_is_reached_at_the_loopback_address_only() -> None:
    store = host_store(0)
    assert addresses_of(store.port) == {"0100007F"}
    other = dist.TCPStore("127.0.0.1", store.port, is_master=False)
    other.set("key", "value")
    assert store.get("key") == b"value"


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        host_store(taken.getsockname()[1])


def test_an_address_that_the_machine_does_not_have_is_served_on_all() -> None:
    store = host_store(0, "203.0.113.9")
    assert addresses_of(store.port) & {"00000000", "0" * 32}
