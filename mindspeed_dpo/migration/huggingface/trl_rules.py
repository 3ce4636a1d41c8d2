"""Keys of `trl dpo`: DPOConfig, ScriptArguments and ModelConfig of TRL 1.16, TrainingArguments of transformers."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.migration.huggingface.trainer_values import FULL_RECOMPUTE
from mindspeed_dpo.migration.rules import KeyRule, always, becomes, combined, none

_LOSSES = {"aot_pair": "aot_unpaired"}
_QUANTIZATION = always("4-bit and 8-bit base weights are not implemented", False)
_QUANTIZED = none("4-bit and 8-bit base weights are not implemented")
_HUB = "upload the result of mindspeed-dpo convert with huggingface-cli"
_DEVICES = none("tensor-, pipeline-, context- and expert-parallel sizes and use_distributed_optimizer divide the model")
_NO_LOADER = "preprocessed files are memory-mapped, without loader processes"
_DATA = "it belongs to the command that makes token files"
_SEQUENCES = "micro-batches are always packed, without padding"


def _losses(value: Any) -> dict[str, Any]:
    names = value if isinstance(value, list) else str(value).replace(",", " ").split()
    return {"dpo_loss_type": [_LOSSES.get(name, name) for name in names]}


def _recompute(value: Any) -> dict[str, Any]:
    return dict(FULL_RECOMPUTE) if parse_plain(value) is True else {}


def _dtype(value: Any) -> dict[str, Any] | str:
    if str(value) in ("float16", "fp16"):
        return "float16 is not implemented; bf16: true computes in bfloat16"
    return {}


def _precision(value: Any) -> dict[str, Any] | str:
    return "float16 is not implemented; set bf16: true" if parse_plain(value) is True else {}


def _strategy(value: Any) -> dict[str, Any] | str:
    if value == "epoch":
        return "intervals are steps: pairs / global_batch_size is an epoch"
    return {} if value in ("steps", "no") else "choose steps or no"


def _steps(key: str) -> KeyRule:
    def convert(value: Any) -> dict[str, Any] | str:
        plain = parse_plain(value)
        if isinstance(plain, float) and plain < 1:
            return f"a share of the run is not possible: set {key} to steps"
        return {key: value}

    return KeyRule((key,), "", convert)


def _resume(value: Any) -> dict[str, Any] | str:
    plain = parse_plain(value)
    if plain is True:
        return "set resume_from to the output_dir of the run to continue"
    return {"resume_from": value} if plain is not False else {}


def _reference_cache(value: Any) -> dict[str, Any]:
    return {"reference": "cached"} if parse_plain(value) is True else {}


def _sync(value: Any) -> dict[str, Any]:
    return {"sync_ref_model": value, **({"reference": "live"} if parse_plain(value) is True else {})}


TRAINER_RULES: dict[str, KeyRule] = {
    "per_device_train_batch_size": combined(
        "micro_batch_size",
        "global_batch_size",
        remark="global_batch_size = per_device_train_batch_size x gradient_accumulation_steps x devices",
    ),
    "gradient_accumulation_steps": combined("global_batch_size", remark="see above"),
    "num_train_epochs": combined("num_train_epochs", remark="only without max_steps; train_iters with --rows"),
    "max_steps": combined("train_iters", remark="if it is positive"),
    "lr_scheduler_type": combined(
        "lr_decay_style", remark="linear, cosine, constant and constant_with_warmup; others have no counterpart"
    ),
    "warmup_ratio": combined("lr_warmup_fraction", remark=""),
    "warmup_steps": combined("lr_warmup_iters", remark="lr_warmup_fraction if it is below 1"),
    "learning_rate": becomes("lr"),
    "weight_decay": becomes("weight_decay"),
    "adam_beta1": becomes("adam_beta1"),
    "adam_beta2": becomes("adam_beta2"),
    "adam_epsilon": becomes("adam_eps"),
    "max_grad_norm": becomes("clip_grad"),
    "optim": always(
        "only Adam with decoupled weight decay is implemented",
        *("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw_torch_npu_fused"),
    ),
    "seed": becomes("seed"),
    "data_seed": none("seed also decides the order of the data"),
    "bf16": becomes("bf16"),
    "fp16": KeyRule((), "float16 is not implemented; set bf16: true", _precision),
    "tf32": none("float32 products are computed as the device does by default"),
    "gradient_checkpointing": KeyRule(tuple(FULL_RECOMPUTE), "", _recompute),
    "gradient_checkpointing_kwargs": always("recomputation is that of megatron-core"),
    "logging_steps": _steps("log_interval"),
    "logging_strategy": KeyRule((), "log_interval steps", _strategy),
    "logging_first_step": always("the first step is always logged"),
    "logging_dir": none("TensorBoard files are written to output_dir"),
    "save_strategy": KeyRule(
        (), "a checkpoint is always written at the end; save_interval: null for no others", _strategy
    ),
    "save_steps": _steps("save_interval"),
    "save_total_limit": becomes("keep_last_checkpoints"),
    "save_only_model": becomes("no_save_optim"),
    "eval_strategy": KeyRule((), "eval_interval steps; null or 0 for none", _strategy),
    "eval_steps": combined("eval_interval", remark="with eval_strategy steps"),
    "eval_on_start": becomes("eval_at_start"),
    "per_device_eval_batch_size": none("evaluation has the batches of training"),
    "eval_accumulation_steps": none("evaluation keeps sums only"),
    "output_dir": becomes("output_dir"),
    "overwrite_output_dir": none("an output_dir of another run is never overwritten"),
    "resume_from_checkpoint": KeyRule(("resume_from",), "true has to become the output_dir of the run", _resume),
    "load_best_model_at_end": none("set best_metric: the best checkpoint is saved and named in best.json"),
    "metric_for_best_model": none("set best_metric, such as eval/loss or eval/rewards/accuracies"),
    "greater_is_better": none("set best_metric_mode to max or min"),
    "report_to": combined("use_wandb", "use_swanlab", "use_mlflow", "tensorboard", remark=""),
    "run_name": becomes("wandb_exp_name", "swanlab_exp_name and mlflow_run_name for the other trackers"),
    "do_train": always("every run trains"),
    "do_eval": none("set eval_interval"),
    "ddp_timeout": none("set distributed_timeout_minutes"),
    "ddp_find_unused_parameters": always("gradients are reduced by megatron-core"),
    "ddp_backend": always("the backend follows from the device"),
    "deepspeed": _DEVICES,
    "fsdp": _DEVICES,
    "fsdp_config": _DEVICES,
    "accelerator_config": _DEVICES,
    "dataloader_num_workers": none(_NO_LOADER),
    "dataloader_pin_memory": none(_NO_LOADER),
    "dataloader_drop_last": always("every step has exactly global_batch_size pairs"),
    "remove_unused_columns": always("token files have only the columns that are needed"),
    "group_by_length": none("passes are filled by length in any case"),
    "torch_compile": none("layers are not compiled"),
    "neftune_noise_alpha": none("noise on embeddings is not implemented"),
    "use_liger_kernel": none("log-probabilities are always computed in chunks, without storing logits"),
    "torch_empty_cache_steps": none("memory is not released between steps"),
    "disable_tqdm": none("progress is a table on a terminal and lines otherwise"),
    "log_level": none("the log has one level"),
    "include_num_input_tokens_seen": always("tokens are always logged"),
    "push_to_hub": none(_HUB),
    "hub_*": none(_HUB),
}
"""Keys of transformers' TrainingArguments, which other trainers have as well."""

