"""The machine as the checks ask it: variables, files, programs, ports. Tests answer in its place."""

from __future__ import annotations

import errno
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mindspeed_dpo.doctor.processes import Ran, probe_command, run


class ProbeFailed(RuntimeError):
    """A process that should try something did not come to an answer; the text says why in one line."""


class Machine(Protocol):
    """What a check may ask."""

    @property
    def env(self) -> Mapping[str, str]:
        """Environment variables."""

    def python(self) -> str:
        """Version of the Python that runs."""

    def version(self, package: str) -> str | None:
        """Version of an installed distribution, None where there is none."""

    def package_folder(self, package: str) -> str | None:
        """Where a package would be imported from; nothing is imported."""

    def read(self, path: str) -> str | None:
        """Content of a text file, None where it cannot be read."""

    def find(self, pattern: str) -> list[str]:
        """Paths that match, sorted."""

    def may_use(self, path: str) -> bool:
        """Whether this user may read and write it."""

    def program(self, name: str) -> str | None:
        """Path of a program on PATH."""

    def run(self, command: Sequence[str]) -> Ran:
        """What a command said, or that it did not end in time."""

    def probe(self, name: str, **question: Any) -> Any:
        """What a module of `probes` answers, in a process of its own.

        Raises:
            ProbeFailed: It died or did not answer in time.
        """

    def interfaces(self) -> list[str]:
        """Names of the network interfaces."""

    def is_own_address(self, address: str) -> bool:
        """Whether an address is one of this machine."""

    def taken_ports(self, ports: Sequence[int]) -> list[int]:
        """Those of the TCP ports on which nothing can listen now."""

    def open_files(self) -> int:
        """How many files a process may have open; -1 is any number."""


@dataclass
class ThisMachine:
    """The machine this process runs on."""

    timeout_s: float

    def __post_init__(self) -> None:
        self._answers: dict[str, Any] = {}

    @property
    def env(self) -> Mapping[str, str]:
        """See `Machine`."""
        return os.environ

    def python(self) -> str:
        """See `Machine`."""
        return platform.python_version()

    def version(self, package: str) -> str | None:
        """See `Machine`."""
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def package_folder(self, package: str) -> str | None:
        """See `Machine`."""
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return None
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        return places[0] if places else None

    def read(self, path: str) -> str | None:
        """See `Machine`."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """See `Machine`."""
        return sorted(glob.glob(pattern))

    def may_use(self, path: str) -> bool:
        """See `Machine`."""
        return os.access(path, os.R_OK | os.W_OK)

    def program(self, name: str) -> str | None:
        """See `Machine`."""
        return shutil.which(name)

    def run(self, command: Sequence[str]) -> Ran:
        """See `Machine`."""
        return run(command, self.timeout_s)

    def probe(self, name: str, **question: Any) -> Any:
        """See `Machine`. A question is asked once."""
        key = json.dumps([name, question], sort_keys=True)
        if key not in self._answers:
            self._answers[key] = self.run(probe_command(name, question))
        ran: Ran = self._answers[key]
        if ran.answer is None:
            raise ProbeFailed(ran.reason)
        return ran.answer

    def interfaces(self) -> list[str]:
        """See `Machine`."""
        return sorted(name for _, name in socket.if_nameindex())

    def is_own_address(self, address: str) -> bool:
        """See `Machine`."""
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.bind(where)
        except OSError:
            return False
        return True

    def taken_ports(self, ports: Sequence[int]) -> list[int]:
        """See `Machine`."""
        return [port for port in ports if _is_taken(port)]

    def open_files(self) -> int:
        """See `Machine`."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return -1 if soft == resource.RLIM_INFINITY else soft


def _is_taken(port: int) -> bool:
    with socket.socket() as listener:
        # A port that only waits for old connections to be forgotten can be listened on.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            return error.errno in (errno.EADDRINUSE, errno.EACCES)
    return False
