"""Environment variables of a process by device: what is set where nothing else is, what is left to the user, and why.

The one table of them. A user's own value always wins. Nothing here imports torch, so that a plan can tell it at once.
Values for Ascend are those of the vendor's documents and public scripts; none has been tried on a device.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ASCEND_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
RAY_SHOWS_ALL = {
    "NPU": "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES",
    "GPU": "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
}
"""Ray resource to the variable that lets every process see all devices of its node."""


class EnvironmentProblem(RuntimeError):
    """An environment variable that the user set cannot work; the message says what can."""


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        name: Of the variable.
        value: What it is set to where it is unset; None leaves it unset.
        reason: Why, or what it is for.
        kinds: Devices that it concerns.
        unless: Other variables that take its place.
    """

    name: str
    value: str | None
    reason: str
    kinds: tuple[str, ...] = ("npu",)
    unless: tuple[str, ...] = ()


ALWAYS = (
    Variable(
        "TORCH_DEVICE_BACKEND_AUTOLOAD",
        "0",
        "torch must not load torch_npu by itself: without CANN that stops even what needs no device",
        ("cpu", "cuda", "npu"),
    ),
    Variable(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "megatron-core expects communication to be queued in the order it is asked for",
        ("cpu", "cuda", "npu"),
    ),
    Variable(
        "PYTORCH_NPU_ALLOC_CONF",
        "expandable_segments:True",
        "rows of changing lengths would split memory into pieces; rules out max_split_size_mb",
        unless=("PYTORCH_ALLOC_CONF",),
    ),
    Variable(
        "TASK_QUEUE_ENABLE",
        "2",
        "operators are queued by a thread of their own; 1 needs less memory at its peak",
        unless=("ASCEND_LAUNCH_BLOCKING",),
    ),
    Variable(
        "HCCL_CONNECT_TIMEOUT",
        "1800",
        "seconds until all processes have met: loading weights takes some longer than the default of 120; 7200 at most",
    ),
)
LEFT_TO_THE_USER = (
    Variable(
        ASCEND_DEVICES,
        None,
        "devices to use, ascending and without blanks, such as 0,1,2; Ray sets it for each process",
    ),
    Variable(
        RAY_SHOWS_ALL["NPU"],
        None,
        "1 lets a process see all devices of its node; it then takes the one that Ray names",
    ),
    Variable("HCCL_SOCKET_IFNAME", None, "network interface between nodes, where the first one found is not it"),
    Variable("HCCL_IF_BASE_PORT", None, "first of 16 ports per process, 60000 where unset; 1024 to 65520"),
    Variable(
        "HCCL_HOST_SOCKET_PORT_RANGE",
        None,
        "auto, or ranges apart, where processes share a card; in one run none do",
    ),
    Variable(
        "HCCL_NPU_SOCKET_PORT_RANGE",
        None,
        "auto, or ranges apart, where processes share a card; in one run none do",
    ),
    Variable(
        "HCCL_BUFFSIZE", None, "MB of each half of a communicator's buffer, 200 where unset; less for small models"
    ),
)
REPEATABLE = (
    Variable("HCCL_DETERMINISTIC", "true", "use_deter_comp: reductions in one order"),
    Variable("CLOSE_MATMUL_K_SHIFT", "1", "use_deter_comp: matrix products in one order"),
    Variable("ATB_MATMUL_SHUFFLE_K_ENABLE", "0", "use_deter_comp: matrix products in one order"),
    Variable("LCCL_DETERMINISTIC", "1", "use_deter_comp: reductions within a node in one order"),
    Variable("CUBLAS_WORKSPACE_CONFIG", ":4096:8", "use_deter_comp: matrix products in one order", ("cuda",)),
)


def likely_kind(device: str) -> str:
    """What `device` means, as far as can be told without torch: `auto` without torch_npu counts as `cpu`."""
    if device != "auto":
        return device
    return "npu" if importlib.util.find_spec("torch_npu") is not None else "cpu"


def variables(kind: str, timeout_minutes: float, *, repeatable: bool = False) -> list[Variable]:
    """The variables that concern a device.

    Args:
        kind: `cpu`, `cuda` or `npu`.
        timeout_minutes: How long a collective may take, `distributed_timeout_minutes`.
        repeatable: Whether the same bits are asked for, `use_deter_comp`.
    """
    patience = Variable(
        "HCCL_EXEC_TIMEOUT",
        str(round(timeout_minutes * 60)),
        "seconds that a collective may take: distributed_timeout_minutes",
    )
    every = (*ALWAYS, patience, *(REPEATABLE if repeatable else ()), *LEFT_TO_THE_USER)
    return [variable for variable in every if kind in variable.kinds]


def prepare(kind: str, timeout_minutes: float = 45, *, repeatable: bool = False) -> None:
    """Set what is unset in this process; call it before torch_npu is imported.

    Raises:
        EnvironmentProblem: What the user set cannot work.
    """
    check_visible_devices(os.environ if kind == "npu" else {})
    for variable in variables(kind, timeout_minutes, repeatable=repeatable):
        if variable.value is not None and not any(name in os.environ for name in variable.unless):
            os.environ.setdefault(variable.name, variable.value)


def check_visible_devices(environment: Mapping[str, str]) -> None:
    """See that the runtime will read the whole list of devices: it stops at a blank, and wants them ascending.

    Raises:
        EnvironmentProblem: It will not.
    """
    listed = environment.get(ASCEND_DEVICES)
    if not listed:
        return
    devices = listed.split(",")
    plain = all(device.isascii() and device.isdigit() for device in devices)
    if not plain or [int(d) for d in devices] != sorted({int(d) for d in devices}):
        raise EnvironmentProblem(
            f"{ASCEND_DEVICES}={listed!r} is not read as a whole by the Ascend runtime; list the devices ascending, "
            "each once, with commas and no blanks, such as 0,1,2,3"
        )


def environment_rows(
    kind: str, timeout_minutes: float, environment: Mapping[str, str], *, repeatable: bool = False
) -> Iterator[tuple[str, str, str, str]]:
    """For people: name, value, whose value it is, and the reason.

    Args:
        kind: As `variables`.
        timeout_minutes: As `variables`.
        environment: What is set, on this machine; other nodes may have values of their own.
        repeatable: As `variables`.
    """
    for variable in variables(kind, timeout_minutes, repeatable=repeatable):
        taken = next((name for name in variable.unless if name in environment), None)
        if variable.name in environment:
            owner = "set by the run" if environment[variable.name] == variable.value else "yours"
            yield variable.name, environment[variable.name], owner, variable.reason
        elif taken is not None:
            yield variable.name, "unset", f"your {taken} counts", variable.reason
        else:
            owner = "set by the run" if variable.value is not None else "left to you"
            yield variable.name, variable.value or "unset", owner, variable.reason
