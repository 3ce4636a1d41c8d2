"""Conversion of a TRL command line, `trl dpo --model_name_or_path …`, or of the YAML file of its `--config`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.config.name_suggestions import normalize_key
from mindspeed_dpo.migration.huggingface.trainer_values import (
    SCHEDULE_RULE,
    number,
    set_batch,
    set_data,
    set_length,
    set_model,
    set_trackers,
    set_warmup,
)
from mindspeed_dpo.migration.huggingface.trl_rules import TRL_DEFAULTS, TRL_RULES
from mindspeed_dpo.migration.mindspeed.scripts import processes_of
from mindspeed_dpo.migration.outcome import Migration, as_text
from mindspeed_dpo.migration.rules import apply_rules
from mindspeed_dpo.migration.shell.command_line import CommandLine

PROGRAM = re.compile(r"trl dpo|trl\.scripts\.dpo|(?:.*/)?dpo[\w-]*\.py", re.DOTALL)
TOOL = "TRL"
_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "use_rslora")
_LISTS = ("loss_type", "loss_weights", "lora_target_modules", "lora_target_parameters", "report_to")
_LAUNCHER_KEYS = ("num_processes", "num_machines", "accelerate_config", "config_file", "nproc_per_node", "nnodes")


class HasOptions(Protocol):
    """The additions of a user to a file: the number of pairs, processes and the model."""

    @property
    def num_pairs(self) -> int | None:
        """Rows of the training data."""

    @property
    def processes(self) -> tuple[int, ...]:
        """Processes of each node."""

    @property
    def model(self) -> str:
        """Name of a shipped model file."""


def convert_command(command: CommandLine, options: HasOptions) -> Migration:
    """Convert a command: the flags of its launcher give the number of devices."""
    values = {normalize_key(name): _value(normalize_key(name), words) for name, words in command.flags.items()}
    launcher = {normalize_key(name): words for name, words in command.launcher_flags.items()}
    launcher |= {key: command.flags[key] for key in _LAUNCHER_KEYS if key in command.flags}
    migration = Migration(f"{TOOL} command line")
    _set_processes(launcher, migration, options)
    _convert({key: value for key, value in values.items() if key not in _LAUNCHER_KEYS}, migration, options)
    if command.positional:
        migration.leave_out(" ".join(command.positional), "these words belong to no flag")
    return migration


def convert_yaml(content: Mapping[str, Any], options: HasOptions) -> Migration:
    """Convert the content of a YAML file."""
    migration = Migration(f"{TOOL} YAML", processes=options.processes)
    _convert({normalize_key(key): value for key, value in content.items() if value is not None}, migration, options)
    return migration


def _value(key: str, words: list[str]) -> Any:
    if not words:
        return True
    return words if key in _LISTS and len(words) > 1 else " ".join(words)


def _set_processes(launcher: dict[str, list[str]], migration: Migration, options: HasOptions) -> None:
    processes = processes_of(launcher, "nproc_per_node", "nnodes")
    total = processes_of(launcher, "num_processes", "num_machines")
    if total and not processes:
        processes = (total[0] // len(total),) * len(total)
    migration.processes = options.processes or processes
    for key in ("accelerate_config", "config_file"):
        if key in launcher:
            migration.leave_out(f"{key}={' '.join(launcher[key])}", "it is not read; use --devices for its processes")


def _convert(values: Mapping[str, Any], migration: Migration, options: HasOptions) -> None:
    values = _without_negations(values)
    apply_rules(values, TRL_RULES, migration, TOOL)
    defaults = {key: value for key, value in TRL_DEFAULTS.items() if key not in values}
    apply_rules(defaults, TRL_RULES, migration, TOOL)
    if "fp16" not in values and "bf16" not in values:
        migration.set("bf16", True)
    if defaults:
        written = ", ".join(f"{key}={as_text(value)}" for key, value in defaults.items())
        migration.changed.append(("not given", written, "the defaults of TRL"))
    set_model(migration, as_text(values.get("model_name_or_path", "")), options.model)
    num_replicas = sum(migration.processes) or None
    accumulation = number(values, "gradient_accumulation_steps", 1) or 1
    set_batch(migration, number(values, "per_device_train_batch_size", 8) or 8, accumulation, num_replicas)
    max_steps, epochs = number(values, "max_steps"), number(values, "num_train_epochs")
    has_steps = max_steps is not None and max_steps > 0
    set_length(migration, max_steps, epochs if has_steps or epochs is not None else 3.0, options.num_pairs)
    _set_schedule(values, migration)
    _set_losses(values, migration)
    _set_adapters(values, migration)
    _set_data_and_evaluation(values, migration)
    _drop_saves(values, migration)
    if "report_to" in values:
        set_trackers(migration, values["report_to"], "report_to")


def _without_negations(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read `--no_name` as `name` false, as transformers' parser does."""
    return {
        key[3:] if _is_negation(key, value) else key: False if _is_negation(key, value) else value
        for key, value in values.items()
    }


