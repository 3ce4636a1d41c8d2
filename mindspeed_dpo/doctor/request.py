"""What is to be checked: which device, which cluster and paths, which run."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mindspeed_dpo.doctor.machine import Machine, ProbeFailed

if TYPE_CHECKING:
    from mindspeed_dpo.config.run import RunConfig

KINDS = ("cpu", "cuda", "npu")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        kind: `cpu`, `cuda` or `npu`: the device that runs shall use.
        address: Of a Ray cluster; None is one that runs on this machine, if any.
        start_ray: Whether a Ray of its own may be started for the check.
        reads: Paths to be readable on every node.
        writes: Paths to be writable on every node.
        name: Of a configuration; None where none was named.
        run: That configuration; None also where its problems leave it undecided.
        problems: What is wrong with it.
    """

    kind: str
    address: str | None = None
    start_ray: bool = False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    name: str | None = None
    run: RunConfig | None = None
    problems: tuple[str, ...] = ()

    @property
    def no_npu(self) -> str:
        """Why something of NPUs cannot be checked."""
        return "no NPU"


def find_kind(asked: str, machine: Machine) -> str:
    """The device to check for.

    An NPU shows itself without any library, so that a machine without torch_npu is told to install it.
    """
    if asked in KINDS:
        return asked
    if machine.find("/dev/davinci[0-9]*") or machine.program("npu-smi") or machine.package_folder("torch_npu"):
        return "npu"
    try:
        return str(machine.probe("torch_devices", kind="auto")["kind"])
    except ProbeFailed:
        return "cpu"


def of_configuration(name: str, overrides: tuple[str, ...], config_dir: str | None) -> Request:
    """What a configuration needs; its device may still be `auto`."""
    problems = importlib.import_module("mindspeed_dpo.config.issues")
    load = importlib.import_module("mindspeed_dpo.config.load")
    compose = importlib.import_module("mindspeed_dpo.config.loading.compose")
    try:
        composed = compose.compose(name, overrides, config_dir)
    except problems.ConfigError as error:
        return Request("auto", name=name, problems=error.problems)
    asked: list[str] = []

    def exists(path: str) -> bool:
        # What is missing is told by node, with the other paths; here it counts as there.
        asked.append(path)
        return True

    found = load.validate(composed, exists=exists)
    if found.run is None:
        return Request("auto", name=name, problems=found.problems)
    loop = found.run.loop
    return Request(
        loop.device,
        loop.ray_address,
        reads=tuple(dict.fromkeys(map(os.path.abspath, asked))),
        writes=(os.path.abspath(loop.output_dir),),
        name=name,
        run=found.run,
        problems=found.problems,
    )
