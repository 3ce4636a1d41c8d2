"""Variables and limits that a run depends on, and values of them that contradict each other."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.device import environment as variables
from mindspeed_dpo.doctor.findings import Finding, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request

OPEN_FILES_LEAST, OPEN_FILES_NPU = 1024, 32768
_ALLOCATOR = "PYTORCH_NPU_ALLOC_CONF"
_CONNECT = "HCCL_CONNECT_TIMEOUT"


def check_open_files(request: Request, machine: Machine) -> Iterable[Finding]:
    """How many files and sockets a process may have."""
    limit = machine.open_files()
    if limit == -1:
        yield ok("unlimited")
    elif limit < OPEN_FILES_LEAST:
        yield fix(f"{limit}", f"ulimit -n {OPEN_FILES_NPU}, before Ray is started; its processes inherit the limit")
    elif request.kind == "npu" and limit < OPEN_FILES_NPU:
        yield note(
            f"{limit}", f"public launch scripts for Ascend set ulimit -n {OPEN_FILES_NPU}, before Ray is started"
        )
    else:
        yield ok(f"{limit}")


def check_visible_devices(_: Request, machine: Machine) -> Iterable[Finding]:
    """The list of visible NPUs, which has to ascend."""
    text = machine.env.get(variables.ASCEND_DEVICES)
    try:
        variables.check_visible_devices(machine.env)
    except variables.EnvironmentProblem as problem:
        yield fix(repr(text), str(problem))
        return
    yield ok(text or "not set: all devices")


def check_allocator(_: Request, machine: Machine) -> Iterable[Finding]:
    """Settings of the allocator that exclude each other."""
    text = machine.env.get(_ALLOCATOR, "")
    keys = dict(word.split(":", 1) for word in text.split(",") if ":" in word)
    others = sorted({"max_split_size_mb", "garbage_collection_threshold"} & set(keys))
    if keys.get("expandable_segments", "").lower() == "true" and others:
        yield fix(f"{_ALLOCATOR}={text}", f"expandable_segments:True excludes {' and '.join(others)}; keep one")
    else:
        yield ok(text or "not set")


def check_timeouts(_: Request, machine: Machine) -> Iterable[Finding]:
    """How long HCCL waits for all processes to come."""
    text = machine.env.get(_CONNECT)
    if text is None:
        yield ok("not set")
    elif not text.isdecimal() or not 120 <= int(text) <= 7200:
        yield fix(f"{_CONNECT}={text}", "choose 120 to 7200 seconds")
    else:
        yield ok(f"{_CONNECT}={text}")


def check_launches(_: Request, machine: Machine) -> Iterable[Finding]:
    """A switch for debugging that was left on."""
    if machine.env.get("ASCEND_LAUNCH_BLOCKING") == "1":
        yield note("ASCEND_LAUNCH_BLOCKING=1", "unset it after debugging: every operator is waited for")
    else:
        yield ok("operators are launched without waiting")
