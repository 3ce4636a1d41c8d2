"""Repeatable kernels: the environment of each device, a user's own values, and a warning instead of a stop."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from mindspeed_dpo.device.determinism import ENVIRONMENT, make_deterministic


@pytest.fixture(autouse=True)
def torch_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in {name for names in ENVIRONMENT.values() for name in names}:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["cpu", "cuda", "npu"])
def test_each_device_gets_its_variables_and_no_others(kind: str) -> None:
    make_deterministic(kind)
    variables = {name for names in ENVIRONMENT.values() for name in names if name in os.environ}
    assert variables == set(ENVIRONMENT[kind])
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_values_of_the_user_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCCL_DETERMINISTIC", "strict")
    make_deterministic("npu")
    assert os.environ["HCCL_DETERMINISTIC"] == "strict"
    assert os.environ["LCCL_DETERMINISTIC"] == "1"
