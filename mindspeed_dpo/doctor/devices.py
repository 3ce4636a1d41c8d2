"""The devices themselves: which there are and how free, whether two processes can add, whether operators are right."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, absent, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine, ProbeFailed
from mindspeed_dpo.doctor.request import Request

GIB = 2**30
FREE_SHARE = 0.9
_OF = {"npu": "npu-smi info", "cuda": "nvidia-smi"}


def check_torch(request: Request, machine: Machine) -> Iterable[Finding]:
    """Whether torch loads and knows the kind of device."""
    try:
        found = machine.probe("torch_devices", kind=request.kind)
    except ProbeFailed as error:
        yield fix(f"cannot be used: {error}", _torch_remedy(str(error)))
        return
    yield ok(f"{found['torch']} loads")


def _torch_remedy(reason: str) -> str:
    if "backend extension" in reason:
        return "source CANN's set_env.sh; TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch load without the device meanwhile"
    if "torch_npu" in reason:
        return "see torch_npu below"
    return "pip install torch again, of the version in docs/ascend.md on NPUs"


def check_memory(request: Request, machine: Machine) -> Iterable[Finding]:
    """Each device and how much of its memory is free."""
    try:
        devices = machine.probe("torch_devices", kind=request.kind)["devices"]
    except ProbeFailed as error:
        yield absent(f"torch cannot be used ({error})")
        return
    if request.kind == "cpu":
        yield ok("the CPU is used; the number of processes is free")
        return
    if not devices:
        yield fix(
            f"torch sees no {request.kind} device", f"see {_OF[request.kind]}, and the variables of visible devices"
        )
    for number, device in enumerate(devices):
        name = f"device {number}"
        free, total = device["free"], device["total"]
        text = f"{device['name']}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        if free < FREE_SHARE * total:
            yield note(text, f"another process holds the rest; see {_OF[request.kind]}", name)
        else:
            yield ok(text, name)


def check_all_reduce(request: Request, machine: Machine) -> Iterable[Finding]:
    """Two processes that add up a tensor on their devices."""
    try:
        devices = machine.probe("torch_devices", kind=request.kind)["devices"]
    except ProbeFailed as error:
        yield absent(f"torch cannot be used ({error})")
        return
    if request.kind != "cpu" and len(devices) < 2:
        yield absent(f"two devices are needed, torch sees {len(devices)}")
        return
    try:
        yield ok(str(machine.probe("all_reduce", kind=request.kind)))
    except ProbeFailed as error:
        yield fix(str(error), _REDUCE[request.kind])


_REDUCE = {
    "cpu": "gloo could not join two processes: see GLOO_SOCKET_IFNAME, and whether the host's own name resolves",
    "cuda": "NCCL could not join two devices: try again with NCCL_DEBUG=INFO",
    "npu": "HCCL could not join two devices: see ports and interfaces above; in a container, share the host's network",
}


def check_operators(request: Request, machine: Machine) -> Iterable[Finding]:
    """Each operator on the device against its plain definition on the CPU, forwards and backwards."""
    try:
        compared = machine.probe("operators", kind=request.kind)
    except ProbeFailed as error:
        yield fix(str(error), "see the start of a worker above: an operator is tried after it")
        return
    for one in compared:
        yield _operator(one["name"], one["dtype"], one["error"], one["allowed"])


def _operator(name: str, dtype: str, error: float | None, allowed: float) -> Finding:
    """The line of one operator; an error of None is a value that is not finite."""
    if error is not None and error <= allowed:
        return ok(f"{dtype}: off by {error:.1e} of the largest value, {allowed:.0e} is allowed", name)
    text = "not finite" if error is None else f"off by {error:.1e} of the largest value, only {allowed:.0e} is allowed"
    remedy = "do not train with it: report the operator, the device and the versions above"
    return fix(f"{dtype}: {text}", remedy, name)
