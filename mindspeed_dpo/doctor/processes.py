"""Commands in processes of their own: each has a timeout, after which it and all it started are ended."""

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

ANSWER = "doctor's answer: "
"""What a probe's answer begins with, among all that libraries print."""
_LAST_WORDS_S = 2.0
_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Ran:
    """A command that has ended.

    Attributes:
        code: Its exit code; None where it was ended because it took too long.
        out: What it printed.
        err: What it printed as errors, or why it did not start.
        timeout_s: How long it was waited for.
    """

    code: int | None
    out: str = ""
    err: str = ""
    timeout_s: float = 0.0

    @property
    def answer(self) -> Any:
        """A probe's answer; None where it gave none."""
        lines = [line for line in self.out.splitlines() if line.startswith(ANSWER)]
        return json.loads(lines[-1].removeprefix(ANSWER)) if lines and self.code == 0 else None

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        if self.code is None:
            return f"no answer within {self.timeout_s:g} s" + (f"; last it said: {lines[-1]}" if lines else "")
        return lines[-1] if lines else f"ended with code {self.code} and said nothing"


def run(command: Sequence[str], timeout_s: float) -> Ran:
    """Run a command to its end, or for so long. What it started ends with it."""
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
        return Ran(127, err=str(error))
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Ran(None, *_end(process), timeout_s)
    except BaseException:
        _end(process)
        raise
    return Ran(process.returncode, out, err)


def probe_command(name: str, question: Mapping[str, Any]) -> list[str]:
    """The command line of a probe."""
    return [sys.executable, "-m", f"mindspeed_dpo.doctor.probes.{name}", json.dumps(question)]


def answer(found: Any) -> None:
    """Give a probe's answer, which JSON can hold."""
    sys.stdout.write(f"\n{ANSWER}{json.dumps(found)}\n")
    sys.stdout.flush()


def question() -> dict[str, Any]:
    """What a probe was asked."""
    return dict(json.loads(sys.argv[1]))


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """The package is found whatever the working folder is."""
    path = [_ROOT, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    return {**env, "PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"}


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a command and its children; what it had printed until then."""
    # The group is the command's own: it was started as the leader of a session.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=_LAST_WORDS_S)
    except subprocess.TimeoutExpired:
        # A process that left the group still holds the pipes, and is not waited for.
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return "", ""
