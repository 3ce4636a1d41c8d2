"""Access of the checks to the machine: variables, files, programs, ports. Tests substitute it."""

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
from typing import Any

from mindspeed_dpo.doctor.probe_processes import CompletedCommand, probe_command, run_command


class ProbeError(RuntimeError):
    """A probe failed; the message is the reason in one line."""


@dataclass
class Machine:
    """The machine of this process.

    Attributes:
        timeout_s: Seconds after which a command or probe is killed.
    """

    timeout_s: float

    def __post_init__(self) -> None:
        self._results: dict[str, CompletedCommand] = {}

    @property
    def env(self) -> Mapping[str, str]:
        """Environment variables of this process."""
        return os.environ

    def python(self) -> str:
        """Return the version of the running Python."""
        return platform.python_version()

    def version(self, package: str) -> str | None:
        """Return the version of an installed distribution; None if it is not installed."""
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def package_folder(self, package: str) -> str | None:
        """Return the folder that a package would be imported from, without importing it."""
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return None
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        return folders[0] if folders else None

    def read(self, path: str) -> str | None:
        """Return the content of a text file; None if it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """List the paths that match a pattern, sorted."""
        return sorted(glob.glob(pattern))

    def is_accessible(self, path: str) -> bool:
        """Return whether this user may read and write a path."""
        return os.access(path, os.R_OK | os.W_OK)

    def program(self, name: str) -> str | None:
        """Return the path of a program on PATH; None if there is none."""
        return shutil.which(name)

    def run(self, command: Sequence[str]) -> CompletedCommand:
        """Run a command and return its output, or that it timed out."""
        return run_command(command, self.timeout_s)

    def probe(self, name: str, **arguments: Any) -> Any:
        """Run a module of `probes` in a child process and return its result, which is cached by name and arguments.

        Raises:
            ProbeError: The probe crashed or timed out.
        """
        key = json.dumps([name, arguments], sort_keys=True)
        if key not in self._results:
            self._results[key] = self.run(probe_command(name, arguments))
        command = self._results[key]
        if command.result is None:
            raise ProbeError(command.failure)
        return command.result

    def interfaces(self) -> list[str]:
        """List the names of the network interfaces."""
        return sorted(name for _, name in socket.if_nameindex())

    def is_own_address(self, address: str) -> bool:
        """Return whether an address belongs to this machine."""
        try:
            family, kind, protocol, _, endpoint = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.bind(endpoint)
        except OSError:
            return False
        return True

    def ports_in_use(self, ports: Sequence[int]) -> list[int]:
        """List the TCP ports among `ports` that cannot be bound."""
        return [port for port in ports if _is_in_use(port)]

    def max_open_files(self) -> int:
        """Return the maximum number of open files per process; -1 if unlimited."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return -1 if soft == resource.RLIM_INFINITY else soft


def _is_in_use(port: int) -> bool:
    with socket.socket() as listener:
        # Without this, a port with connections in TIME_WAIT would count as in use.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            return error.errno in (errno.EADDRINUSE, errno.EACCES)
    return False
