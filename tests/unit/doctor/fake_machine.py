"""A machine that is told what it has: one with NPUs on which all is well, and ways to take something away."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mindspeed_dpo.doctor.findings import Finding
from mindspeed_dpo.doctor.machine import ProbeFailed
from mindspeed_dpo.doctor.processes import Ran

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
SAME = {"python": "3.10.14", **VERSIONS}
HERE = {"versions": SAME, "unreadable": [], "unwritable": []}


def nodes(*changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Nodes of a cluster, each with what is different about it."""
    return [{"address": f"10.0.0.{n}", "versions": SAME, **NODE, **change} for n, change in enumerate(changes, 1)]


PROBES: dict[str, Any] = {
    "torch_devices": {"torch": "2.7.1+cpu", "kind": "npu", "devices": DEVICES},
    "loads": "2.7.1.post4",
    "start_up": "npu is active",
    "all_reduce": "two processes added",
    "operators": [{"name": "swiglu", "dtype": "bfloat16", "error": 0.004, "allowed": 0.02}],
    "cluster": {"here": HERE, "nodes": nodes({}, {}), "failure": None, "room": None, "resource": "NPU"},
}


@dataclass(frozen=True)
class Pretended:
    """What `Machine` asks, from tables. A probe that is an exception fails with it."""

    variables: dict[str, str] = field(default_factory=lambda: {"ASCEND_HOME_PATH": HOME})
    versions: dict[str, str] = field(default_factory=lambda: dict(VERSIONS))
    files: dict[str, str] = field(default_factory=lambda: dict(FILES))
    locked: tuple[str, ...] = ()
    programs: dict[str, Ran] = field(default_factory=lambda: {"npu-smi": Ran(0, "| npu-smi 25.2.0  Version: 25.2.0 |")})
    probes: dict[str, Any] = field(default_factory=lambda: dict(PROBES))
    folders: dict[str, str] = field(default_factory=lambda: {"mindspeed": "/src/MindSpeed/mindspeed"})
    names: tuple[str, ...] = ("enp1s0", "eth0", "lo")
    addresses: tuple[str, ...] = ("127.0.0.1", "10.0.0.1")
    taken: tuple[int, ...] = ()
    limit: int = 65536
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

    def may_use(self, path: str) -> bool:
        return path not in self.locked

    def program(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in self.programs else None

    def run(self, command: Sequence[str]) -> Ran:
        return self.programs[command[0]]

    def probe(self, name: str, **question: Any) -> Any:
        found = self.probes[name]
        if isinstance(found, ProbeFailed):
            raise found
        return found

    def interfaces(self) -> list[str]:
        return list(self.names)

    def is_own_address(self, address: str) -> bool:
        return address in self.addresses

    def taken_ports(self, ports: Sequence[int]) -> list[int]:
        return [port for port in ports if port in self.taken]

    def open_files(self) -> int:
        return self.limit

    def with_variables(self, **variables: str) -> Pretended:
        """The same with further variables."""
        return replace(self, variables={**self.variables, **variables})

    def with_probe(self, name: str, found: Any) -> Pretended:
        """The same, a probe answering something else; a text is why it fails."""
        return replace(self, probes={**self.probes, name: ProbeFailed(found) if isinstance(found, str) else found})

    def without(self, table: str, *keys: str) -> Pretended:
        """The same without some entries of a table."""
        return replace(self, **{table: {k: v for k, v in getattr(self, table).items() if k not in keys}})


def one(findings: Sequence[Finding], name: str) -> Finding:
    """The one line about `name`."""
    (found,) = [finding for finding in findings if finding.name == name]
    return found
