"""More processes than a machine carries are refused before the first one starts."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mindspeed_dpo.controller import host_capacity
from mindspeed_dpo.controller.host_capacity import PROCESS_BYTES, available_bytes, check_host, needed_bytes
from mindspeed_dpo.controller.ray_connection import ClusterError
from tests.unit.workers.pairs import random_run

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and 8 GiB."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(host_capacity, "available_bytes", lambda: 8 * GIB)


def test_processes_that_fit_start(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    check_host(random_run(tmp_path, (1, 1, 2)))
    assert not caplog.records


def test_sharing_cores_is_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING)
    check_host(random_run(tmp_path, (1, 1, 4)))
    assert caplog.messages == ["4 processes share the 2 cores of this machine"]


def test_too_many_for_the_cores_are_refused(tmp_path: Path) -> None:
    sentence = (
        r"requests 32 processes \(actor_rollout: \[32\]\), and this machine has 2 cores, which carry at most 8 each"
    )
    with pytest.raises(ClusterError, match=sentence):
        check_host(random_run(tmp_path, (1, 1, 32)))


def test_too_many_for_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = random_run(tmp_path, (1, 1, 2))
    assert 2 * PROCESS_BYTES < needed_bytes(run) < 2 * PROCESS_BYTES + GIB
    monkeypatch.setattr(host_capacity, "available_bytes", lambda: needed_bytes(run) - 1)
    with pytest.raises(ClusterError, match=r"2 processes .* need about .* of memory; .* are available on this machine"):
        check_host(run)


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    of_machine = available_bytes(tmp_path / "none")
    (tmp_path / "memory.current").write_text("1000")
    (tmp_path / "memory.max").write_text("max")
    assert available_bytes(tmp_path) > of_machine // 2
    (tmp_path / "memory.max").write_text("5000")
    assert available_bytes(tmp_path) == 4000
