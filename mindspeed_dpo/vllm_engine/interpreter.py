"""The interpreter that vLLM is installed in: commands and environment of processes there, and what it has of vLLM."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.device.environment_variables import ALWAYS
from mindspeed_dpo.storage.user_paths import NoHomeFolderError, expanded_text
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import parse_json_object

_PROGRAM = Path(__file__).with_name("bootstrap.py")
PROBE_TIMEOUT_S = 600.0
"""Limit for importing vLLM, which takes long from a slow disk."""
ENGINE_ENVIRONMENT = {
    # The engine runs in the process that is started, so that its end is the end of that process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    # On the host: the threads of several engines are not bound to the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Defaults of the environment of a vLLM process."""
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that belong to the trainer's libraries and process groups."""


class InterpreterProblem(ValueError):
    """The interpreter of `vllm.python` cannot run the engine; the message says what to change."""


def probe_command(python: str) -> list[str]:
    """Return the command that runs `probe.probe` in another interpreter."""
    return [python, "-u", str(_PROGRAM), "probe"]


def serve_command(python: str, descriptor: int) -> list[str]:
    """Return the command that runs `server.serve` in another interpreter, on a socket that it inherits."""
    return [python, "-u", str(_PROGRAM), "serve", str(descriptor)]


def engine_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a vLLM process: that of this one, without what the trainer sets for itself.

    Args:
        more: Variables that take precedence.
    """
    own = {variable.name: variable.value for variable in ALWAYS}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not (name in own and own[name] == value)
    }
    # The process has a folder of its own for temporary files, where what torch compiles would be lost.
    compiled = Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")
    return {**ENGINE_ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(compiled), **inherited, **more}


def interpreter_of(python: str | None) -> str:
    """Return the interpreter that the setting `python` names, by default that of this process.

    Raises:
        InterpreterProblem: Its path begins with `~` of a user who does not exist.
    """
    try:
        return sys.executable if python is None else expanded_text(python)
    except NoHomeFolderError as error:
        raise InterpreterProblem(f"python={error}") from error


@dataclass(frozen=True)
class EngineInstallation:
    """vLLM as an interpreter has it.

    Example:
        EngineInstallation("/opt/vllm/bin/python", vllm="0.32.0", torch="2.13.0+cpu", platform="cpu", problems=())

    Attributes:
        python: The interpreter.
        vllm: Version of vLLM.
        torch: Version of torch beside it.
        platform: The kind of device that vLLM uses there.
        problems: What vLLM says against arguments and model that were asked about.
    """

    python: str
    vllm: str
    torch: str
    platform: str
    problems: tuple[str, ...]


def inspect_interpreter(
    python: str,
    architecture: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    key: str = "vllm",
) -> EngineInstallation:
    """Import vLLM in an interpreter, in a process that ends again, and ask it about a model and arguments.

    Args:
        python: The interpreter.
        architecture: Class of a model, such as `Qwen3ForCausalLM`, that vLLM must have.
        arguments: Arguments of its engine, of which it must know all.
        key: The setting that names the interpreter, for errors.

    Raises:
        InterpreterProblem: There is no such interpreter, or it has no vLLM that can be imported.
    """
    question = json.dumps({"architecture": architecture, "arguments": dict(arguments or {})})
    try:
        done = subprocess.run(
            probe_command(python),
            input=question,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            env=engine_environment({}),
            check=False,
        )
    except OSError as error:
        raise InterpreterProblem(
            f"{key}.python={python} cannot be run: {error.strerror}; give the interpreter of an environment with vLLM"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InterpreterProblem(
            f"{key}.python={python}: importing vLLM took more than {PROBE_TIMEOUT_S:g} s"
        ) from error
    try:
        found = parse_json_object((done.stdout.strip().splitlines() or [""])[-1], "the probe of vLLM")
        vllm, torch, platform = (found.text(name) for name in ("vllm", "torch", "platform"))
        return EngineInstallation(python, vllm, torch, platform, found.texts("problems"))
    except MalformedDataError as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InterpreterProblem(
            f"{key}.python={python} cannot import vLLM: {last}; install vLLM there (docs/vllm.md), or name the "
            "interpreter of an environment that has it"
        ) from error