TRL_RULES: dict[str, KeyRule] = {
    "model_name_or_path": combined(
        "load", "tokenizer_name_or_path", remark="a folder; a name on the hub is downloaded first"
    ),
    "dataset_name": combined("data_path", remark="token files, which `mindspeed-dpo preprocess` makes"),
    "dataset_test_split": combined("eval_data_path", remark="with eval_strategy steps; token files as well"),
    "beta": becomes("dpo_beta"),
    "loss_type": KeyRule(("dpo_loss_type",), "the same names; aot_pair of older versions is aot_unpaired", _losses),
    "loss_weights": becomes("loss_weights"),
    "label_smoothing": becomes("dpo_label_smoothing"),
    "f_divergence_type": becomes("f_divergence_type"),
    "f_alpha_divergence_coef": becomes("f_alpha_divergence_coef"),
    "ld_alpha": becomes("ld_alpha"),
    "discopop_tau": becomes("discopop_tau"),
    "use_weighting": becomes("use_weighting"),
    "rpo_alpha": combined("dpo_loss_type", "loss_weights", remark="sft is added to the losses, with this weight"),
    "reference_free": always("set dpo_loss_type to a loss without reference: simpo, cpo or orpo", False),
    "router_aux_loss_coef": becomes("router_aux_loss_coef"),
    "precompute_ref_log_probs": KeyRule(
        ("reference",), "cached in any case unless reference is live", _reference_cache
    ),
    "precompute_ref_batch_size": none("the reference has the passes of training"),
    "sync_ref_model": KeyRule(("sync_ref_model", "reference"), "with reference live", _sync),
    "ref_model_mixup_alpha": becomes("ref_model_mixup_alpha"),
    "ref_model_sync_steps": becomes("ref_model_sync_steps"),
    "max_length": becomes("seq_length"),
    "max_prompt_length": none("prompt and response share seq_length; truncation decides what is cut"),
    "max_completion_length": none("prompt and response share seq_length; truncation decides what is cut"),
    "truncation_mode": becomes("truncation", values={"keep_start": "keep_start", "keep_end": "cut_prompt"}),
    "padding_free": none(_SEQUENCES),
    "pad_to_multiple_of": none(_SEQUENCES),
    "pad_token": none(_SEQUENCES),
    "padding_value": none(_SEQUENCES),
    "label_pad_token_id": none(_SEQUENCES),
    "disable_dropout": always("there is no dropout but that of adapters", True),
    "generate_during_eval": none("stage ray_online_dpo evaluates by generation"),
    "activation_offloading": none("activations are recomputed instead: recompute_granularity"),
    "dataset_num_proc": none(f"{_DATA}: --workers"),
    "dataset_config": none(_DATA),
    "dataset_train_split": none(f"{_DATA}, which reads split train"),
    "dataset_streaming": none(f"{_DATA}: --streaming"),
    "datasets": none(f"{_DATA}; several sets are mixed as data_path: weight,path,weight,path"),
    "tools": none(f"{_DATA}; tools are a column of the rows"),
    "ignore_bias_buffers": always("the models have none"),
    "model_revision": none("download that revision and set load to its folder"),
    "model_init_kwargs": none("the model is built from its settings"),
    "ref_model_init_kwargs": none("the reference is built like the policy"),
    "dtype": KeyRule((), "bf16: true computes in bfloat16, with float32 weights in the optimizer", _dtype),
    "torch_dtype": KeyRule((), "bf16: true computes in bfloat16, with float32 weights in the optimizer", _dtype),
    "attn_implementation": none("kernels are chosen for each device"),
    "trust_remote_code": always("models are built without code of their folder", False),
    "use_peft": combined("lora_target_modules", remark="without it the keys of LoRA have no effect"),
    "lora_r": combined("lora_r", remark="with use_peft"),
    "lora_alpha": combined("lora_alpha", remark="with use_peft"),
    "lora_dropout": combined("lora_dropout", remark="with use_peft; 0.05 by default"),
    "lora_target_modules": combined("lora_target_modules", remark="with use_peft; q_proj and v_proj by default"),
    "lora_target_parameters": combined("lora_target_parameters", remark="with use_peft"),
    "use_rslora": combined("use_rslora", remark="with use_peft"),
    "lora_modules_to_save": none("only adapters are trained"),
    "lora_task_type": always("the model is a causal one", "CAUSAL_LM"),
    "use_dora": always("DoRA is not implemented", False),
    "load_in_4bit": _QUANTIZATION,
    "load_in_8bit": _QUANTIZATION,
    "bnb_4bit_*": _QUANTIZED,
    "use_bnb_nested_quant": _QUANTIZATION,
    "config": none("convert that YAML file; keys of the command line override those of it"),
    "env": none("set environment variables in the shell"),
    **TRAINER_RULES,
}
"""Rules by key."""

TRL_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-6,
    "weight_decay": 0.0,
    "seed": 42,
    "max_length": 1024,
    "truncation_mode": "keep_start",
    "gradient_checkpointing": True,
    "save_steps": 500,
    "logging_steps": 10,
}
"""Defaults of TRL 1.16 that are others here; they are written to the file."""
