"""Ports and interfaces over which processes find each other."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request

BASE_PORT, PORT_COUNT, PORTS = 60000, 16, range(1024, 65521)
_BASE, _HOST_RANGE, _NPU_RANGE = "HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE", "HCCL_NPU_SOCKET_PORT_RANGE"


def check_hccl_ports(_: Request, machine: Machine) -> Iterable[Finding]:
    """Whether HCCL's ports are free on this node."""
    host, npu = machine.env.get(_HOST_RANGE), machine.env.get(_NPU_RANGE)
    if host == "auto":
        yield ok(f"{_HOST_RANGE}=auto: the system chooses")
        return
    try:
        ports = _ports(host) if host else _from_base(machine.env.get(_BASE, str(BASE_PORT)))
        clash = sorted(set(ports) & set(_ports(npu))) if host and npu and npu != "auto" else []
    except ValueError as error:
        yield fix(str(error), f"write {_HOST_RANGE} as auto or 60000-60050, {_BASE} as one number from 1024 to 65504")
        return
    taken = machine.taken_ports(ports)
    if clash:
        yield fix(f"{_HOST_RANGE} and {_NPU_RANGE} share port {clash[0]}", "give them ranges apart, or auto for both")
    elif taken:
        yield fix(
            f"in use: {', '.join(map(str, taken))}, of {ports[0]} to {ports[-1]}",
            f"end the other run, or export {_BASE} of a free range, equal on all nodes, or {_HOST_RANGE}=auto",
        )
    else:
        yield ok(f"{ports[0]} to {ports[-1]} are free")


def _from_base(text: str) -> list[int]:
    if not text.isdecimal() or int(text) not in PORTS or int(text) + PORT_COUNT - 1 not in PORTS:
        raise ValueError(f"{_BASE}={text} is no range of {PORT_COUNT} ports within {PORTS[0]} to {PORTS[-1]}")
    return list(range(int(text), int(text) + PORT_COUNT))


def _ports(text: str) -> list[int]:
    """Ports of `60000-60050,61000`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535):
            raise ValueError(f"{text!r} is no range of ports")
        found += range(int(first), int(last) + 1)
    return found


def check_interfaces(request: Request, machine: Machine) -> Iterable[Finding]:
    """Whether the interfaces that variables name exist."""
    there = machine.interfaces()
    yield _gloo(there, machine)
    if request.kind == "npu":
        yield _hccl(there, machine)
        yield from _own_address(machine)


def _gloo(there: list[str], machine: Machine) -> Finding:
    name = "GLOO_SOCKET_IFNAME"
    asked = [word.strip() for word in machine.env.get(name, "").split(",") if word.strip()]
    missing = [word for word in asked if word not in there]
    if missing:
        return fix(f"{', '.join(missing)} does not exist", f"choose of {', '.join(there)}, or unset {name}", name)
    return ok(", ".join(asked) or f"not set; there are {', '.join(there)}", name)


def _hccl(there: list[str], machine: Machine) -> Finding:
    """`eth` is what begins so, `=eth0` that one, `^` what is left out."""
    name = "HCCL_SOCKET_IFNAME"
    text = machine.env.get(name, "")
    if not text:
        return _unset(name, there, machine)
    leaves_out, words = text.startswith("^"), text.removeprefix("^")
    is_exact, words = words.startswith("="), words.removeprefix("=")
    named = [
        one
        for one in there
        if any(one == word if is_exact else one.startswith(word) for word in filter(None, words.split(",")))
    ]
    chosen = [one for one in there if (one in named) != leaves_out]
    if chosen:
        return ok(f"{text}: {', '.join(chosen)}", name)
    return fix(f"{text} is none of {', '.join(there)}", f"set {name} to the interface the nodes share", name)


def _unset(name: str, there: list[str], machine: Machine) -> Finding:
    nodes = machine.env.get("NNODES", "1")
    if nodes.isdecimal() and int(nodes) > 1 and not machine.env.get("HCCL_IF_IP"):
        return note(
            f"not set, with NNODES={nodes}", f"set it to the interface the nodes share, of {', '.join(there)}", name
        )
    return ok("not set; HCCL chooses", name)


def _own_address(machine: Machine) -> Iterable[Finding]:
    name = "HCCL_IF_IP"
    address = machine.env.get(name)
    if address and machine.is_own_address(address):
        yield ok(address, name)
    elif address:
        yield fix(f"{address} is no address of this machine", f"set {name} on each node to its own, or unset it", name)


def check_meeting_port(request: Request, machine: Machine) -> Iterable[Finding]:
    """Whether the port a configuration asks for is free here."""
    first = request.run.loop.master_port if request.run is not None else None
    if request.run is None or first is None:
        yield ok("any free one is taken")
        return
    ports = [first + number for number in range(len(request.run.pools))]
    taken = machine.taken_ports(ports)
    if taken:
        yield fix(f"in use here: {', '.join(map(str, taken))}", "choose another master_port, or null for any free one")
    else:
        yield ok(f"{', '.join(map(str, ports))}: free here")
