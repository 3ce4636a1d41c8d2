"""Child processes with a timeout, after which the command and all its children are killed; the protocol of probes.

A probe gets its arguments as JSON on the command line and prints its result as one line of JSON with a prefix, since
libraries also print to standard output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import parse_json

RESULT_PREFIX = "doctor probe result: "
_DRAIN_TIMEOUT_S = 2.0
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class CompletedCommand:
    """A command that has ended.

    Example:
        CompletedCommand(255, stderr="dcmi init failed")

    Attributes:
        exit_code: Exit code; None if the command was killed at the timeout.
        stdout: Standard output.
        stderr: Standard error, or the reason why the command did not start.
        timeout_s: The timeout in seconds.
    """

    exit_code: int | None
    stdout: str = ""
    stderr: str = ""
    timeout_s: float = 0.0

    @property
    def result(self) -> Any:
        """Result of a probe; None if it failed."""
        lines = [line for line in self.stdout.splitlines() if line.startswith(RESULT_PREFIX)]
        if not lines or self.exit_code != 0:
            return None
        try:
            return parse_json(lines[-1].removeprefix(RESULT_PREFIX), "the result of a probe")
        except MalformedDataError:
            return None

    @property
    def failure(self) -> str:
        """Reason of a failure, in one line: the last line of the output."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        if self.exit_code is None:
            return f"no result within {self.timeout_s:g} s" + (f"; last output: {lines[-1]}" if lines else "")
        return lines[-1] if lines else f"exited with code {self.exit_code} without output"


def run_command(command: Sequence[str], timeout_s: float) -> CompletedCommand:
    """Run a command; at the timeout, or if this process is interrupted, kill it and its children."""
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        return CompletedCommand(127, stderr=str(error))
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return CompletedCommand(None, *_kill(process), timeout_s)
    except BaseException:
        _kill(process)
        raise
    return CompletedCommand(process.returncode, stdout, stderr)


def probe_command(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the command line of a probe."""
    return [sys.executable, "-m", f"mindspeed_dpo.doctor.probes.{name}", json.dumps(arguments)]


def probe_arguments() -> dict[str, Any]:
    """Return the arguments of the probe that runs in this process."""
    return dict(json.loads(sys.argv[1]))


def print_result(result: Any) -> None:
    """Print the result of the probe that runs in this process; it must be representable in JSON."""
    sys.stdout.write(f"\n{RESULT_PREFIX}{json.dumps(result)}\n")
    sys.stdout.flush()


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child, which can import the package from any working directory."""
    path = [_ROOT, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    return {**env, "PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"}


def _kill(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Kill a command and its children and return what they printed until then."""
    # The command was started as the leader of its own session, so the process group contains only its children.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=_DRAIN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # A process that left the group still holds the pipes; do not wait for it.
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return "", ""
