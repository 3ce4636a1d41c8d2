"""Online DPO: how and where responses are generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mindspeed_dpo.config.settings.setting import POSITIVE, POSITIVE_FRACTION, ValueCheck, at_least, setting, within

BUILTIN, VLLM = "builtin", "vllm"
"""What generates: this package's own decoder, or vLLM in a process of its own."""
PYTHON, ANSWER_TIMEOUT_S, START_TIMEOUT_S, SLEEP = "python", "timeout_s", "start_timeout_s", "sleep"
SLEEP_LEVELS = (0, 1, 2)
"""Never, weights kept on the host, weights dropped."""
ENGINE_PROCESS_KEYS: dict[str, Any] = {PYTHON: None, ANSWER_TIMEOUT_S: 300.0, START_TIMEOUT_S: 1800.0}
"""Keys of `vllm` and `judge_vllm` that are not vLLM's, and their defaults."""
VLLM_OWN_KEYS: dict[str, Any] = {**ENGINE_PROCESS_KEYS, SLEEP: 0}
"""The same of `vllm`, whose engine may sleep."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Generation of responses by the policy."""

    rollout_engine: str = setting(
        BUILTIN,
        help="What generates: builtin is this package's decoder on the policy's tensors, vllm a vLLM process for each "
        "replica, to which the weights are sent after each update.",
        choices=(BUILTIN, VLLM),
    )
    vllm: Mapping[str, Any] | None = setting(
        None,
        help="Settings of rollout_engine=vllm: python, the interpreter that vLLM is installed in (default: that of the "
        "run); timeout_s, seconds without a completed step after which an engine is taken for hung (default 300); "
        "start_timeout_s, seconds for its start (default 1800); sleep, whether an engine on the training devices frees "
        "their memory while the actor learns: 0 never (default), 1 with its weights kept on the host, 2 without; all "
        "other names are arguments of vLLM's engine, such as gpu_memory_utilization.",
    )
    n_samples_per_prompt: int = setting(
        2,
        help="Responses sampled for each prompt; 1 (the default of MindSpeed-LLM) is read as 2.",
        unit="responses",
        check=at_least(1),
    )
    max_prompt_length: int = setting(512, help="Maximum length of a prompt.", unit="tokens", check=at_least(1))
    prompt_truncation: str = setting(
        "drop",
        help="Handling of prompts longer than max_prompt_length: drop skips the prompt, keep_last removes tokens from "
        "its start.",
        choices=("drop", "keep_last"),
    )
    temperature: float = setting(0.7, help="Sampling temperature: logits are divided by it.", check=POSITIVE)
    top_k: int = setting(
        0, help="Sample from the k most probable tokens; 0 uses all tokens.", unit="tokens", check=at_least(0)
    )
    top_p: float = setting(
        1.0,
        help="Sample from the most probable tokens with this total probability; 1 uses all tokens.",
        check=POSITIVE_FRACTION,
    )
    min_p: float = setting(
        0.0,
        help="Exclude tokens whose probability is below this fraction of the most probable token's.",
        check=within(0, 1),
    )
    repetition_penalty: float = setting(
        1.0,
        help="Divide positive and multiply negative logits of tokens that already occurred by this; 1 disables it.",
        check=POSITIVE,
    )
    num_samples_per_step: int | None = setting(
        None,
        help="Prompts per generation call of one replica; null uses all prompts of the replica.",
        unit="prompts",
        check=at_least(1),
    )
    rollout_slots: int = setting(
        64,
        help="Responses that one replica decodes concurrently; a finished response frees its slot for the next.",
        unit="responses",
        check=at_least(1),
    )
    decode_rows: int = setting(
        16,
        help="Rows of one decoding pass. A response has the bits of a pass over so many rows, so it does not depend on "
        "the others in its batch; in float32 the host leaves out rows without a response where that changes no bit.",
        unit="rows",
        check=at_least(1),
    )
    max_tokens_to_oom: int = setting(
        12000,
        help="Maximum tokens in the key-value cache of one replica; a generation call that needs more is refused.",
        unit="tokens",
        check=at_least(1),
    )
    inference_tensor_model_parallel_size: int = setting(
        derived="tensor_model_parallel_size",
        help="Tensor-parallel size of the rollout.",
        unit="devices",
        check=at_least(1),
    )
    inference_expert_model_parallel_size: int = setting(
        derived="expert-parallel size of training, or its largest usable divisor; 1 with rollout_engine=vllm",
        help="Expert-parallel size of the rollout: devices that share the experts of every layer. A multiple or a "
        "divisor of inference_tensor_model_parallel_size.",
        unit="devices",
        check=at_least(1),
    )
    num_gpus_for_train: int | None = setting(
        None,
        help="Devices of resource_pool.actor_rollout that train, counted from the first; null uses those that "
        "num_gpus_for_infer leaves.",
        unit="devices",
        check=at_least(1),
    )
    num_gpus_for_infer: int | None = setting(
        None,
        help="Devices of resource_pool.actor_rollout that only generate, counted from the last; 0 generates on the "
        "training devices, null uses those that num_gpus_for_train leaves.",
        unit="devices",
        check=at_least(0),
    )
    publish_bucket_bytes: int = setting(
        256 * 1024 * 1024,
        help="Maximum size of one transfer when weights are sent to the rollout.",
        unit="bytes",
        check=at_least(1),
    )
    rollout_staleness: int = setting(
        0,
        help="With 1, the rollout generates on its own devices for the next iteration while the actor trains on this "
        "one, with weights that are one iteration old. With 0, it waits for the new weights.",
        unit="iterations",
        check=ValueCheck(lambda value: value in (0, 1), "0 or 1"),
    )
    md5_validate: bool = setting(
        False,
        help="Compare hashes of all weights after each transfer to the rollout, and stop the run on a mismatch.",
    )
    log_samples_interval: int | None = setting(
        None,
        help="Iterations between tables of sample responses with their scores; null or 0 writes none.",
        unit="iterations",
        check=at_least(0),
        shared=True,
    )

    @property
    def greedy(self) -> RolloutConfig:
        """The settings of greedy decoding: one response of the most probable tokens, with the repetition penalty."""
        return replace(self, n_samples_per_prompt=1, temperature=1.0, top_k=1, top_p=1.0, min_p=0.0)

    @property
    def uses_vllm(self) -> bool:
        """Whether vLLM generates."""
        return self.rollout_engine == VLLM

    def vllm_setting(self, name: str) -> Any:
        """Return one of `VLLM_OWN_KEYS`, or its default."""
        value = (self.vllm or {}).get(name)
        return VLLM_OWN_KEYS[name] if value is None else value

    def vllm_arguments(self) -> dict[str, Any]:
        """Return the arguments that are passed to vLLM's engine as they are."""
        return {name: value for name, value in (self.vllm or {}).items() if name not in VLLM_OWN_KEYS}
