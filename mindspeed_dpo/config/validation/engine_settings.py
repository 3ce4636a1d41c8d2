"""Rules that hold for the settings of any vLLM engine: the rollout's in `vllm`, the judge model's in `judge_vllm`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.settings.generation import ANSWER_TIMEOUT_S, PYTHON, START_TIMEOUT_S


def check_engine_settings(
    key: str,
    arguments: Collection[str],
    setting: Callable[[str], Any],
    arguments_of_keys: Mapping[str, str],
    fixed_arguments: Collection[str],
) -> Iterator[Violation]:
    """Check the arguments that the engine is given, and how its process is started.

    Args:
        key: The key that contains the settings.
        arguments: Names of the engine's arguments among them.
        setting: Returns one of the others by name.
        arguments_of_keys: Arguments that follow from a key of this project, and the key.
        fixed_arguments: Arguments that this project chooses.
    """
    for name in arguments:
        if name in arguments_of_keys:
            yield Violation((key,), f"sets {name}, which follows from {arguments_of_keys[name]}; set that key")
        elif name in fixed_arguments:
            yield Violation((key,), f"sets {name}, which this trainer chooses; remove it")
    if not isinstance(setting(PYTHON), str | None):
        yield Violation((key,), f"must give the path of an interpreter as {PYTHON}")
    for name in (ANSWER_TIMEOUT_S, START_TIMEOUT_S):
        value = setting(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            yield Violation((key,), f"must give a positive number of seconds as {name}")
