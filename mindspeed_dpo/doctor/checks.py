"""The table of checks, in the order of their dependencies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mindspeed_dpo.doctor import (
    ascend,
    clusters,
    devices,
    network,
    rollout_engine,
    ulimit_and_environment_variables,
    versions,
)
from mindspeed_dpo.doctor.findings import Finding, fix, not_checked, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import NO_NPU, Request


@dataclass(frozen=True)
class Check:
    """A check of the installation.

    Attributes:
        name: Name of what is checked.
        function: Performs the check and yields its findings.
        kinds: Kinds of device that it applies to.
    """

    name: str
    function: Callable[[Request, Machine], Iterable[Finding]]
    kinds: tuple[str, ...] = ("cpu", "cuda", "npu")

    def findings(self, request: Request, machine: Machine) -> Iterator[Finding]:
        """Perform the check and yield its findings, each with a name."""
        if request.kind in self.kinds:
            findings = self.function(request, machine)
        else:
            findings = [not_checked(NO_NPU if self.kinds == _NPU else f"the device is {request.kind}")]
        yield from (finding.with_default_name(self.name) for finding in findings)


def check_configuration(request: Request, _: Machine) -> Iterable[Finding]:
    """Report the problems of the configuration."""
    if request.name is None:
        yield not_checked("no configuration given; use --config-name")
    elif request.problems:
        yield from (
            fix(problem, "change the configuration or the override", request.name) for problem in request.problems
        )
    else:
        yield ok("valid", request.name)


_NPU = ("npu",)
CHECKS = {
    "versions": (Check("Python", versions.check_python), Check("packages", versions.check_packages)),
    "CANN and driver": (
        Check("CANN", ascend.check_toolkit, _NPU),
        Check("driver", ascend.check_driver, _NPU),
        Check("device files", ascend.check_device_files, _NPU),
    ),
    "environment": (
        Check("open files", ulimit_and_environment_variables.check_open_files),
        Check("visible devices", ulimit_and_environment_variables.check_visible_devices, _NPU),
        Check("allocator", ulimit_and_environment_variables.check_allocator, _NPU),
        Check("HCCL timeout", ulimit_and_environment_variables.check_timeouts, _NPU),
        Check("launches", ulimit_and_environment_variables.check_launches, _NPU),
    ),
    "network": (
        Check("interfaces", network.check_interfaces),
        Check("HCCL ports", network.check_hccl_ports, _NPU),
        Check("master_port", network.check_master_port),
    ),
    "libraries": (
        Check("torch", devices.check_torch),
        Check("torch_npu", ascend.check_torch_npu, _NPU),
        Check("MindSpeed", ascend.check_mindspeed, _NPU),
        Check("start of a worker", ascend.check_start_up),
    ),
    "devices": (
        Check("memory", devices.check_memory),
        Check("all-reduce", devices.check_all_reduce),
        Check("operators", devices.check_operators),
    ),
    "configuration": (Check("configuration", check_configuration), Check("vLLM", rollout_engine.check_vllm)),
    "cluster": (
        Check("nodes", clusters.check_nodes),
        Check("versions", clusters.check_node_versions),
        Check("paths", clusters.check_paths),
    ),
}
"""Checks by the title of their group in the report."""


def run_checks(request: Request, machine: Machine) -> Iterator[tuple[str, list[Finding]]]:
    """Run all checks and yield the title and findings of each group as soon as it is complete."""
    for title, checks in CHECKS.items():
        yield title, [finding for check in checks for finding in check.findings(request, machine)]
