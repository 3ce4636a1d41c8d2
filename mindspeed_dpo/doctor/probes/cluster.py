"""Probe of a Ray cluster and its nodes.

Input: the fields of `node_inspection.InspectionRequest` and `address`, `start` (whether to start a cluster), `kind`,
`resource` (null for the device's own), `pools` and `timeout_s`. Output: `here` (this node), `nodes` (null without a
cluster), `failure` (why no cluster could be reached, or null), `resource`, `room` (why the pools do not fit, or null).
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from mindspeed_dpo.doctor.processes import answer, question


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Connect, ask all nodes, and let go again."""
    inspection = importlib.import_module("mindspeed_dpo.controller.node_inspection")
    names = [field.name for field in dataclasses.fields(inspection.InspectionRequest)]
    what = inspection.InspectionRequest(**{name: tuple(asked[name]) for name in names})
    device = importlib.import_module("mindspeed_dpo.device")
    accelerator = device.find_accelerator(asked["kind"]).placed_by(asked["resource"])
    found = {"here": inspection.inspect_node(what), "nodes": None, "failure": None, "room": None}
    found["resource"] = accelerator.ray_resource
    try:
        with inspection.connected(asked["address"], asked["start"]) as is_there:
            if is_there:
                found["nodes"] = inspection.inspect_nodes(what, asked["timeout_s"])
                found["room"] = _room(accelerator, asked["pools"])
    except importlib.import_module("mindspeed_dpo.controller.cluster").ClusterError as error:
        found["failure"] = str(error)
    return found


def _room(accelerator: Any, pools: dict[str, list[int]]) -> str | None:
    cluster = importlib.import_module("mindspeed_dpo.controller.cluster")
    try:
        cluster.check_capacity(accelerator, pools)
    except cluster.ClusterError as error:
        return str(error)
    return None


if __name__ == "__main__":
    answer(ask(question()))
