"""Access to the machine for the checks: variables, files, programs, ports. Tests substitute it."""

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

from mindspeed_dpo.doctor.processes import Ran, probe_command, run


class ProbeFailed(RuntimeError):
    """A process that should try something did not come to an answer; the text says why in one line."""


@dataclass
class Machine:
    """The machine this process runs on."""

    timeout_s: float

    def __post_init__(self) -> None:
        self._answers: dict[str, Any] = {}

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
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        return places[0] if places else None

    def read(self, path: str) -> str | None:
        """Return the content of a text file; None if it cannot be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """List the paths that match a pattern, sorted."""
        return sorted(glob.glob(pattern))

    def may_use(self, path: str) -> bool:
        """Return whether this user may read and write a path."""
        return os.access(path, os.R_OK | os.W_OK)

    def program(self, name: str) -> str | None:
        """Return the path of a program on PATH; None if there is none."""
        return shutil.which(name)

    def run(self, command: Sequence[str]) -> Ran:
        """Run a command and return its output, or that it timed out."""
        return run(command, self.timeout_s)

    def probe(self, name: str, **question: Any) -> Any:
        """Run a module of `probes` in a process of its own and return its result, which is cached per question.

        Raises:
            ProbeFailed: It crashed or timed out.
        """
        key = json.dumps([name, question], sort_keys=True)
        if key not in self._answers:
            self._answers[key] = self.run(probe_command(name, question))
        ran: Ran = self._answers[key]
        if ran.answer is None:
            raise ProbeFailed(ran.reason)
        return ran.answer

    def interfaces(self) -> list[str]:
        """List the names of the network interfaces."""
        return sorted(name for _, name in socket.if_nameindex())

    def is_own_address(self, address: str) -> bool:
        """Return whether an address belongs to this machine."""
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.bind(where)
        except OSError:
            return False
        return True

    def taken_ports(self, ports: Sequence[int]) -> list[int]:
        """List those of the TCP ports that cannot be bound."""
        return [port for port in ports if _is_taken(port)]

    def open_files(self) -> int:
        """Return the maximum number of open files per process; -1 for no limit."""
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
