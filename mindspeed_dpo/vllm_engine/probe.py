"""A question to vLLM about a model and about arguments; runs in the interpreter that it is installed in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any


def probe() -> None:
    """Read a question from standard input and write the answer as the last line of standard output."""
    question = json.load(sys.stdin)
    # What vLLM logs while it is imported must not be mistaken for the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import vllm
    from vllm.platforms import current_platform

    found = {
        "vllm": vllm.__version__,
        "torch": version("torch"),
        "platform": current_platform.device_name or "none",
        "problems": list(_problems(question["architecture"], question["arguments"])),
    }
    answer.write(json.dumps(found) + "\n")
    answer.flush()


def _problems(architecture: str | None, arguments: dict[str, Any]) -> Iterator[str]:
    from vllm import EngineArgs, ModelRegistry
    from vllm.platforms import current_platform

    if architecture is not None and architecture not in ModelRegistry.get_supported_archs():
        yield f"it has no model {architecture}"
    if arguments.get("enable_sleep_mode") and not current_platform.is_sleep_mode_available():
        yield f"engines cannot sleep on the platform {current_platform.device_name}; remove vllm.sleep"
    try:
        EngineArgs(**arguments)
    # vLLM's checks raise errors of several types.
    except Exception as error:
        yield " ".join(str(error).split())
