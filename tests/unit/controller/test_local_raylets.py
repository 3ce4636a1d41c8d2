"""Which Ray on this machine a run may join: its own user's, begun by `ray start`, and alive."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mindspeed_dpo.controller import local_raylets
from mindspeed_dpo.controller.local_raylets import Raylet, raylet_of, raylet_started_here
from mindspeed_dpo.controller.ray_connection import ClusterError, raylet_at


@pytest.fixture
def port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def begun(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Raylet:
    """A raylet of this user, whose cluster `ray start` left in Ray's file."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    raylet = Raylet(4711, os.getuid(), f"127.0.0.1:{port}", time.time() - 60)
    run_raylets(monkeypatch, raylet)
    write_address(tmp_path, raylet.address)
    return raylet


def run_raylets(monkeypatch: pytest.MonkeyPatch, *raylets: Raylet) -> None:
    monkeypatch.setattr(local_raylets, "local_raylets", lambda: list(raylets))


def write_address(root: Path, address: str) -> None:
    file = root / "ray" / "ray_current_cluster"
    file.parent.mkdir(exist_ok=True)
    file.write_text(address)


def test_what_this_user_began_and_lives_is_joined(begun: Raylet) -> None:
    assert raylet_started_here() == begun


def test_a_cluster_that_no_ray_start_left_is_not_joined(begun: Raylet, tmp_path: Path) -> None:
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    assert raylet_started_here() is None


def test_another_user_s_cluster_is_not_joined(begun: Raylet, monkeypatch: pytest.MonkeyPatch) -> None:
    run_raylets(monkeypatch, replace(begun, user_id=begun.user_id + 1))
    assert raylet_started_here() is None


def test_an_address_of_a_cluster_that_has_ended_is_not_joined(begun: Raylet, monkeypatch: pytest.MonkeyPatch) -> None:
    run_raylets(monkeypatch)
    assert raylet_started_here() is None


def test_the_cluster_of_a_run_that_got_the_same_port_is_not_joined(
    begun: Raylet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_raylets(monkeypatch, replace(begun, created_s=time.time() + 60))
    assert raylet_started_here() is None


def test_a_cluster_whose_server_is_gone_is_not_joined(begun: Raylet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_raylets, "connection_error", lambda address, timeout_s: "Connection refused")
    assert raylet_started_here() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.9.8.7"])
def test_a_raylet_is_identified_by_any_name_of_its_host(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raylet = Raylet(4711, 0, "10.9.8.7:6344", 0.0)
    run_raylets(monkeypatch, replace(raylet, address="10.9.8.7:6345"), raylet)
    assert raylet_of(f"{host}:6344") == raylet
    assert raylet_of("10.9.8.6:6344") is None


@pytest.mark.parametrize("address", ["nonsense", "head:", ":6344", "ray://head:10001", "head:port"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match=r"should be host:port of a Ray cluster's head, such as 10\.0\.0\.1:6344"):
        raylet_at(address)


def test_nobody_at_an_address_is_reported_within_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        begin_s = time.monotonic()
        with pytest.raises(ClusterError, match=rf"no Ray cluster responds at {address} \(Connection refused\)"):
            raylet_at(address)
        assert time.monotonic() - begin_s < 5


def test_a_program_that_is_not_ray_is_reported(port: int) -> None:
    with pytest.raises(ClusterError, match=f"127.0.0.1:{port} accepts connections, but this machine is no node"):
        raylet_at(f"127.0.0.1:{port}")


def test_the_raylet_of_an_address_is_used(begun: Raylet) -> None:
    assert raylet_at(begun.address) == begun
