"""Keys of MindSpeed-LLM and MindSpeed-RL files that are no settings here, and how each is handled.

Values that agree with what always holds are accepted silently. Any other value is reported as having no effect, or
stops the run; either way the reason is given. In the tables, `*` in a key matches any text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mindspeed_dpo.config.name_suggestions import normalize_key

ALIASES = {
    "npu_deterministic": "use_deter_comp",
    "num_moe_experts": "num_experts",
    "moe_intermediate_size": "moe_ffn_hidden_size",
    "moe_shared_expert_gate": "shared_expert_gate",
}
"""Other accepted names of settings."""


@dataclass(frozen=True)
class LegacyKey:
    """The handling of one key, for example `LegacyKey("only RMSNorm is implemented", True, ("RMSNorm",))`.

    Attributes:
        reason: The end of the message "key=value has no effect: …" or "key=value is refused: …".
        is_refused: Values that are not accepted stop the run instead of being reported.
        accepted: Values accepted silently; null always is.
    """

    reason: str
    is_refused: bool
    accepted: tuple[Any, ...]


def no_effect(reason: str, *accepted: Any) -> LegacyKey:
    """Declare a key that is reported as having no effect."""
    return LegacyKey(reason, False, accepted)


def only(reason: str, *accepted: Any) -> LegacyKey:
    """Declare a key that stops the run with any other value than those accepted."""
    return LegacyKey(reason, True, accepted)


def canonical_key(key: object) -> str:
    """The name under which a key is stored, whichever spelling the file uses."""
    return ALIASES.get(normalize_key(key), normalize_key(key))


def find_legacy_key(key: str, table: Mapping[str, LegacyKey]) -> LegacyKey | None:
    """Look up a key: first by its name, then by the patterns in their order."""
    return table.get(key) or next((table[pattern] for pattern in table if fnmatchcase(key, pattern)), None)


_KERNEL = no_effect("kernels are chosen for each device and do not change results")
_MOE_SPEED = no_effect("it changes the speed only, and experts are computed in one way")
_NO_DROPOUT = only("dropout is not implemented: it would make policy and reference differ", 0.0)
_NO_MLA = only("multi-latent attention is not implemented yet", False)
_NO_MTP = "layers that predict further tokens (MTP) are not implemented; drop_mtp_layers loads weights without them"
_NO_PADDING = no_effect("sequences are never padded to a common length", True)
_TRUNCATION = no_effect("the key truncation defines how long rows are handled", False)
_PACKED = no_effect("micro-batches are always packed, and attention never crosses pairs")
_REFERENCE_ITERATION = no_effect("ref_model is the path of the checkpoint itself")
_NO_QUANTIZATION = only("4-bit base weights are not implemented", False)

CONDITIONAL_VALUES: dict[str, tuple[Any, ...]] = {
    "context_parallel_algo": (
        *("megatron_cp_algo", "hybrid_cp_algo", "adaptive_cp_algo", "hybrid_adaptive_cp_algo"),
        "kvallgather_cp_algo",
    ),
    "distributed_backend": ("gloo",),
    "do_sample": (False,),
}
"""Values that are accepted or refused depending on settings, in addition to those in the tables below."""

LEGACY_KEYS: dict[str, dict[str, LegacyKey]] = {
    "Architecture": {
        "use_mcore_models": only("every model is built on megatron-core", True),
        "position_embedding_type": only("only rotary positions are implemented", "rope"),
        "use_rotary_position_embeddings": only("only rotary positions are implemented", True),
        "normalization": only("only RMSNorm is implemented", "RMSNorm"),
        "swiglu": only("only the SwiGLU feed-forward layer is implemented", True),
        "disable_bias_linear": only("output and feed-forward layers have no bias; see add_qkv_bias", True),
        "add_dense_bias": only("output layers have no bias", False),
        "attention_bias": only("output layers have no bias; use add_qkv_bias for query, key and value", False),
        "attention_dropout": _NO_DROPOUT,
        "hidden_dropout": _NO_DROPOUT,
        "group_query_attention": no_effect("it follows from num_query_groups", True),
        "multi_latent_attention": _NO_MLA,
        "multi_head_latent_attention": _NO_MLA,
        "qk_*head_dim": no_effect("multi-latent attention is not implemented yet"),
        "mtp_num_layers": only(_NO_MTP, 0),
        "mtp_*": no_effect(_NO_MTP),
        "*attention_mask_type": only("attention is causal", "causal", "general"),
        "spec": no_effect("the layers follow from the settings of the model"),
        "no_position_embedding": no_effect("positions are rotary", True),
    },
    "Kernels and numerics": {
        "attention_softmax_in_fp32": no_effect("the softmax of attention is always computed in float32", True),
        "no_*_fusion": _KERNEL,
        "use_flash_attn": _KERNEL,
        "use_fused_*": _KERNEL,
        "use_*mc2": no_effect("MindSpeed-LLM and MindSpeed-RL disable it as well"),
        "reuse_fp32_param": no_effect("weights and their float32 copies are stored separately", False),
        "swap_attention": no_effect("activations are not moved to host memory; use recompute_granularity", False),
        "initial_loss_scale": no_effect("only float16 needs a loss scale"),
        "optimizer": only("only Adam with decoupled weight decay is implemented", "adam"),
        "no_check_for_nan_in_loss_and_grad": no_effect(
            "loss and gradient norm are always checked; a step that is not finite ends the run"
        ),
        "optimizer_selection": no_effect("the Adam kernel is chosen for each device"),
    },
    "Parallelism": {
        "context_parallel_algo": only(
            "only Ulysses is implemented; others are accepted if context_parallel_size is 1", "ulysses_cp_algo"
        ),
        "distributed_backend": only(
            "the backend follows from the device; gloo is accepted and selects device=cpu", "auto", "nccl", "hccl"
        ),
        "expert_tensor_parallel_size": only("experts are never divided", 1),
        "num_layer_list": only("pipeline stages of unequal depth are not implemented yet", ""),
        "noop_layers": only("empty layers are not implemented yet", ""),
        "use_tp_pp_dp_mapping": only("this order of ranks is not implemented yet", False),
    },
    "Mixture of experts": {
        "moe_grouped_gemm": _KERNEL,
        "moe_permute_fusion": _KERNEL,
        **dict.fromkeys(
            (
                *("moe_permutation_async_comm", "moe_alltoall_overlap_comm", "moe_allgather_overlap_comm"),
                *("moe_fb_overlap", "moe_shared_expert_overlap", "moe_zero_memory", "moe_zero_memory_num_layers"),
                *("moe_experts_pipeline_degree", "moe_layer_recompute", "moe_token_drop_policy"),
            ),
            _MOE_SPEED,
        ),
        "moe_token_dispatcher_type": no_effect("tokens are exchanged all-to-all and never dropped"),
        "moe_router_load_balancing_type": only(
            "the only balance loss is that of each sequence; set moe_aux_loss_coeff: 0 for none",
            *("aux_loss", "seq_aux_loss", "none"),
        ),
        "moe_router_dtype": no_effect("routers compute in float32", "fp32"),
        **dict.fromkeys(
            ("moe_expert_capacity_factor", "moe_pad_expert_input_to_capacity", "moe_token_dropping"),
            only("no token is dropped", False),
        ),
        **dict.fromkeys(
            ("moe_device_level_aux_loss_coeff", "moe_comm_aux_loss_coeff", "moe_input_jitter_eps"),
            only("it is not implemented", 0.0),
        ),
    },
    "Data and checkpoints": {
        "is_instruction_dataset": no_effect("the stage defines which data is read", True, False),
        "is_pairwise_dataset": no_effect("stage dpo always reads pairs", True),
        "variable_seq_lengths": _NO_PADDING,
        "no_pad_to_seq_lengths": _NO_PADDING,
        "no_shared_storage": no_effect("MindSpeed-LLM uses it only for pre-training data"),
        "log_throughput": no_effect("throughput is always logged"),
        "num_workers": no_effect("preprocessed files are memory-mapped, without loader processes or index caches"),
        "padded_samples": no_effect("every optimizer step has exactly global_batch_size pairs", False),
        "full_shuffle_instruction_dataset": no_effect("each epoch is shuffled separately", False),
        "no_cut_token": _TRUNCATION,
        "cut_max_seqlen": _TRUNCATION,
        "reset_position_ids": no_effect("positions always restart for every pair"),
        "neat_pack": _PACKED,
        "reset_attention_mask": _PACKED,
        "tokenizer_type": only(
            "only Hugging Face tokenizers are supported", "PretrainedFromHF", "HuggingFaceTokenizer"
        ),
        "tokenizer_not_use_fast": no_effect("training reads tokens, not text"),
        "tokenizer_padding_side": no_effect("sequences are never padded to a common length"),
        "refer_model_iter": _REFERENCE_ITERATION,
        "ref_model_iter": _REFERENCE_ITERATION,
        "exit_on_missing_checkpoint": no_effect("a missing checkpoint always stops the run", True),
    },
    "Other methods": {
        "lora_ckpt_filter": no_effect("with adapters a checkpoint always contains the adapters only", True),
        "lora_fusion": no_effect("it overlaps communication with computation and does not change results", False),
        "lora_modules_to_save": only("only adapters are trained with lora_target_modules", []),
        "qlora": _NO_QUANTIZATION,
        "qlora_save_dequantize": _NO_QUANTIZATION,
        "simpo_*": no_effect("use dpo_loss_type: simpo with dpo_beta and dpo_label_smoothing"),
    },
    "Generation and PPO": {
        "do_sample": only("without sampling, the responses to a prompt are identical and make no pair", True),
        "shuffle": only("it was not a key of MindSpeed-LLM either; use shuffle_minibatch", False),
        "use_kv_cache": no_effect("generation always uses a key-value cache", True),
        "verifier": only("rule-based rewards are functions; name them in reward_functions", False),
        "clip_ratio": no_effect("only PPO clips"),
        "entropy_coeff": no_effect("no loss has an entropy term"),
        "rollout_batch_size": no_effect("MindSpeed-LLM did not use it"),
        "dataset_category": no_effect("only the rule-based rewards of GRPO use it"),
    },
}
"""Keys of `training`, `megatron_training`, the roles and the model files, by title in the reference page."""

ROLE_KEYS: dict[str, LegacyKey] = {key: legacy for table in LEGACY_KEYS.values() for key, legacy in table.items()}

ALGORITHM_KEYS: dict[str, LegacyKey] = {
    **dict.fromkeys(
        ("gamma", "lam", "adv_estimator", "kl_penalty", "kl_ctrl.type", "kl_ctrl.kl_coef"),
        no_effect("only PPO and GRPO use it"),
    ),
    "missing_eos_penalty": no_effect("set it in actor_rollout_ref.actor_rollout"),
    "verifier_*": only("GRPO is not implemented", []),
    "advantage_whiten": only("GRPO is not implemented", False, 0),
}
"""Keys of section `algorithm`; a dot joins nested names."""

_PROFILER = no_effect("profiling is not implemented yet")
PROFILER_KEYS: dict[str, LegacyKey] = {
    "profile": only("profiling is not implemented yet", False),
    "profile_*": _PROFILER,
    "role": _PROFILER,
    "stage": _PROFILER,
    "mstx_only": _PROFILER,
}
"""Keys of section `profiler_config.integrated`."""
