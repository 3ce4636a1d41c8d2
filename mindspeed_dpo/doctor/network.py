"""Checks of the ports and network interfaces that connect processes."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request

DEFAULT_BASE_PORT, NUM_PORTS, VALID_PORTS = 60000, 16, range(1024, 65521)
_BASE, _HOST_RANGE, _NPU_RANGE = "HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE", "HCCL_NPU_SOCKET_PORT_RANGE"


def check_hccl_ports(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check that HCCL's ports are free on this node."""
    host, npu = machine.env.get(_HOST_RANGE), machine.env.get(_NPU_RANGE)
    if host == "auto":
        yield ok(f"{_HOST_RANGE}=auto: the system chooses")
        return
    try:
        ports = _ports(host) if host else _ports_from_base(machine.env.get(_BASE, str(DEFAULT_BASE_PORT)))
        shared = sorted(set(ports) & set(_ports(npu))) if host and npu and npu != "auto" else []
    except ValueError as error:
        yield fix(
            str(error),
            f"set {_HOST_RANGE} to auto or a range such as 60000-60050, {_BASE} to one number from 1024 to 65504",
        )
        return
    in_use = machine.ports_in_use(ports)
    if shared:
        yield fix(f"{_HOST_RANGE} and {_NPU_RANGE} share port {shared[0]}", "set disjoint ranges, or auto for both")
    elif in_use:
        yield fix(
            f"in use: {', '.join(map(str, in_use))}, of {ports[0]} to {ports[-1]}",
            f"stop the other run, or set {_BASE} to a free range, equal on all nodes, or {_HOST_RANGE}=auto",
        )
    else:
        yield ok(f"{ports[0]} to {ports[-1]} are free")


def _ports_from_base(text: str) -> list[int]:
    if not text.isdecimal() or int(text) not in VALID_PORTS or int(text) + NUM_PORTS - 1 not in VALID_PORTS:
        raise ValueError(
            f"{_BASE}={text} does not start a range of {NUM_PORTS} ports within {VALID_PORTS[0]} to {VALID_PORTS[-1]}"
        )
    return list(range(int(text), int(text) + NUM_PORTS))


def _ports(text: str) -> list[int]:
    """Return the ports of a list of ranges such as `60000-60050,61000`."""
    ports: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535):
            raise ValueError(f"{text!r} is not a range of ports")
        ports += range(int(first), int(last) + 1)
    return ports


def check_interfaces(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check that the interfaces selected by variables exist."""
    interfaces = machine.interfaces()
    yield _gloo(interfaces, machine)
    if request.kind == "npu":
        yield _hccl(interfaces, machine)
        yield from _own_address(machine)


def _gloo(interfaces: list[str], machine: Machine) -> Finding:
    name = "GLOO_SOCKET_IFNAME"
    selected = [word.strip() for word in machine.env.get(name, "").split(",") if word.strip()]
    missing = [word for word in selected if word not in interfaces]
    if missing:
        return fix(
            f"{', '.join(missing)} does not exist", f"choose one of {', '.join(interfaces)}, or unset {name}", name
        )
    return ok(", ".join(selected) or f"not set; available: {', '.join(interfaces)}", name)


def _hccl(interfaces: list[str], machine: Machine) -> Finding:
    """Evaluate the vendor's syntax: `eth` selects by prefix, `=eth0` by name, and a leading `^` excludes."""
    name = "HCCL_SOCKET_IFNAME"
    text = machine.env.get(name, "")
    if not text:
        return _unset(name, interfaces, machine)
    is_excluding, words = text.startswith("^"), text.removeprefix("^")
    is_exact, words = words.startswith("="), words.removeprefix("=")
    matching = [
        interface
        for interface in interfaces
        if any(interface == word if is_exact else interface.startswith(word) for word in words.split(",") if word)
    ]
    selected = [interface for interface in interfaces if (interface in matching) != is_excluding]
    if selected:
        return ok(f"{text}: {', '.join(selected)}", name)
    detail = f"{text} selects none of {', '.join(interfaces)}"
    return fix(detail, f"set {name} to the interface that connects the nodes", name)


def _unset(name: str, interfaces: list[str], machine: Machine) -> Finding:
    nodes = machine.env.get("NNODES", "1")
    if nodes.isdecimal() and int(nodes) > 1 and not machine.env.get("HCCL_IF_IP"):
        remedy = f"set it to the interface that connects the nodes, one of {', '.join(interfaces)}"
        return note(f"not set, with NNODES={nodes}", remedy, name)
    return ok("not set; HCCL selects one", name)


def _own_address(machine: Machine) -> Iterable[Finding]:
    name = "HCCL_IF_IP"
    address = machine.env.get(name)
    if address and machine.is_own_address(address):
        yield ok(address, name)
    elif address:
        yield fix(
            f"{address} is not an address of this machine", f"set {name} to each node's own address, or unset it", name
        )


def check_master_port(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check that the configured `master_port` and those of further pools are free on this node."""
    first = request.run.loop.master_port if request.run is not None else None
    if request.run is None or first is None:
        yield ok("not set; a free port is used")
        return
    ports = [first + index for index in range(len(request.run.pools))]
    in_use = machine.ports_in_use(ports)
    if in_use:
        yield fix(
            f"in use on this node: {', '.join(map(str, in_use))}", "set another master_port, or null for any free port"
        )
    else:
        yield ok(f"{', '.join(map(str, ports))}: free on this node")
