"""The Ray cluster: devices and versions of every node, and whether the paths of a run can be used there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mindspeed_dpo.doctor.findings import Finding, absent, fix, ok
from mindspeed_dpo.doctor.machine import Machine, ProbeFailed
from mindspeed_dpo.doctor.request import Request

NO_CLUSTER = "no Ray cluster runs here; --address names another one, --start-ray starts one for the check"
# Packages that have to agree where processes exchange objects and tensors.
AGREE = ("python", "mindspeed-dpo", "torch", "megatron-core", "ray", "numpy", "transformers")
_DECLARED = {"NPU": "--resources='{\"NPU\": 8}'", "GPU": "--num-gpus=8", "CPU": "--num-cpus=8"}


def look(request: Request, machine: Machine) -> dict[str, Any]:
    """What the cluster and this node answer; asked once for all checks of this module."""
    run = request.run
    return dict(
        machine.probe(
            "cluster",
            address=request.address or machine.env.get("RAY_ADDRESS"),
            start=request.start_ray,
            kind=request.kind,
            resource=run.loop.ray_resource if run is not None else None,
            pools={name: list(sizes) for name, sizes in run.pools.items()} if run is not None else {},
            packages=list(AGREE[1:]),
            reads=list(request.reads),
            writes=list(request.writes),
            timeout_s=30,
        )
    )


def check_nodes(request: Request, machine: Machine) -> Iterable[Finding]:
    """Devices of each node, and whether the pools of the configuration fit."""
    try:
        found = look(request, machine)
    except ProbeFailed as error:
        yield fix(str(error), "see `ray status`; a cluster needs the same Ray and Python on all nodes")
        return
    if found["failure"]:
        yield fix(found["failure"], "see `ray status`; a cluster needs the same Ray and Python on all nodes")
        return
    if found["nodes"] is None:
        yield absent(NO_CLUSTER)
        return
    for node in found["nodes"]:
        yield _devices(node, found["resource"])
    if request.run is not None and found["room"]:
        yield fix(found["room"], "change resource_pool, or start more nodes", "room")
    elif request.run is not None:
        yield ok(f"{request.run.name} fits", "room")


def _devices(node: dict[str, Any], resource: str) -> Finding:
    name = f"node {node['address']}"
    text = ", ".join(f"{count} {kind}" for kind, count in node["resources"].items() if count)
    if node["error"]:
        return fix(f"{text}; {node['error']}", "see Ray's log there, and whether this project is installed there", name)
    if not node["resources"].get(resource):
        return fix(f"{text or 'nothing'}: no {resource}", f"start its Ray with {_DECLARED[resource]}", name)
    return ok(text, name)


def check_node_versions(request: Request, machine: Machine) -> Iterable[Finding]:
    """Whether the nodes have this node's versions."""
    found = _answered(request, machine)
    if isinstance(found, Finding):
        yield found
        return
    here = found["here"]["versions"]
    for node in found["nodes"]:
        differ = [
            f"{package} {node['versions'].get(package)} (here {version})"
            for package, version in here.items()
            if node["versions"].get(package) != version
        ]
        if differ:
            yield fix(", ".join(differ), "install the same environment on all nodes", f"node {node['address']}")
    if all(node["versions"] == here for node in found["nodes"]):
        yield ok(f"the same as here on {len(found['nodes'])} of {len(found['nodes'])}")


def check_paths(request: Request, machine: Machine) -> Iterable[Finding]:
    """Whether each path can be used on this node and on every other."""
    if not request.reads and not request.writes:
        yield absent("no path was named: --path, or --config-name for those of a run")
        return
    try:
        found = look(request, machine)
    except ProbeFailed as error:
        yield absent(f"no answer about the nodes ({error})")
        return
    answers = {"this node": found["here"]}
    answers.update({node["address"]: node for node in found["nodes"] or [] if not node["error"]})
    for kind, paths, where in (("unreadable", request.reads, "read"), ("unwritable", request.writes, "written")):
        for path in paths:
            lacking = [node for node, answer in answers.items() if path in answer[kind]]
            if lacking:
                yield fix(
                    f"cannot be {where} on {', '.join(lacking)}", "share the folder, at one path on all nodes", path
                )
            else:
                yield ok(f"can be {where} on {_counted(len(answers) - 1)}", path)


def _counted(nodes: int) -> str:
    if not nodes:
        return "this node; there is no cluster whose nodes could be asked"
    return f"this node and the {nodes} node{'s' if nodes > 1 else ''} of the cluster"


def _answered(request: Request, machine: Machine) -> dict[str, Any] | Finding:
    """The answers of nodes that gave one, or why there are none."""
    try:
        found = look(request, machine)
    except ProbeFailed as error:
        return absent(f"no answer about the nodes ({error})")
    if found["nodes"] is None:
        return absent("the cluster cannot be reached" if found["failure"] else NO_CLUSTER)
    answered = [node for node in found["nodes"] if not node["error"]]
    return {**found, "nodes": answered} if answered else absent("no node gave an answer")
