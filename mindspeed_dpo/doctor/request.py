"""The request for a check: the device, the cluster, the paths and the configuration of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mindspeed_dpo.doctor.machine import Machine, ProbeError

if TYPE_CHECKING:
    from mindspeed_dpo.config.run import RunConfig

KINDS = ("cpu", "cuda", "npu")
NO_NPU = "no NPU"
"""Reason why a check of NPUs is not made on another device."""


@dataclass(frozen=True)
class Request:
    """The checks that the user wants.

    Example:
        Request("npu", address="10.0.0.1:6344", reads=("/data/pairs",), writes=("/runs/out",))

    Attributes:
        kind: Device of the runs: `cpu`, `cuda` or `npu`.
        address: `host:port` of a Ray cluster; None for the one on this machine, if any.
        start_ray: Whether to start a local Ray cluster for the check.
        reads: Paths that must be readable on every node.
        writes: Paths that must be writable on every node.
        name: Name of a configuration; None if none was given.
        run: The resolved configuration; None also if its settings have problems.
        problems: The problems of the configuration.
        is_unreadable: There is no such configuration, or it is no YAML or no mapping.
    """

    kind: str
    address: str | None = None
    start_ray: bool = False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    name: str | None = None
    run: RunConfig | None = None
    problems: tuple[str, ...] = ()
    is_unreadable: bool = False


def resolve_kind(kind: str, machine: Machine) -> str:
    """Return the device to check for; `auto` detects it.

    An NPU is detected without any library, so that a machine without torch_npu is checked for its absence.
    """
    if kind in KINDS:
        return kind
    if machine.find("/dev/davinci[0-9]*") or machine.program("npu-smi") or machine.package_folder("torch_npu"):
        return "npu"
    try:
        return str(machine.probe("torch_devices", kind="auto")["kind"])
    except ProbeError:
        return "cpu"


def request_from_config(name: str, overrides: tuple[str, ...], config_dir: str | None) -> Request:
    """Return the checks that the run of a configuration needs; its device may still be `auto`."""
    # Deferred: without a configuration the checks must also run where Hydra is missing.
    from mindspeed_dpo.autoconfig.bare_keys import compose_words
    from mindspeed_dpo.autoconfig.complete import completed
    from mindspeed_dpo.config.issues import ConfigError
    from mindspeed_dpo.config.load import validate
    from mindspeed_dpo.config.loading.config_path import split_path

    try:
        config_name, folder = split_path(name, config_dir)
        composed = compose_words(config_name, overrides, folder)
    except ConfigError as error:
        return Request("auto", name=name, problems=error.problems, is_unreadable=True)
    try:
        composed = completed(composed)
    except ConfigError as error:
        return Request("auto", name=name, problems=error.problems)
    inputs: list[str] = []

    def exists(path: str) -> bool:
        # A missing path is reported by the check of paths, for each node; validation treats it as present.
        inputs.append(path)
        return True

    report = validate(composed, exists=exists)
    if report.run is None:
        return Request("auto", name=name, problems=report.problems)
    loop = report.run.loop
    return Request(
        loop.device,
        loop.ray_address,
        reads=tuple(dict.fromkeys(map(os.path.abspath, inputs))),
        writes=(os.path.abspath(loop.output_dir),),
        name=name,
        run=report.run,
        problems=report.problems,
    )
