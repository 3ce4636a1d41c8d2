"""Which of the devices that it sees a process takes, when Ray shows it its own only and when it shows all."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import ray

from mindspeed_dpo.controller.ray_worker import RayWorker
from mindspeed_dpo.device.environment_variables import RAY_KEEPS_VISIBLE


@pytest.mark.parametrize(
    ("set_for", "value", "expected"),
    [(None, "", 0), ("NPU", "1", 5), ("NPU", "true", 5), ("NPU", "0", 0), ("GPU", "1", 0)],
)
def test_the_device_is_ray_s_own_only_where_ray_shows_all_of_that_kind(
    set_for: str | None, value: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RAY_KEEPS_VISIBLE.values():
        monkeypatch.delenv(name, raising=False)
    if set_for is not None:
        monkeypatch.setenv(RAY_KEEPS_VISIBLE[set_for], value)
    context = SimpleNamespace(get_accelerator_ids=lambda: {"NPU": ["5"]})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    process = RayWorker.__new__(RayWorker)
    assert process.local_rank("NPU") == expected


@pytest.mark.parametrize(("given", "used"), [(None, "lo"), ("", "lo"), ("eth7", "eth7")])
def test_gloo_listens_on_loopback_unless_an_interface_is_named(
    given: str | None, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name it would listen at the address of the host name, which other machines may reach."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if given is not None:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", given)
    process = RayWorker.__new__(RayWorker)
    monkeypatch.setattr(process, "join", lambda *_: None, raising=False)
    monkeypatch.setattr(process, "local_rank", lambda _: 0, raising=False)
    process.join_here(0, 1, "127.0.0.1:0", "NPU")
    assert os.environ["GLOO_SOCKET_IFNAME"] == used
