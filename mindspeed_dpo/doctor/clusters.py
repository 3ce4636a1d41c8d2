"""Checks of the Ray cluster: devices and versions of every node, and access to the paths of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mindspeed_dpo.doctor.findings import Finding, fix, not_checked, ok
from mindspeed_dpo.doctor.machine import Machine, ProbeError
from mindspeed_dpo.doctor.request import Request

NO_CLUSTER = "no Ray cluster on this machine; --address selects another one, --start-ray starts one for the check"
MATCHING_PACKAGES = ("mindspeed-dpo", "torch", "megatron-core", "ray", "numpy", "transformers")
"""Packages whose versions, like that of Python, must match on all nodes, since processes exchange objects."""
_RAY_OPTIONS = {"NPU": "--resources='{\"NPU\": 8}'", "GPU": "--num-gpus=8", "CPU": "--num-cpus=8"}
_CLUSTER_REMEDY = "check `ray status`; a cluster needs the same Ray and Python on all nodes"
_PROBE_TIMEOUT_S = 30


def inspect_cluster(request: Request, machine: Machine) -> dict[str, Any]:
    """Return the result of the probe `cluster`, which runs once for all checks of this module.

    Raises:
        ProbeError: The probe failed.
    """
    run = request.run
    return dict(
        machine.probe(
            "cluster",
            address=request.address or machine.env.get("RAY_ADDRESS"),
            start=request.start_ray,
            kind=request.kind,
            resource=run.loop.ray_resource if run is not None else None,
            pools={name: list(sizes) for name, sizes in run.pools.items()} if run is not None else {},
            packages=list(MATCHING_PACKAGES),
            reads=list(request.reads),
            writes=list(request.writes),
            timeout_s=_PROBE_TIMEOUT_S,
        )
    )


def check_nodes(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the devices of each node, and that the pools of the configuration fit."""
    try:
        cluster = inspect_cluster(request, machine)
    except ProbeError as error:
        yield fix(str(error), _CLUSTER_REMEDY)
        return
    if cluster["failure"]:
        yield fix(cluster["failure"], _CLUSTER_REMEDY)
        return
    if cluster["nodes"] is None:
        yield not_checked(NO_CLUSTER)
        return
    for node in cluster["nodes"]:
        yield _devices(node, cluster["resource"])
    if request.run is not None and cluster["capacity_problem"]:
        yield fix(cluster["capacity_problem"], "change resource_pool, or start more nodes", "capacity")
    elif request.run is not None:
        yield ok(f"sufficient for {request.run.name}", "capacity")


def _devices(node: dict[str, Any], resource: str) -> Finding:
    name = f"node {node['address']}"
    text = ", ".join(f"{count} {kind}" for kind, count in node["resources"].items() if count)
    if node["error"]:
        remedy = "check Ray's log on the node and that this project is installed there"
        return fix(f"{text}; {node['error']}", remedy, name)
    if not node["resources"].get(resource):
        return fix(f"{text or 'no resources'}: no {resource}", f"start its Ray with {_RAY_OPTIONS[resource]}", name)
    return ok(text, name)


def check_node_versions(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check that the versions of all nodes match those of this node."""
    cluster = _responding_nodes(request, machine)
    if isinstance(cluster, Finding):
        yield cluster
        return
    expected, nodes = cluster["this_node"]["versions"], cluster["nodes"]
    for node in nodes:
        differences = [
            f"{package} {node['versions'].get(package)} (here {version})"
            for package, version in expected.items()
            if node["versions"].get(package) != version
        ]
        if differences:
            yield fix(", ".join(differences), "install the same environment on all nodes", f"node {node['address']}")
    if all(node["versions"] == expected for node in nodes):
        yield ok(f"this node and {_count_nodes(len(nodes))} of the cluster match")


def check_paths(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check access to each path on this node and on all nodes of the cluster."""
    if not request.reads and not request.writes:
        yield not_checked("no path given; use --path, or --config-name for the paths of a run")
        return
    try:
        cluster = inspect_cluster(request, machine)
    except ProbeError as error:
        yield not_checked(f"the nodes could not be inspected ({error})")
        return
    nodes = {"this node": cluster["this_node"]}
    nodes.update({node["address"]: node for node in cluster["nodes"] or [] if not node["error"]})
    for key, paths, verb in (("unreadable", request.reads, "read"), ("unwritable", request.writes, "written")):
        for path in paths:
            failing = [name for name, node in nodes.items() if path in node[key]]
            if failing:
                detail = f"cannot be {verb} on {', '.join(failing)}"
                yield fix(detail, "share the folder, at the same path on all nodes", path)
            else:
                yield ok(f"can be {verb} on {_describe_nodes(len(nodes) - 1)}", path)


def _describe_nodes(num_others: int) -> str:
    if not num_others:
        return "this node; no node of a cluster could be checked"
    return f"this node and {_count_nodes(num_others)} of the cluster"


def _count_nodes(number: int) -> str:
    return f"{number} node{'s' if number != 1 else ''}"


def _responding_nodes(request: Request, machine: Machine) -> dict[str, Any] | Finding:
    """Return the probe's result with only the nodes that responded, or a finding if there are none."""
    try:
        cluster = inspect_cluster(request, machine)
    except ProbeError as error:
        return not_checked(f"the nodes could not be inspected ({error})")
    if cluster["nodes"] is None:
        return not_checked("the cluster cannot be reached" if cluster["failure"] else NO_CLUSTER)
    nodes = [node for node in cluster["nodes"] if not node["error"]]
    return {**cluster, "nodes": nodes} if nodes else not_checked("no node responded")
