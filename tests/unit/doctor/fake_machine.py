"""A fake machine with NPUs and a complete installation, and methods that remove or change parts of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mindspeed_dpo.doctor.findings import Finding
from mindspeed_dpo.doctor.machine import ProbeError
from mindspeed_dpo.doctor.probe_processes import CompletedCommand

HOME = "/usr/local/Ascend/ascend-toolkit/latest"
GIB = 2**30
VERSIONS = {
    "torch": "2.7.1+cpu", "torch_npu": "2.7.1.post4", "megatron-core": "0.16.1", "ray": "2.60.0",
    "transformers": "4.57.1", "numpy": "1.26.4", "triton-ascend": "3.2.0", "einops": "0.8.1", "scipy": "1.13.0",
}  # fmt: skip
FILES = {
    HOME: "",
    f"{HOME}/version.cfg": "# version: 1.0\nruntime_running_version=[9.0.0.1.200:9.0.0]\n",
    "/dev/davinci0": "",
    "/dev/davinci1": "",
    "/src/MindSpeed/mindspeed/../.git/HEAD": "ref: refs/heads/core_r0.16.0\n",
}
DEVICES = [{"name": "Ascend910B", "free": 60 * GIB, "total": 64 * GIB}] * 2
NODE = {"resources": {"NPU": 8, "GPU": 0, "CPU": 96}, "error": "", "unreadable": [], "unwritable": []}
NODE_VERSIONS = {"python": "3.10.14", **VERSIONS}
THIS_NODE = {"versions": NODE_VERSIONS, "unreadable": [], "unwritable": []}


def nodes(*changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a cluster, each with some values changed."""
    return [
        {"address": f"10.0.0.{n}", "versions": NODE_VERSIONS, **NODE, **change} for n, change in enumerate(changes, 1)
    ]


PROBES: dict[str, Any] = {
    "torch_devices": {"torch": "2.7.1+cpu", "kind": "npu", "devices": DEVICES},
    "library_version": "2.7.1.post4",
    "start_up": "npu is active",
    "all_reduce": "two processes on npu",
    "operators": [{"name": "swiglu", "dtype": "bfloat16", "error": 0.004, "tolerance": 0.02}],
    "cluster": {
        "this_node": THIS_NODE,
        "nodes": nodes({}, {}),
        "failure": None,
        "capacity_problem": None,
        "resource": "NPU",
    },
}


@dataclass(frozen=True)
class FakeMachine:
    """The interface of `Machine`, with results from tables. A probe whose result is an exception raises it."""

    variables: dict[str, str] = field(default_factory=lambda: {"ASCEND_HOME_PATH": HOME})
    versions: dict[str, str] = field(default_factory=lambda: dict(VERSIONS))
    files: dict[str, str] = field(default_factory=lambda: dict(FILES))
    locked: tuple[str, ...] = ()
    programs: dict[str, CompletedCommand] = field(
        default_factory=lambda: {"npu-smi": CompletedCommand(0, "| npu-smi 25.2.0  Version: 25.2.0 |")}
    )
    probes: dict[str, Any] = field(default_factory=lambda: dict(PROBES))
    folders: dict[str, str] = field(default_factory=lambda: {"mindspeed": "/src/MindSpeed/mindspeed"})
    interface_names: tuple[str, ...] = ("enp1s0", "eth0", "lo")
    addresses: tuple[str, ...] = ("127.0.0.1", "10.0.0.1")
    used_ports: tuple[int, ...] = ()
    open_files: int = 65536
    python_version: str = "3.10.14"

    @property
    def env(self) -> Mapping[str, str]:
        return self.variables

    def python(self) -> str:
        return self.python_version

    def version(self, package: str) -> str | None:
        return self.versions.get(package)

    def package_folder(self, package: str) -> str | None:
        return self.folders.get(package)

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def find(self, pattern: str) -> list[str]:
        return sorted(path for path in self.files if fnmatch.fnmatch(path, pattern))

    def is_accessible(self, path: str) -> bool:
        return path not in self.locked

    def program(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in self.programs else None

    def run(self, command: Sequence[str]) -> CompletedCommand:
        return self.programs[command[0]]

    def probe(self, name: str, **arguments: Any) -> Any:
        result = self.probes[name]
        if isinstance(result, ProbeError):
            raise result
        return result

    def interfaces(self) -> list[str]:
        return list(self.interface_names)

    def is_own_address(self, address: str) -> bool:
        return address in self.addresses

    def ports_in_use(self, ports: Sequence[int]) -> list[int]:
        return [port for port in ports if port in self.used_ports]

    def max_open_files(self) -> int:
        return self.open_files

    def with_variables(self, **variables: str) -> FakeMachine:
        """Return a copy with further environment variables."""
        return replace(self, variables={**self.variables, **variables})

    def with_probe(self, name: str, result: Any) -> FakeMachine:
        """Return a copy with another result of a probe; a string is the reason of a failure."""
        return replace(self, probes={**self.probes, name: ProbeError(result) if isinstance(result, str) else result})

    def without(self, table: str, *keys: str) -> FakeMachine:
        """Return a copy without some entries of a table."""
        return replace(self, **{table: {k: v for k, v in getattr(self, table).items() if k not in keys}})


def find_one(findings: Sequence[Finding], name: str) -> Finding:
    """Return the only finding under a name."""
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding
