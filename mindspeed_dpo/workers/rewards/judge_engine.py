"""The vLLM engine of a judge model: its arguments, its start, and the texts it writes.

Its weights are those of its folder and are never updated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mindspeed_dpo.config.settings.generation import ANSWER_TIMEOUT_S, PYTHON, START_TIMEOUT_S
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.vllm_engine.engine_process import EngineProcess, EngineSettings
from mindspeed_dpo.vllm_engine.interpreter import interpreter_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HOST_CACHE_VARIABLE, HOST_CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE", "4"
"""On the host: the variable with the size of vLLM's cache, and its default here."""


@dataclass(frozen=True)
class JudgeText:
    """A text of a judge model: `JudgeText("It is correct. [[9]]", is_complete=True)`.

    Attributes:
        text: The text, without special tokens.
        is_complete: Whether an end token ended it, rather than its maximum length.
    """

    text: str
    is_complete: bool


class Judge(Protocol):
    """A writer of texts about questions: `JudgeEngine`, or a fake in tests."""

    def write(self, questions: Sequence[list[int]], seeds: Sequence[int]) -> list[JudgeText]:
        """Write a text for each question, all in one request.

        Args:
            questions: Token ids of each question.
            seeds: Seed of each text.
        """

    def check_alive(self) -> None:
        """Check that its process has not ended."""


def judge_arguments(settings: RewardConfig) -> dict[str, Any]:
    """Return the arguments of the judge model's engine: those that follow from keys, and those of `judge_vllm`."""
    return {
        "model": str(settings.judge_model),
        "skip_tokenizer_init": True,
        "tensor_parallel_size": settings.judge_tensor_model_parallel_size,
        # Sampling follows the settings of the run, not generation_config.json.
        "generation_config": "vllm",
        # The questions to a prompt's responses begin alike.
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        **settings.judge_vllm_arguments(),
    }


def judge_sampling(settings: RewardConfig, stop_ids: frozenset[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's sampling of a text of the judge model.

    Args:
        settings: Settings of the reward.
        stop_ids: Token ids that end a text.
    """
    return {
        **{"temperature": settings.judge_temperature, "max_tokens": settings.judge_max_new_tokens},
        **{"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0},
        **{"stop_token_ids": sorted(stop_ids), "ignore_eos": True, "logprobs": 0, "detokenize": False},
    }


class JudgeEngine:
    """The engine of a judge model in a process of its own, and the tokenizer that reads its texts."""

    def __init__(self, process: EngineProcess, tokenizer: PreTrainedTokenizerBase, sampling: Mapping[str, Any]) -> None:
        """Use a process whose engine has started.

        Args:
            process: The process.
            tokenizer: Tokenizer of the judge model.
            sampling: Arguments of vLLM's sampling.
        """
        self._process, self._tokenizer, self._sampling = process, tokenizer, dict(sampling)

    def write(self, questions: Sequence[list[int]], seeds: Sequence[int]) -> list[JudgeText]:
        """Write a text for each question; arguments as those of `Judge.write`.

        Raises:
            EngineFailure: The process ended or hung, or vLLM raised an error.
            MalformedDataError: Something else than texts has arrived.
        """
        request = {
            # The engine's own weights, which nothing has replaced.
            "version": None,
            "prompts": list(questions),
            "seeds": [[seed] for seed in seeds],
            "sampling": self._sampling,
        }
        texts = self._process.ask("generate", request).objects("responses")
        return [JudgeText(self._decoded(text.integers("tokens")), text.boolean("ended")) for text in texts]

    def check_alive(self) -> None:
        """Check that the process has not ended.

        Raises:
            EngineFailure: It has.
        """
        self._process.check_alive()

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def start_judge_process(settings: RewardConfig, log_file: Path, environment: Mapping[str, str]) -> EngineProcess:
    """Start the engine of a judge model.

    Args:
        settings: Settings of the reward.
        log_file: Receives what it writes to its standard streams.
        environment: Variables that show it its devices.

    Raises:
        EngineFailure: vLLM refuses the arguments, or the process ended or hung.
    """
    process = EngineProcess(
        EngineSettings(
            interpreter_of(settings.judge_vllm_setting(PYTHON)),
            judge_arguments(settings),
            timeout_s=float(settings.judge_vllm_setting(ANSWER_TIMEOUT_S)),
            start_timeout_s=float(settings.judge_vllm_setting(START_TIMEOUT_S)),
            log_file=log_file,
            environment=environment,
            key="judge_vllm",
            concurrency="judge_vllm.max_num_seqs",
            name="the vLLM engine of judge_model",
        )
    )
    # A rollout's engine takes its weights from this memory; here it stays empty.
    unused = os.memfd_create("weights")
    try:
        process.start((), unused)
    finally:
        os.close(unused)
    return process


def host_cache() -> dict[str, str]:
    """Return the environment variable with the size of an engine's cache on the host, that of the user if there is."""
    return {HOST_CACHE_VARIABLE: os.environ.get(HOST_CACHE_VARIABLE, HOST_CACHE_GIB)}
