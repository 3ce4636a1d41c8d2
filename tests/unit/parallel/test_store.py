"""The store of a rendezvous: on one machine only its user reaches it, between machines it listens at one address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mindspeed_dpo.parallel.rendezvous_store import HostedStore, host_store, reach_store

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


def port_of(hosted: HostedStore) -> int:
    return int(hosted.address.rpartition(":")[2])


SHORT = timedelta(seconds=5)
OTHER_PROCESS = """
import os, sys
from datetime import timedelta
from mindspeed_dpo.parallel.rendezvous_store import reach_store
if len(sys.argv) > 2:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    store = reach_store(sys.argv[1], timedelta(seconds=5))
    store.set("key", store.get("first") + b"value")
except Exception as error:
    sys.exit(f"{error}")
"""


def run_other(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Another process that opens the store, and as another user if there is a second argument."""
    command = [sys.executable, "-c", OTHER_PROCESS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def open_sockets() -> set[Path]:
    return {path for path in Path("/proc/self/fd").iterdir() if path.is_socket()}


def test_a_store_on_one_machine_is_reached_by_its_user_only() -> None:
    sockets = open_sockets()
    hosted = host_store()
    hosted.store.set("first", "a ")
    assert open_sockets() == sockets
    assert Path(hosted.address).parent.stat().st_mode & 0o077 == 0
    assert run_other(hosted.address).returncode == 0
    assert hosted.store.get("key") == b"a value"
    if os.geteuid() == 0:
        stranger = run_other(hosted.address, "as another user")
        assert stranger.returncode != 0 and "Permission denied" in stranger.stderr


def test_a_store_with_a_port_is_reached_at_its_address_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    hosted = host_store(free)
    assert hosted.address == f"127.0.0.1:{free}" and addresses_of(free) == {"0100007F"}
    reach_store(hosted.address, SHORT).set("key", "value")
    assert hosted.store.get("key") == b"value"
    assert addresses_of(port_of(host_store(host="127.0.0.2"))) == {"0200007F"}


def test_waiting_for_a_key_has_a_limit() -> None:
    hosted = host_store()
    with pytest.raises(RuntimeError, match=r"(?i)timeout"):
        reach_store(hosted.address, timedelta(milliseconds=50)).get("nothing")


def test_a_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        host_store(taken.getsockname()[1])


def test_an_address_that_the_machine_does_not_have_is_served_on_all() -> None:
    hosted = host_store(host="203.0.113.9")
    assert addresses_of(port_of(hosted)) & {"00000000", "0" * 32}
