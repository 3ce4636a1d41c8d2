"""Probe of a Ray cluster and its nodes.

Arguments: the fields of `InspectionRequest`, `address`, `start` (whether to start a cluster), `kind`, `resource` (null
for the device's own), `pools` and `timeout_s`. Result: `this_node`, `nodes` (null without a cluster), `failure` (why no
cluster could be reached, or null), `resource`, and `capacity_problem` (why the pools do not fit, or null).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mindspeed_dpo.controller.cluster_capacity import check_capacity, connected_nodes
from mindspeed_dpo.controller.node_inspection import InspectionRequest, connected, inspect_node, inspect_nodes
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.device import Accelerator, find_accelerator
from mindspeed_dpo.doctor.probe_processes import print_result, probe_arguments


def inspect(arguments: dict[str, Any]) -> dict[str, Any]:
    """Connect to the cluster, inspect all nodes, and disconnect."""
    names = [field.name for field in dataclasses.fields(InspectionRequest)]
    request = InspectionRequest(**{name: tuple(arguments[name]) for name in names})
    accelerator = find_accelerator(arguments["kind"]).placed_by(arguments["resource"])
    result: dict[str, Any] = {
        "this_node": inspect_node(request),
        "nodes": None,
        "failure": None,
        "resource": accelerator.ray_resource,
        "capacity_problem": None,
    }
    try:
        with connected(arguments["address"], arguments["start"]) as is_connected:
            if is_connected:
                result["nodes"] = inspect_nodes(request, arguments["timeout_s"])
                result["capacity_problem"] = _capacity_problem(accelerator, arguments["pools"])
    except ClusterError as error:
        result["failure"] = str(error)
    return result


def _capacity_problem(accelerator: Accelerator, pools: dict[str, list[int]]) -> str | None:
    try:
        check_capacity(accelerator, pools, connected_nodes())
    except ClusterError as error:
        return str(error)
    return None


if __name__ == "__main__":
    print_result(inspect(probe_arguments()))
