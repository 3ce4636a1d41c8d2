"""Keys of ROLL's DPO configuration (roll/pipeline/dpo); a dot joins nested names."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.migration.huggingface.trl_rules import TRAINER_RULES
from mindspeed_dpo.migration.rules import KeyRule, always, becomes, combined, none

_IGNORED = "ROLL's DPO never passes it on and trains with beta 0.1, sigmoid and no smoothing; here it takes effect"
_REFERENCE = "the reference shares the policy's processes, and its log-probabilities are computed once before training"
_TRAINING = "actor_train.training_args"


def _ipo(value: Any) -> dict[str, Any]:
    return {"dpo_loss_type": "ipo", "ipo_normalize": False} if parse_plain(value) is True else {}


def _dtype(value: Any) -> dict[str, Any] | str:
    types = {"bf16": {"bf16": True}, "fp32": {"bf16": False}}
    return types.get(str(value), "only bf16 and fp32 are implemented")


ROLL_RULES: dict[str, KeyRule] = {
    "pretrain": combined("load", "tokenizer_name_or_path", remark="a folder; a name on the hub is downloaded first"),
    "beta": becomes("dpo_beta", _IGNORED),
    "label_smoothing": becomes("dpo_label_smoothing", _IGNORED),
    "ipo": KeyRule(("dpo_loss_type", "ipo_normalize"), f"ipo with sums of log-probabilities. {_IGNORED}", _ipo),
    "max_steps": combined("train_iters", remark="ROLL also ends after num_train_epochs"),
    "save_steps": becomes("save_interval"),
    "logging_steps": becomes("log_interval"),
    "eval_steps": combined("eval_interval", remark="if validation names data"),
    "resume_from_checkpoint": TRAINER_RULES["resume_from_checkpoint"],
    "seed": becomes("seed"),
    "output_dir": becomes("output_dir"),
    "max_grad_norm": becomes("clip_grad"),
    "sequence_length": becomes("seq_length", "ROLL drops longer rows, hence truncation drop", truncation="drop"),
    "chosen_key": combined("data_path", remark="`--map-keys` of `mindspeed-dpo preprocess`"),
    "rejected_key": combined("data_path", remark="`--map-keys` of `mindspeed-dpo preprocess`"),
    "global_template": combined("data_path", remark="`--prompt-type`; chat_template is the tokenizer's own"),
    "actor_train.data_args.file_name": combined(
        "data_path", remark="token files, which `mindspeed-dpo preprocess` makes"
    ),
    "actor_train.data_args.*": none("it belongs to the command that makes token files"),
    "validation.data_args.file_name": combined("eval_data_path", remark="token files as well"),
    "validation.*": none("evaluation has the model, template and batches of training"),
    "track_with": combined("use_wandb", "use_swanlab", "tensorboard", remark=""),
    "tracker_kwargs.project": becomes("wandb_project"),
    "tracker_kwargs.*": none("see the keys of trackers in docs/monitoring.md"),
    f"{_TRAINING}.per_device_train_batch_size": combined(
        "micro_batch_size",
        "global_batch_size",
        remark="pairs; global_batch_size = it x gradient_accumulation_steps x replicas",
    ),
    f"{_TRAINING}.gradient_accumulation_steps": combined("global_batch_size", remark="see above"),
    f"{_TRAINING}.lr_scheduler_type": TRAINER_RULES["lr_scheduler_type"],
    f"{_TRAINING}.warmup_steps": TRAINER_RULES["warmup_steps"],
    f"{_TRAINING}.warmup_ratio": TRAINER_RULES["warmup_ratio"],
    f"{_TRAINING}.num_train_epochs": combined(
        "num_train_epochs", remark="only without max_steps; train_iters with --rows"
    ),
    **{
        f"{_TRAINING}.{key}": TRAINER_RULES[key]
        for key in ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
    },
    f"{_TRAINING}.*": none("it is not a key of ROLL's examples; see docs/config-reference.md"),
    "actor_train.model_args.dtype": KeyRule(("bf16",), "bf16 or fp32", _dtype),
    "actor_train.model_args.disable_gradient_checkpointing": always("recompute_granularity decides"),
    "actor_train.model_args.lora_rank": becomes("lora_r"),
    "actor_train.model_args.lora_alpha": becomes("lora_alpha"),
    "actor_train.model_args.lora_target": becomes("lora_target_modules"),
    "actor_train.model_args.*": none("the model follows from its folder"),
    "actor_train.strategy_args.strategy_name": always(
        "training is that of megatron-core; parallel sizes of strategy_config are those of Megatron", "megatron_train"
    ),
    "actor_train.device_mapping": combined("resource_pool", remark="number of devices, num_gpus_per_node on each node"),
    "num_gpus_per_node": combined("resource_pool", remark=""),
    "num_nodes": always("device_mapping and num_gpus_per_node give the nodes"),
    "actor_train.infer_batch_size": none("evaluation has the batches of training"),
    "reference.*": none(_REFERENCE),
    "is_offload_states": none("states stay on the devices while they train"),
    "is_offload_optimizer_states_in_train_step": becomes("optimizer_offload"),
    "checkpoint_config.output_dir": becomes("save"),
    "checkpoint_config.*": none("checkpoints are written to a folder"),
    "exp_name": none("the name of a run is that of its configuration file"),
    "logging_dir": none("logs are written to output_dir"),
    "system_envs.*": none("set environment variables in the shell"),
    "train_batch_size": none("ROLL's DPO does not use it; see per_device_train_batch_size"),
    "val_batch_size": none("ROLL's DPO does not use it; see per_device_train_batch_size"),
    "defaults": always("files of DeepSpeed"),
    "hydra.*": always("the working directory is not changed"),
    "track_name": none("the key is track_with"),
    "local_rank": always("the driver starts all processes"),
}
"""Rules by key; those of `actor_train.strategy_args.strategy_config` are Megatron's keys."""
