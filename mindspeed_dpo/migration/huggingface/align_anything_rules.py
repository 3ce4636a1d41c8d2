"""Keys of align-anything's configs/train/text_to_text/dpo.yaml, and of the command line that overrides them."""

from __future__ import annotations

from mindspeed_dpo.migration.huggingface.trl_rules import TRAINER_RULES
from mindspeed_dpo.migration.rules import KeyRule, always, becomes, combined, none

_DATA = none("it belongs to the command that makes token files")
_LORA = "with use_lora"
_SAME = (
    *(
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
    ),
    *("learning_rate", "lr_scheduler_type", "weight_decay", "seed", "bf16", "fp16", "output_dir"),
)

ALIGN_ANYTHING_RULES: dict[str, KeyRule] = {
    **{key: TRAINER_RULES[key] for key in _SAME},
    "epochs": TRAINER_RULES["num_train_epochs"],
    "scale_coeff": becomes("dpo_beta"),
    "lr_warmup_ratio": becomes("lr_warmup_fraction"),
    "adam_betas": combined("adam_beta1", "adam_beta2", remark=""),
    "adam_epsilon": becomes("adam_eps"),
    "regularization": none("only reward models use it there; center_rewards_coefficient is its counterpart"),
    "ds_cfgs": TRAINER_RULES["deepspeed"],
    "eval_strategy": none("set eval_interval and eval_data_path; align-anything evaluates nothing for DPO"),
    "eval_interval": none("set eval_interval and eval_data_path; align-anything evaluates nothing for DPO"),
    "train_datasets": combined("data_path", remark="token files, which `mindspeed-dpo preprocess` makes"),
    "train_*": _DATA,
    "eval_*": _DATA,
    "log_type": combined("use_wandb", "tensorboard", remark=""),
    "log_project": becomes("wandb_project"),
    "log_run_name": becomes("wandb_exp_name"),
    "cache_dir": none("nothing is downloaded"),
    "save_interval": becomes("save_interval"),
    "save_total_limit": becomes("keep_last_checkpoints"),
    "model_name_or_path": combined(
        "load", "tokenizer_name_or_path", remark="a folder; a name on the hub is downloaded first"
    ),
    "model_max_length": becomes("seq_length"),
    "trust_remote_code": none("models are built without code of their folder"),
    "use_lora": combined("lora_target_modules", remark="without it the keys of LoRA have no effect"),
    "r": combined("lora_r", remark=_LORA),
    "lora_alpha": combined("lora_alpha", remark=_LORA),
    "lora_dropout": combined("lora_dropout", remark=_LORA),
    "target_modules": combined("lora_target_modules", remark=_LORA),
    "task_type": always("the model is a causal one"),
    "inference_mode": always("adapters are trained", False),
    "save_full_model": none("mindspeed-dpo convert merges adapters into the model"),
    "use_bnb": always("4-bit and 8-bit base weights are not implemented", False),
    "load_in_4bit": always("it has no effect without use_bnb"),
    "load_in_8bit": always("it has no effect without use_bnb"),
    "bnb_4bit_*": always("it has no effect without use_bnb"),
    "special_tokens": none("add them to the tokenizer's folder"),
}
"""Rules by key, without its section."""

ALIGN_ANYTHING_DEFAULTS = {
    "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine",
    "lr_warmup_ratio": 0.03,
    "weight_decay": 0.01,
    "adam_betas": [0.9, 0.95],
    "seed": 42,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
    "gradient_checkpointing": True,
    "epochs": 3,
    "bf16": True,
    "scale_coeff": 0.1,
    "model_max_length": 2048,
    "save_interval": 100000,
}
"""Values of the file, which a command line overrides."""
