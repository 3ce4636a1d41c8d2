"""Flags of MindSpeed-LLM and keys of MindSpeed-RL that are not spelled as here.

All others keep their name: they are settings, or keys that `config.legacy_keys` accepts, reports or refuses.
"""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.legacy_keys import CONDITIONAL_VALUES, ROLE_KEYS, canonical_key, find_legacy_key
from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.migration.rules import KeyRule, always, becomes, combined, find_rule, none

_READS_HF = "weights in Hugging Face's and Megatron's format are read directly; give their folder as load"
_ONE_CHECKPOINT_FORMAT = "checkpoints have one format; mindspeed-dpo convert writes Hugging Face folders"
_SCHEDULE = "the length is given in steps: set {key} to this number of samples / global_batch_size"


def _first_dense_layers(value: Any) -> dict[str, Any]:
    return {} if parse_plain(value) == -1 else {"first_k_dense_replace": value}


def _wandb_project(value: Any) -> dict[str, Any]:
    return {"wandb_project": value, "use_wandb": True} if value else {}


MINDSPEED_RULES: dict[str, KeyRule] = {
    "stage": combined("stage", remark="simpo becomes stage dpo with dpo_loss_type simpo"),
    "dpo_loss_type": combined("dpo_loss_type", remark="with stage simpo it has no effect in MindSpeed-LLM"),
    "simpo_beta": combined("dpo_beta", remark="only with stage simpo; 2.5 by default"),
    "simpo_label_smoothing": combined("dpo_label_smoothing", remark="only with stage simpo"),
    "simpo_loss_type": always("only the sigmoid form of SimPO is implemented", "sigmoid"),
    "norm_topk_prob": combined(
        "norm_topk_prob",
        remark="also set without this flag: the gates are normalised there in any case, unless "
        "`moe_router_pre_softmax` is given",
    ),
    "moe_router_pre_softmax": combined("norm_topk_prob", remark="then `norm_topk_prob` decides"),
    "first_k_dense_replace": KeyRule(("first_k_dense_replace",), "-1 is none", _first_dense_layers),
    "context_parallel_algo": always(
        "it is not implemented: the heads are divided instead (Ulysses), which gives the same results",
        "ulysses_cp_algo",
    ),
    "n_group": becomes("moe_router_num_groups"),
    "topk_group": becomes("moe_router_group_topk"),
    "routed_scaling_factor": becomes("moe_router_topk_scaling_factor"),
    "router_gating_in_fp32": always("routers compute in float32"),
    "seq_aux": always("the balance loss is that of each sequence"),
    "data_path": combined("data_path", remark="several words are joined by commas"),
    "lora_load": none(
        "here it is an adapter in PEFT format; set it to such a folder, or resume_from to continue an interrupted run"
    ),
    "wandb_project": KeyRule(("wandb_project", "use_wandb"), "", _wandb_project),
    "tensorboard_dir": none("TensorBoard files are written to output_dir"),
    "train_samples": none(_SCHEDULE.format(key="train_iters")),
    "lr_decay_samples": none(_SCHEDULE.format(key="lr_decay_iters")),
    "lr_warmup_samples": none(_SCHEDULE.format(key="lr_warmup_iters")),
    "rampup_batch_size": none("every step has global_batch_size pairs"),
    "no_position_embedding": always("positions are rotary"),
    "no_check_for_nan_in_loss_and_grad": none(
        "loss and gradient norm are always checked; a step that is not finite ends the run"
    ),
    "recompute_modules": none("recompute_granularity selective recomputes attention, full whole layers"),
    "bias_*_fusion": always("kernels are chosen for each device"),
    "gemm_gradient_accumulation_fusion": always("kernels are chosen for each device"),
    "use_cp_send_recv_overlap": none("it belongs to ring attention; context parallelism is Ulysses"),
    "use_ascend_coc": none("it changes the speed only"),
    "log_throughput": always("throughput is always logged"),
    "log_params_norm": none("the norm of the weights is not logged"),
    "timing_log_level": always("the time of each phase is always logged"),
    "manual_gc": always("garbage collection is controlled in any case"),
    "ckpt_format": none(_ONE_CHECKPOINT_FORMAT),
    "dist_ckpt_format": none(_ONE_CHECKPOINT_FORMAT),
    "transformer_impl": always("the layers are those of megatron-core", "local"),
    "ai_framework": always("only PyTorch is supported", "pytorch"),
    "dataloader_type": none("no_shuffle keeps the order of the file; otherwise every epoch is shuffled"),
    "model_type_hf": none(_READS_HF),
    "enable_hf2mg_convert": none(_READS_HF),
    "mg_save_dir": none(_READS_HF),
    "enable_mg2hf_convert": none(_ONE_CHECKPOINT_FORMAT),
    "tokenizer_model": none("only Hugging Face tokenizers are supported: set tokenizer_name_or_path to a folder"),
}
"""Rules by key, in the spelling of a YAML file."""

LAUNCHER_RULES: dict[str, KeyRule] = {
    "nproc_per_node": combined("resource_pool", remark="processes of each node"),
    "nnodes": combined("resource_pool", remark="number of nodes"),
    **dict.fromkeys(
        ("m", "node_rank", "master_addr", "master_port", "worker_num", "local_worker_num", "join", "cluster_time_out"),
        always("the driver starts all processes; several nodes join a Ray cluster, see docs/cluster.md"),
    ),
    "log_dir": none("logs are written to output_dir"),
}
"""Flags of torchrun, torch.distributed.launch and msrun."""


def rule_of(key: str) -> KeyRule | None:
    """The rule of a flag or key; None if neither MindSpeed nor this project has it."""
    rule = find_rule(key, MINDSPEED_RULES)
    if rule is not None:
        return rule
    key = canonical_key(key)
    return becomes(key) if key in SETTINGS else _legacy_rule(key)


def _legacy_rule(key: str) -> KeyRule | None:
    legacy = find_legacy_key(key, ROLE_KEYS)
    if legacy is None:
        return None
    accepted = [value for value in legacy.accepted if value not in CONDITIONAL_VALUES.get(key, ())]

    def convert(value: Any) -> dict[str, Any] | str:
        plain = parse_plain(value)
        return {} if plain is None or plain in accepted else legacy.reason

    return KeyRule((), legacy.reason, convert)
