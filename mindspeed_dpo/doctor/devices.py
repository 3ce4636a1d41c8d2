"""Checks of the devices: their memory, an all-reduce of two processes, and the results of operators."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, fix, not_checked, note, ok
from mindspeed_dpo.doctor.machine import Machine, ProbeError
from mindspeed_dpo.doctor.request import Request

GIB = 2**30
MIN_FREE_SHARE = 0.9
_STATUS_COMMANDS = {"npu": "npu-smi info", "cuda": "nvidia-smi"}


def check_torch(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check that torch loads and supports the device."""
    try:
        torch = machine.probe("torch_devices", kind=request.kind)
    except ProbeError as error:
        yield fix(f"cannot be used: {error}", _torch_remedy(str(error)))
        return
    yield ok(f"{torch['torch']} loads")


def _torch_remedy(reason: str) -> str:
    if "backend extension" in reason:
        return (
            "source CANN's set_env.sh; until then, TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch load without the device"
        )
    if "torch_npu" in reason:
        return "see torch_npu below"
    return "reinstall torch; on NPUs, the version in docs/ascend.md"


def check_memory(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the free memory of each device."""
    try:
        devices = machine.probe("torch_devices", kind=request.kind)["devices"]
    except ProbeError as error:
        yield not_checked(f"torch cannot be used ({error})")
        return
    if request.kind == "cpu":
        yield ok("runs use the CPU")
        return
    if not devices:
        remedy = f"check {_STATUS_COMMANDS[request.kind]} and the variables of visible devices"
        yield fix(f"torch sees no {request.kind} device", remedy)
    for number, device in enumerate(devices):
        name = f"device {number}"
        free, total = device["free"], device["total"]
        text = f"{device['name']}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        if free < MIN_FREE_SHARE * total:
            yield note(text, f"another process uses the rest; check {_STATUS_COMMANDS[request.kind]}", name)
        else:
            yield ok(text, name)


def check_all_reduce(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check an all-reduce of two processes, each on its device."""
    try:
        devices = machine.probe("torch_devices", kind=request.kind)["devices"]
    except ProbeError as error:
        yield not_checked(f"torch cannot be used ({error})")
        return
    if request.kind != "cpu" and len(devices) < 2:
        yield not_checked(f"it needs two devices, torch sees {len(devices)}")
        return
    try:
        yield ok(str(machine.probe("all_reduce", kind=request.kind)))
    except ProbeError as error:
        yield fix(str(error), _ALL_REDUCE_REMEDIES[request.kind])


_ALL_REDUCE_REMEDIES = {
    "cpu": "gloo did not connect two processes: check GLOO_SOCKET_IFNAME and that the host name resolves",
    "cuda": "NCCL did not connect two devices: try again with NCCL_DEBUG=INFO",
    "npu": "HCCL did not connect two devices: check ports and interfaces above; in a container, use the host's network",
}


def check_operators(request: Request, machine: Machine) -> Iterable[Finding]:
    """Compare each operator on the device, forward and backward, with its plain definition on the CPU."""
    try:
        comparisons = machine.probe("operators", kind=request.kind)
    except ProbeError as error:
        yield fix(str(error), "fix the start of a worker above first; operators are compared after it")
        return
    for comparison in comparisons:
        yield _operator_finding(comparison["name"], comparison["dtype"], comparison["error"], comparison["tolerance"])


def _operator_finding(name: str, dtype: str, error: float | None, tolerance: float) -> Finding:
    """Return the finding of one operator; an error of None stands for a result that is not finite."""
    if error is None:
        detail = "not finite"
    else:
        detail = f"relative error {error:.1e}, tolerance {tolerance:.0e}"
        if error <= tolerance:
            return ok(f"{dtype}: {detail}", name)
    remedy = "do not train with it: report the operator, the device and the versions above"
    return fix(f"{dtype}: {detail}", remedy, name)
