"""Rules about vLLM as the engine that generates, and notes on what it does not promise."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Issues, Violation
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.generation import (
    SLEEP,
    SLEEP_LEVELS,
    VLLM,
    RolloutConfig,
)
from mindspeed_dpo.config.settings.pair_selection import DPO
from mindspeed_dpo.config.validation.engine_settings import check_engine_settings

ARGUMENTS_OF_KEYS = {
    "model": "load",
    "tokenizer": "tokenizer_name_or_path",
    "dtype": "bf16",
    "max_model_len": "seq_length",
    "max_num_seqs": "rollout_slots",
    "tensor_parallel_size": "inference_tensor_model_parallel_size",
    "enable_expert_parallel": "inference_expert_model_parallel_size",
    "data_parallel_size": "num_gpus_for_infer",
    "pipeline_parallel_size": "inference_tensor_model_parallel_size",
    "seed": "seed",
    "enable_sleep_mode": "vllm.sleep",
}
"""Arguments of vLLM's engine that follow from a key of this project, and the key."""
FIXED_ARGUMENTS = (
    "skip_tokenizer_init",
    "load_format",
    "logprobs_mode",
    "quantization",
    "enable_lora",
    "distributed_executor_backend",
)
"""Arguments that the transfer of weights and the log-probabilities depend on."""
UNUSED_KEYS = ("decode_rows", "max_tokens_to_oom")
NOTES = (
    "rollout_engine=vllm: the sampled tokens depend on seed, sample number and response index, but vLLM does not "
    "promise the same bits in other batches, on other devices or after resuming; rollout/logp_diff measures how far "
    "its log-probabilities are from the actor's",
)


def check_vllm(run: RunConfig, issues: Issues) -> None:
    """Apply the rules about `rollout_engine` and `vllm`, and add notes."""
    rollout = run.actor.rollout
    if not rollout.uses_vllm:
        if rollout.vllm:
            issues.add_note(f"vllm has no effect: rollout_engine={rollout.rollout_engine}")
        return
    issues.add_violations(_check_vllm(run), run.actor, run)
    for note in (*NOTES, *_notes(run)):
        issues.add_note(note)


def _check_vllm(run: RunConfig) -> Iterator[Violation]:
    rollout = run.actor.rollout
    yield from check_engine_settings(
        "vllm", rollout.vllm_arguments(), rollout.vllm_setting, ARGUMENTS_OF_KEYS, FIXED_ARGUMENTS
    )
    yield from _check_sleep(run)
    if run.actor.pairing.online_method != DPO:
        yield Violation(
            ("rollout_engine", "online_method"),
            f"cannot be combined with online_method={run.actor.pairing.online_method}, which samples from a second "
            "model; set builtin",
        )
    if run.loop.evaluates and not run.starts_as_reference:
        yield Violation(
            ("rollout_engine", "eval_interval"),
            "cannot generate responses of a reference that the policy does not start as, which evaluations compare "
            "with; set builtin, or eval_interval=null",
        )
    ep, tp = rollout.inference_expert_model_parallel_size, rollout.inference_tensor_model_parallel_size
    if ep not in (1, tp):
        yield Violation(
            ("inference_expert_model_parallel_size", "rollout_engine", "inference_tensor_model_parallel_size"),
            f"must be 1 or inference_tensor_model_parallel_size={tp} with rollout_engine={VLLM}, which divides experts "
            "over the devices of one engine",
        )


def _check_sleep(run: RunConfig) -> Iterator[Violation]:
    level = run.actor.rollout.vllm_setting(SLEEP)
    if isinstance(level, bool) or level not in SLEEP_LEVELS:
        yield Violation(("vllm",), f"must give 0, 1 or 2 as {SLEEP}")
    elif level and run.pool_of("rollout") != run.pool_of("actor"):
        yield Violation(
            ("vllm", "num_gpus_for_infer"),
            f"lets engines sleep on devices of their own, where nothing else needs their memory; remove {SLEEP}",
        )


def _notes(run: RunConfig) -> Iterator[str]:
    rollout, defaults = run.actor.rollout, RolloutConfig()
    for key in UNUSED_KEYS:
        if getattr(rollout, key) != getattr(defaults, key):
            yield f"{key} has no effect with rollout_engine={VLLM}, which plans its passes and its cache itself"
    if rollout.min_p and (rollout.top_p < 1 or rollout.top_k):
        yield (
            f"rollout_engine={VLLM} applies min_p before top_k and top_p, builtin after them: together they may "
            "exclude other tokens"
        )
