"""The check of vLLM before a run takes devices: its interpreter, the model, its arguments."""

from __future__ import annotations

import logging

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.generation import PYTHON
from mindspeed_dpo.vllm_engine.engine_arguments import engine_arguments
from mindspeed_dpo.vllm_engine.interpreter import EngineInstallation, inspect_interpreter, interpreter_of
from mindspeed_dpo.weights import WeightsError
from mindspeed_dpo.weights.hf.hf_config import read_hf_config
from mindspeed_dpo.workers.setup.initial_weights import model_folder

logger = logging.getLogger(__name__)


def check_vllm(role: RoleConfig) -> EngineInstallation:
    """Check that vLLM can be imported where the rollout will run it, and that it has the model and the arguments.

    Args:
        role: Settings of the actor or of the rollout.

    Raises:
        ValueError: It cannot, or has not; with vLLM's own message where there is one.
    """
    python = interpreter_of(role.rollout.vllm_setting(PYTHON))
    found = inspect_interpreter(python, _architecture(role), engine_arguments(role, model_folder(role)))
    if found.problems:
        raise ValueError(
            f"rollout_engine=vllm: vLLM {found.vllm} of {python} refuses this run: {'; '.join(found.problems)}"
        )
    logger.info("vLLM %s with torch %s in %s generates", found.vllm, found.torch, python)
    return found


def _architecture(role: RoleConfig) -> str:
    """Return the class of the model that config.json names.

    Raises:
        WeightsError: It names none.
    """
    folder = model_folder(role)
    architectures = read_hf_config(folder).texts("architectures", ())
    if not architectures:
        raise WeightsError(f"{folder}/config.json names no architectures, by which vLLM chooses its model; add them")
    return architectures[0]
