"""Environment variables by device: the defaults that a run sets, those left to the user, and the reasons.

A value set by the user always takes precedence; an empty variable counts as unset. The module imports no torch, so that
the dry run can list the table. Values for Ascend are from the vendor's documents and public scripts and unverified on a
device.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ASCEND_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
RAY_KEEPS_VISIBLE = {
    "NPU": "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES",
    "GPU": "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
}
"""Ray resource -> variable that makes every process see all devices of its node."""


class EnvironmentProblem(RuntimeError):
    """A variable set by the user has an unusable value; the message says what is valid."""


@dataclass(frozen=True)
class EnvironmentVariable:
    """An environment variable and its default.

    Attributes:
        name: Name of the variable.
        value: Default value; None leaves it unset.
        reason: Reason for the default, or the purpose of the variable.
        kinds: Kinds of device that it applies to.
        unless: Other variables that replace it if they are set.
    """

    name: str
    value: str | None
    reason: str
    kinds: tuple[str, ...] = ("npu",)
    unless: tuple[str, ...] = ()


ALWAYS = (
    EnvironmentVariable(
        "TORCH_DEVICE_BACKEND_AUTOLOAD",
        "0",
        "prevents torch from loading torch_npu by itself, which fails without CANN even where no device is needed",
        ("cpu", "cuda", "npu"),
    ),
    EnvironmentVariable(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "megatron-core requires communication to be queued in program order",
        ("cpu", "cuda", "npu"),
    ),
    EnvironmentVariable(
        "PYTORCH_NPU_ALLOC_CONF",
        "expandable_segments:True",
        "avoids fragmentation by rows of varying length; excludes max_split_size_mb",
        unless=("PYTORCH_ALLOC_CONF",),
    ),
    EnvironmentVariable(
        "TASK_QUEUE_ENABLE",
        "2",
        "operators are queued by a separate thread; 1 has a lower memory peak",
        unless=("ASCEND_LAUNCH_BLOCKING",),
    ),
    EnvironmentVariable(
        "HCCL_CONNECT_TIMEOUT",
        "1800",
        "seconds until all processes have connected; loading weights may exceed the default of 120; at most 7200",
    ),
)
LEFT_TO_THE_USER = (
    EnvironmentVariable(
        ASCEND_DEVICES,
        None,
        "devices to use, ascending and without blanks, such as 0,1,2; set by Ray for each process",
    ),
    EnvironmentVariable(
        RAY_KEEPS_VISIBLE["NPU"],
        None,
        "1 makes all devices of the node visible; a process then uses the one that Ray assigns",
    ),
    EnvironmentVariable("HCCL_SOCKET_IFNAME", None, "network interface between nodes, if it is not the first one"),
    EnvironmentVariable("HCCL_IF_BASE_PORT", None, "first of 16 ports per process, 1024 to 65520; 60000 if unset"),
    EnvironmentVariable(
        "HCCL_HOST_SOCKET_PORT_RANGE",
        None,
        "auto or disjoint ranges if processes share a card, which those of one run never do",
    ),
    EnvironmentVariable(
        "HCCL_NPU_SOCKET_PORT_RANGE",
        None,
        "auto or disjoint ranges if processes share a card, which those of one run never do",
    ),
    EnvironmentVariable(
        "HCCL_BUFFSIZE", None, "MB of each half of a communicator's buffer, 200 if unset; less for small models"
    ),
)
DETERMINISTIC = (
    EnvironmentVariable("HCCL_DETERMINISTIC", "true", "use_deter_comp: reductions in one order"),
    EnvironmentVariable("CLOSE_MATMUL_K_SHIFT", "1", "use_deter_comp: matrix products in one order"),
    EnvironmentVariable("ATB_MATMUL_SHUFFLE_K_ENABLE", "0", "use_deter_comp: matrix products in one order"),
    EnvironmentVariable("LCCL_DETERMINISTIC", "1", "use_deter_comp: reductions within a node in one order"),
    EnvironmentVariable(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8", "use_deter_comp: matrix products in one order", ("cuda",)
    ),
)


def likely_kind(device: str) -> str:
    """Return the kind of device that `device` selects, without importing torch; `auto` without torch_npu is `cpu`."""
    if device != "auto":
        return device
    return "npu" if importlib.util.find_spec("torch_npu") is not None else "cpu"


def variables(kind: str, timeout_minutes: float, *, deterministic: bool = False) -> list[EnvironmentVariable]:
    """List the variables that apply to a kind of device.

    Args:
        kind: `cpu`, `cuda` or `npu`.
        timeout_minutes: Limit for a collective, `distributed_timeout_minutes`.
        deterministic: Whether results must be reproducible, `use_deter_comp`.
    """
    timeout = EnvironmentVariable(
        "HCCL_EXEC_TIMEOUT",
        str(round(timeout_minutes * 60)),
        "limit for a collective in seconds, from distributed_timeout_minutes",
    )
    every = (*ALWAYS, timeout, *(DETERMINISTIC if deterministic else ()), *LEFT_TO_THE_USER)
    return [variable for variable in every if kind in variable.kinds]


def prepare(kind: str, timeout_minutes: float = 45, *, deterministic: bool = False) -> None:
    """Set the defaults of unset variables in this process; call it before torch_npu is imported.

    Raises:
        EnvironmentProblem: A value set by the user is unusable.
    """
    check_visible_devices(os.environ if kind == "npu" else {})
    for variable in variables(kind, timeout_minutes, deterministic=deterministic):
        if variable.value is not None and not any(os.environ.get(name) for name in variable.unless):
            set_default(variable.name, variable.value)


def set_default(name: str, value: str) -> None:
    """Set a variable of this process that is unset; an empty one counts as unset."""
    os.environ[name] = os.environ.get(name) or value


def check_visible_devices(environment: Mapping[str, str]) -> None:
    """Check the list of visible devices, which the Ascend runtime reads up to a blank and expects to ascend.

    Raises:
        EnvironmentProblem: The runtime would ignore a part of the list.
    """
    listed = environment.get(ASCEND_DEVICES)
    if not listed:
        return
    devices = listed.split(",")
    plain = all(device.isascii() and device.isdigit() for device in devices)
    if not plain or [int(d) for d in devices] != sorted({int(d) for d in devices}):
        raise EnvironmentProblem(
            f"{ASCEND_DEVICES}={listed!r} would not be read completely by the Ascend runtime; list each device once, "
            "ascending, separated by commas without blanks, such as 0,1,2,3"
        )


def environment_rows(
    kind: str, timeout_minutes: float, environment: Mapping[str, str], *, deterministic: bool = False
) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, value, origin of the value and reason of each variable, for display.

    Args:
        kind: Kind of device, as for `variables`.
        timeout_minutes: Limit for a collective, as for `variables`.
        environment: The environment of this machine; other nodes may differ.
        deterministic: Whether results must be reproducible, as for `variables`.
    """
    for variable in variables(kind, timeout_minutes, deterministic=deterministic):
        taken = next((name for name in variable.unless if environment.get(name)), None)
        if environment.get(variable.name):
            owner = "set by the run" if environment[variable.name] == variable.value else "yours"
            yield variable.name, environment[variable.name], owner, variable.reason
        elif taken is not None:
            yield variable.name, "unset", f"replaced by your {taken}", variable.reason
        else:
            owner = "set by the run" if variable.value is not None else "left to you"
            yield variable.name, variable.value or "unset", owner, variable.reason