def _is_negation(key: str, value: Any) -> bool:
    return key.startswith("no_") and key not in TRL_RULES and key[3:] in TRL_RULES and value is True


def _set_schedule(values: Mapping[str, Any], migration: Migration) -> None:
    style = values.get("lr_scheduler_type", "linear")
    if "lr_scheduler_type" in values:
        outcome = SCHEDULE_RULE.convert(style)
        if isinstance(outcome, str):
            migration.leave_out(f"lr_scheduler_type={style}", outcome)
        else:
            migration.set("lr_decay_style", outcome["lr_decay_style"], f"lr_scheduler_type={style}")
    set_warmup(migration, style, number(values, "warmup_ratio"), number(values, "warmup_steps"))


def _set_losses(values: Mapping[str, Any], migration: Migration) -> None:
    """Add the likelihood term of `rpo_alpha` as a loss of its own, which is what TRL 1 has in its place."""
    alpha = number(values, "rpo_alpha")
    if alpha is None:
        return
    losses = [*migration.settings.get("dpo_loss_type", ["sigmoid"]), "sft"]
    migration.set("dpo_loss_type", losses, f"rpo_alpha={alpha:g}")
    migration.set("loss_weights", [*[1.0] * (len(losses) - 1), alpha], f"rpo_alpha={alpha:g}")


def _set_adapters(values: Mapping[str, Any], migration: Migration) -> None:
    has_adapters = parse_plain(values.get("use_peft", False)) is True
    if not has_adapters:
        for key in _LORA:
            if key in values:
                migration.leave_out(f"{key}={as_text(values[key])}", "without use_peft it has no effect")
        return
    migration.changed.append(("use_peft=true", "adapters", "what is not given has the defaults of TRL and PEFT"))
    defaults = {"lora_dropout": 0.05, "lora_target_modules": ["q_proj", "v_proj"], "lora_r": 16, "lora_alpha": 32}
    for key, value in {**defaults, **{key: values[key] for key in _LORA if key in values}}.items():
        is_list = key in _LISTS and not isinstance(value, list)
        migration.set(key, as_text(value).replace(",", " ").split() if is_list else value)


def _set_data_and_evaluation(values: Mapping[str, Any], migration: Migration) -> None:
    arguments = ("DialoguePairwiseHandler", "", "chat_template")
    name = as_text(values.get("dataset_name", ""))
    if name:
        set_data(migration, name, "data_path", *arguments)
    else:
        migration.to_do.append(
            "data_path: the file names no dataset; set it to token files of mindspeed-dpo preprocess"
        )
    if values.get("eval_strategy") != "steps":
        for key in ("eval_steps", "dataset_test_split"):
            if key in values:
                migration.leave_out(f"{key}={as_text(values[key])}", "it has an effect with eval_strategy steps only")
        return
    steps = number(values, "eval_steps") or number(values, "logging_steps") or TRL_DEFAULTS["logging_steps"]
    migration.set("eval_interval", int(steps), f"eval_steps={steps:g}")
    split = as_text(values.get("dataset_test_split", "test"))
    migration.to_do.append(f"eval_data_path: save split {split} of {name or 'the dataset'} as {split}.jsonl")
    set_data(migration, f"{split}.jsonl", "eval_data_path", *arguments)


def _drop_saves(values: Mapping[str, Any], migration: Migration) -> None:
    if values.get("save_strategy") in ("no", "epoch"):
        migration.settings.pop("save_interval", None)
