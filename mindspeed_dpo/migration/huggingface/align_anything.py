"""Conversion of align-anything: `deepspeed --module align_anything.trainers.text_to_text.dpo …`, or its YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.config.name_suggestions import normalize_key
from mindspeed_dpo.migration.huggingface.align_anything_rules import ALIGN_ANYTHING_DEFAULTS, ALIGN_ANYTHING_RULES
from mindspeed_dpo.migration.huggingface.trainer_values import (
    SCHEDULE_RULE,
    number,
    set_batch,
    set_data,
    set_length,
    set_model,
    set_trackers,
)
from mindspeed_dpo.migration.huggingface.trl import HasOptions
from mindspeed_dpo.migration.mindspeed.scripts import processes_of
from mindspeed_dpo.migration.outcome import Migration, as_text
from mindspeed_dpo.migration.rules import apply_rules
from mindspeed_dpo.migration.shell.command_line import CommandLine

PROGRAM = re.compile(r"align_anything\.trainers\.text_to_text\.dpo(?:_\w+)?")
TOOL = "align-anything"
_SECTIONS = ("train_cfgs", "data_cfgs", "logger_cfgs", "model_cfgs", "lora_cfgs", "bnb_cfgs")
_LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
}


def convert_command(command: CommandLine, options: HasOptions) -> Migration:
    """Convert a command; what it does not give has the values of align-anything's own file."""
    migration = Migration(f"{TOOL} script", processes=processes_of(command.launcher_flags, "num_gpus", "num_nodes"))
    migration.processes = options.processes or migration.processes
    given = {normalize_key(name).split(":")[-1]: " ".join(words) or True for name, words in command.flags.items()}
    defaults = {key: value for key, value in ALIGN_ANYTHING_DEFAULTS.items() if key not in given}
    _convert({**given, **defaults}, migration, options)
    written = ", ".join(f"{key}={as_text(value)}" for key, value in defaults.items())
    migration.changed.append(("not given", written, "the values of align-anything's dpo.yaml"))
    return migration


def convert_yaml(content: Mapping[str, Any], options: HasOptions) -> Migration:
    """Convert the content of a YAML file."""
    migration = Migration(f"{TOOL} YAML", processes=options.processes)
    _convert({key: value for key, value in _leaves(content) if value is not None and value != []}, migration, options)
    return migration


def _leaves(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, block in content.items():
        if name in _SECTIONS and isinstance(block, Mapping):
            yield from ((normalize_key(key), value) for key, value in block.items())
        else:
            yield normalize_key(name), block


def _convert(values: Mapping[str, Any], migration: Migration, options: HasOptions) -> None:
    has_adapters = parse_plain(values.get("use_lora", False)) is True
    apply_rules(values, ALIGN_ANYTHING_RULES, migration, TOOL)
    set_model(migration, as_text(values.get("model_name_or_path", "")), options.model)
    accumulation = number(values, "gradient_accumulation_steps", 1) or 1
    per_device = number(values, "per_device_train_batch_size", 1) or 1
    set_batch(migration, per_device, accumulation, sum(migration.processes) or None)
    set_length(migration, None, number(values, "epochs", 1), options.num_pairs)
    _set_optimizer(values, migration)
    for key, target in _LORA.items():
        if has_adapters and key in values:
            migration.set(target, values[key], f"{key}={as_text(values[key])}")
        elif key in values:
            migration.leave_out(f"{key}={as_text(values[key])}", "without use_lora it has no effect")
    if "log_type" in values:
        set_trackers(migration, values["log_type"], "log_type")
    source = as_text(values.get("train_datasets") or "")
    if source:
        set_data(migration, source, "data_path", "BetterResponsePairwiseHandler", "", "chat_template")
    else:
        migration.to_do.append(
            "data_path: the file names no dataset; set it to token files of mindspeed-dpo preprocess"
        )


def _set_optimizer(values: Mapping[str, Any], migration: Migration) -> None:
    betas = values.get("adam_betas")
    if isinstance(betas, list) and len(betas) == 2:
        for key, value in zip(("adam_beta1", "adam_beta2"), betas, strict=True):
            migration.set(key, value, f"adam_betas={as_text(betas)}")
    style = values.get("lr_scheduler_type")
    if style is not None:
        outcome = SCHEDULE_RULE.convert(style)
        if isinstance(outcome, str):
            migration.leave_out(f"lr_scheduler_type={style}", outcome)
        else:
            migration.set("lr_decay_style", outcome["lr_decay_style"], f"lr_scheduler_type={style}")
