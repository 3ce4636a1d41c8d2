"""Checks of environment variables and limits that a run depends on."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.device import environment_variables as variables
from mindspeed_dpo.doctor.findings import Finding, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request

MIN_OPEN_FILES, RECOMMENDED_OPEN_FILES = 1024, 32768
_ALLOCATOR = "PYTORCH_NPU_ALLOC_CONF"
_CONNECT = "HCCL_CONNECT_TIMEOUT"


def check_open_files(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the limit of open files and sockets per process."""
    limit = machine.max_open_files()
    if limit == -1:
        yield ok("unlimited")
    elif limit < MIN_OPEN_FILES:
        yield fix(f"{limit}", f"ulimit -n {RECOMMENDED_OPEN_FILES}, before Ray starts; its processes inherit the limit")
    elif request.kind == "npu" and limit < RECOMMENDED_OPEN_FILES:
        yield note(
            f"{limit}", f"public launch scripts for Ascend set ulimit -n {RECOMMENDED_OPEN_FILES}, before Ray starts"
        )
    else:
        yield ok(f"{limit}")


def check_visible_devices(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check that the list of visible NPUs is ascending."""
    text = machine.env.get(variables.ASCEND_DEVICES)
    try:
        variables.check_visible_devices(machine.env)
    except variables.EnvironmentProblem as problem:
        yield fix(repr(text), str(problem))
        return
    yield ok(text or "not set: all devices")


def check_allocator(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check for settings of the allocator that exclude each other."""
    text = machine.env.get(_ALLOCATOR, "")
    keys = dict(word.split(":", 1) for word in text.split(",") if ":" in word)
    conflicts = sorted({"max_split_size_mb", "garbage_collection_threshold"} & set(keys))
    if keys.get("expandable_segments", "").lower() == "true" and conflicts:
        yield fix(f"{_ALLOCATOR}={text}", f"expandable_segments:True excludes {' and '.join(conflicts)}; keep one")
    else:
        yield ok(text or "not set")


def check_timeouts(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check the time that HCCL waits for all processes to connect."""
    text = machine.env.get(_CONNECT)
    if not text:
        yield ok("not set")
    elif not text.isdecimal() or not 120 <= int(text) <= 7200:
        yield fix(f"{_CONNECT}={text}", "set it to 120 to 7200 seconds")
    else:
        yield ok(f"{_CONNECT}={text}")


def check_launches(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check that synchronous launches, meant for debugging, are off."""
    if machine.env.get("ASCEND_LAUNCH_BLOCKING") == "1":
        yield note("ASCEND_LAUNCH_BLOCKING=1", "unset it after debugging: it makes every operator synchronous")
    else:
        yield ok("operators are launched asynchronously")
