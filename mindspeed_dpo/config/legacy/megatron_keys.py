"""Keys of MindSpeed-LLM and MindSpeed-RL files that are no settings here, and what each of them gets.

A value that says what holds anyway is accepted in silence. Any other value is either reported as having no effect, or
stops the run, always with the reason. Keys of online DPO are in `online_keys`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LegacyKey:
    """A key that is known but is no setting.

    Attributes:
        why: The reason, finishing "has no effect: …" or "is refused: …".
        refused: Values other than `fine` stop the run instead of being reported.
        fine: Values accepted in silence; null always is.
    """

    why: str
    refused: bool
    fine: tuple[Any, ...]


def no_effect(why: str, *fine: Any) -> LegacyKey:
    """A key that is accepted and reported."""
    return LegacyKey(why, False, fine)


def only(why: str, *fine: Any) -> LegacyKey:
    """A key that may have the values `fine` and no other."""
    return LegacyKey(why, True, fine)


_KERNEL = no_effect("each device picks its kernels, and they do not change results")
_MOE = no_effect("mixture of experts is not implemented yet")
_SIMPO = no_effect("SimPO is dpo_loss_type: simpo, with dpo_beta and dpo_label_smoothing like every loss")
_LOADER = no_effect("rows are read in place from the preprocessed files, without loader processes or index caches")
_NEVER_PADDED = no_effect("sequences are never padded to a common length", True)

ARCHITECTURE: dict[str, LegacyKey] = {
    "use_mcore_models": only("every model is built on megatron-core", True),
    "position_embedding_type": only("only rotary positions are implemented", "rope"),
    "use_rotary_position_embeddings": only("only rotary positions are implemented", True),
    "rotary_percent": only("only full rotary embeddings are implemented", 1.0),
    "normalization": only("only RMSNorm is implemented", "RMSNorm"),
    "swiglu": only("only the gated SiLU feed-forward layer is implemented", True),
    "disable_bias_linear": only("output and feed-forward layers have no bias; see add_qkv_bias", True),
    "add_dense_bias": only("output layers have no bias", False),
    "attention_bias": only("output layers have no bias; use add_qkv_bias for the query, key and value bias", False),
    "attention_dropout": only("dropout is not implemented: it would make policy and reference differ", 0.0),
    "hidden_dropout": only("dropout is not implemented: it would make policy and reference differ", 0.0),
    "group_query_attention": no_effect("num_query_groups alone decides", True),
    "multi_latent_attention": only("multi-latent attention is not implemented yet", False),
    "qk_pos_emb_head_dim": no_effect("multi-latent attention is not implemented yet"),
    "qk_head_dim": no_effect("multi-latent attention is not implemented yet"),
    "cp_attention_mask_type": only("attention is causal", "causal", "general"),
    "spec": no_effect("the layers follow from the model's settings"),
}

KERNELS: dict[str, LegacyKey] = {
    "attention_softmax_in_fp32": no_effect("the softmax of attention is always computed in float32", True),
    "no_masked_softmax_fusion": _KERNEL,
    "no_gradient_accumulation_fusion": _KERNEL,
    "use_flash_attn": _KERNEL,
    "use_fused_rmsnorm": _KERNEL,
    "use_fused_swiglu": _KERNEL,
    "use_fused_rotary_pos_emb": _KERNEL,
    "use_mc2": no_effect("the predecessors switched it off as well"),
    "reuse_fp32_param": no_effect("weights and their float32 copies are kept apart", False),
    "swap_attention": no_effect("activations are not moved to the host; use recompute_granularity", False),
    "initial_loss_scale": no_effect("only float16 needs a loss scale"),
    "optimizer": only("only Adam with decoupled weight decay is implemented", "adam"),
    "optimizer_selection": no_effect("each device picks its Adam kernel"),
}

PARALLELISM: dict[str, LegacyKey] = {
    "expert_model_parallel_size": only("expert parallelism is not implemented yet", 1),
    "expert_tensor_parallel_size": only("expert parallelism is not implemented yet", 1),
    "num_layer_list": only("stages of unequal depth are not implemented yet", ""),
    "noop_layers": only("empty layers are not implemented yet", ""),
    "use_tp_pp_dp_mapping": only("this order of ranks is not implemented yet", False),
}

EXPERTS: dict[str, LegacyKey] = {
    "num_experts": only("mixture of experts is not implemented yet", 0),
    **dict.fromkeys(
        (
            "moe_router_topk",
            "moe_ffn_hidden_size",
            "moe_grouped_gemm",
            "moe_token_dispatcher_type",
            "moe_router_load_balancing_type",
            "moe_aux_loss_coeff",
            "norm_topk_prob",
            "n_shared_experts",
            "shared_expert_gate",
            "first_k_dense_replace",
            "moe_layer_freq",
            "moe_tp_extend_ep",
            "moe_permutation_async_comm",
            "moe_alltoall_overlap_comm",
            "use_fused_moe_token_permute_and_unpermute",
        ),
        _MOE,
    ),
}

DATA: dict[str, LegacyKey] = {
    "is_instruction_dataset": no_effect("the stage decides which data is read", True, False),
    "is_pairwise_dataset": no_effect("stage dpo always reads pairs", True),
    "variable_seq_lengths": _NEVER_PADDED,
    "no_shared_storage": no_effect("only the pre-training data of the predecessors read it"),
    "num_workers": _LOADER,
    "padded_samples": no_effect("every optimizer step has exactly global_batch_size pairs", False),
    "full_shuffle_instruction_dataset": no_effect("each epoch is shuffled by itself", False),
    "no_cut_token": no_effect("the key truncation decides what happens to long rows", False),
    "cut_max_seqlen": no_effect("the key truncation decides what happens to long rows", False),
    "reset_position_ids": no_effect("positions restart for every pair anyway"),
    "neat_pack": no_effect("micro-batches are always packed, and pairs never see each other"),
    "reset_attention_mask": no_effect("pairs never see each other anyway"),
    "tokenizer_not_use_fast": no_effect("training reads tokens, not text"),
    "tokenizer_padding_side": no_effect("sequences are never padded to a common length"),
    "refer_model_iter": no_effect("ref_model names the checkpoint itself"),
    "exit_on_missing_checkpoint": no_effect("a missing checkpoint always stops the run", True),
}

OTHER_METHODS: dict[str, LegacyKey] = {
    "lora_ckpt_filter": no_effect("with adapters a checkpoint always holds them and not the weights beneath", True),
    "lora_fusion": no_effect("it overlaps communication with computation and does not change results", False),
    "lora_modules_to_save": only("beside adapters no other weights are trained", []),
    "qlora": only("4-bit base weights are not implemented", False),
    "qlora_save_dequantize": only("4-bit base weights are not implemented", False),
    "simpo_beta": _SIMPO,
    "simpo_loss_type": _SIMPO,
    "simpo_label_smoothing": _SIMPO,
}

ROLE_KEYS: dict[str, LegacyKey] = {
    **ARCHITECTURE,
    **KERNELS,
    **PARALLELISM,
    **EXPERTS,
    **DATA,
    **OTHER_METHODS,
}
"""LegacyKey keys of `training`, `megatron_training`, the roles and model files."""

_PROFILE = no_effect("profiling is not implemented yet")
PROFILER: dict[str, LegacyKey] = {
    "profile": only("profiling is not implemented yet", False),
    **dict.fromkeys(
        (
            "role",
            "stage",
            "mstx_only",
            "profile_save_path",
            "profile_level",
            "profile_export_type",
            "profile_step_start",
            "profile_step_end",
            "profile_ranks",
            "profile_with_memory",
            "profile_record_shapes",
            "profile_with_cpu",
            "profile_with_npu",
            "profile_with_module",
            "profile_with_stack",
            "profile_analysis",
        ),
        _PROFILE,
    ),
}
"""LegacyKey keys of `profiler_config.integrated`."""
