"""Reserving devices: what prevents it is one sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from mindspeed_dpo.controller import placement_groups
from mindspeed_dpo.controller.placement_groups import Pool
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.device import find_accelerator


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ray.exceptions.GetTimeoutError("late"),
            "did not reserve 2 processes on one node for pool rollout within 60 s",
        ),
        (
            ray.exceptions.TaskPlacementGroupRemoved(),
            r"the reservation of 2 processes for pool rollout ended before they started \(TaskPlacementGroupRemoved\)",
        ),
        (
            ray.exceptions.TaskUnschedulableError("gone"),
            r"the reservation of 2 processes for pool rollout ended before they started \(TaskUnschedulableError\)",
        ),
    ],
)
def test_a_reservation_that_fails_is_reported(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: object, timeout: float) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(
        placement_groups, "placement_group", lambda bundles, strategy: SimpleNamespace(ready=lambda: None)
    )
    monkeypatch.setattr(placement_groups, "remove_placement_group", lambda group: None)
    with pytest.raises(ClusterError, match=sentence):
        Pool("rollout", [2], find_accelerator("cpu"))
