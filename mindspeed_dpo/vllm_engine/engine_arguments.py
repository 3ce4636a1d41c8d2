"""The arguments of vLLM's engine and of its sampling that follow from the settings of a rollout."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.generation import SLEEP

GIB = 1 << 30


def engine_arguments(role: RoleConfig, model_folder: Path) -> dict[str, Any]:
    """Return the arguments of vLLM's engine: those that follow from keys, and those of `vllm`.

    Args:
        role: Settings of the rollout.
        model_folder: Folder with the config.json of the model.
    """
    parallel = role.parallel
    return {
        "model": str(model_folder),
        "skip_tokenizer_init": True,
        # Weights come from the actor only, before the first prompt.
        "load_format": "dummy",
        "dtype": role.precision.dtype,
        "max_model_len": role.data.seq_length,
        "max_num_seqs": role.rollout.rollout_slots,
        "tensor_parallel_size": parallel.tensor_model_parallel_size,
        "enable_expert_parallel": parallel.expert_parallel_size > 1,
        # Of the model itself: before temperature, penalties and filters, as those of the builtin engine.
        "logprobs_mode": "raw_logprobs",
        # Sampling follows the settings of the run, not generation_config.json.
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "enable_sleep_mode": role.rollout.vllm_setting(SLEEP) > 0,
        **role.rollout.vllm_arguments(),
    }


def host_environment(role: RoleConfig) -> dict[str, str]:
    """Return environment variables of an engine on the host: a cache that holds all responses at once."""
    model = role.model
    bytes_per_token = 2 * model.num_layers * model.num_query_groups * model.kv_channels * 4
    tokens = role.rollout.rollout_slots * role.data.seq_length
    shares = role.parallel.tensor_model_parallel_size
    return {"VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(tokens * bytes_per_token / shares / GIB)))}


def sampling_arguments(role: RoleConfig, stop_ids: frozenset[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's sampling; the seed of each response comes beside them.

    Args:
        role: Settings of the rollout.
        stop_ids: Token ids that end a response.
    """
    settings = role.rollout
    return {
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
        "max_tokens": role.max_new_tokens,
        "stop_token_ids": sorted(stop_ids),
        # Only the run's own stop tokens end a response.
        "ignore_eos": True,
        # The log-probability of the sampled token, without those of others.
        "logprobs": 0,
        "detokenize": False,
    }


def response_seeds(seed: int, sample_number: int, num_responses: int) -> Sequence[int]:
    """Return the seed of each response to a prompt, a function of the run's seed and the prompt's number in the run."""
    return [_seed(f"{seed}/{sample_number}/{k}") for k in range(num_responses)]


def _seed(text: str) -> int:
    # vLLM takes 64 bits with a sign.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
