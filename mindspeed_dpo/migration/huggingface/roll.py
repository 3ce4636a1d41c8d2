"""Conversion of a DPO configuration of ROLL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.migration.huggingface.roll_rules import ROLL_RULES
from mindspeed_dpo.migration.huggingface.trainer_values import (
    FULL_RECOMPUTE,
    SCHEDULE_RULE,
    number,
    set_batch,
    set_data,
    set_length,
    set_model,
    set_trackers,
    set_warmup,
)
from mindspeed_dpo.migration.huggingface.trl import HasOptions
from mindspeed_dpo.migration.mindspeed.key_rules import rule_of
from mindspeed_dpo.migration.outcome import Migration, as_text
from mindspeed_dpo.migration.rules import apply_rule, find_rule

TOOL = "ROLL"
_TRAINING = "actor_train.training_args"
_MEGATRON = "actor_train.strategy_args.strategy_config."
MAX_DEVICES = 1 << 16
_RANGE = re.compile(r"range\(\s*(?:(\d{1,6})\s*,\s*)?(\d{1,6})\s*\)")
_PARALLEL = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")


def convert_roll(content: Mapping[str, Any], options: HasOptions) -> Migration:
    """Convert the content of a YAML file."""
    migration = Migration(f"{TOOL} YAML")
    values = _interpolated(dict(_flat(content)))
    for key, value in values.items():
        if value is not None:
            name = key.removeprefix(_MEGATRON).removeprefix("additional_configs.") if key.startswith(_MEGATRON) else key
            rule = rule_of(name) if key.startswith(_MEGATRON) else find_rule(key, ROLL_RULES)
            apply_rule(name, value, rule, migration, TOOL)
    if migration.settings.get("recompute_granularity") == "full":
        migration.settings = {**FULL_RECOMPUTE, **migration.settings}
    migration.settings.setdefault("weight_decay", 0.0)  # The default of transformers, another one than here.
    set_model(migration, as_text(values.get("pretrain", "")), options.model)
    migration.processes = options.processes or _processes(values, migration)
    _set_batch_and_schedule(values, options.num_pairs, migration)
    _set_data_and_evaluation(values, migration)
    if "track_with" in values:
        set_trackers(migration, values["track_with"], "track_with")
    return migration


def _flat(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _interpolated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `${key}` by the value of that key; anything else stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        other = values.get(match[1])
        return other if isinstance(other, str) and "$" not in other else match[0]

    return {
        key: re.sub(r"\$\{([\w.]+)\}", replaced, value) if isinstance(value, str) else value
        for key, value in values.items()
    }


def _processes(values: Mapping[str, Any], migration: Migration) -> tuple[int, ...]:
    """The devices of the mapping, filled node by node; its text is not evaluated."""
    mapping = values.get("actor_train.device_mapping")
    if isinstance(mapping, list):
        count = len(mapping)
    else:
        count = sum(int(end) - int(start or 0) for start, end in _RANGE.findall(str(mapping)))
    if not 1 <= count <= MAX_DEVICES:
        migration.to_do.append(
            f"resource_pool.actor_rollout: device_mapping={mapping} is no list or range; use --devices"
        )
        return ()
    per_node = max(1, int(number(values, "num_gpus_per_node") or count))
    full, rest = divmod(count, per_node)
    return (*(per_node,) * full, *((rest,) if rest else ()))


def _set_batch_and_schedule(values: Mapping[str, Any], num_pairs: int | None, migration: Migration) -> None:
    replica = 1
    for key in _PARALLEL:
        replica *= int(number(migration.settings, key) or 1)
    num_replicas = sum(migration.processes) // replica if migration.processes else None
    per_device = number(values, f"{_TRAINING}.per_device_train_batch_size") or 1
    accumulation = number(values, f"{_TRAINING}.gradient_accumulation_steps") or 1
    set_batch(migration, per_device, accumulation, num_replicas)
    set_length(migration, number(values, "max_steps"), number(values, f"{_TRAINING}.num_train_epochs"), num_pairs)
    style = values.get(f"{_TRAINING}.lr_scheduler_type", "linear")
    outcome = SCHEDULE_RULE.convert(style)
    if isinstance(outcome, str):
        migration.leave_out(f"lr_scheduler_type={style}", outcome)
    else:
        migration.set("lr_decay_style", outcome["lr_decay_style"], f"lr_scheduler_type={style}")
    ratio, steps = number(values, f"{_TRAINING}.warmup_ratio"), number(values, f"{_TRAINING}.warmup_steps")
    set_warmup(migration, style, ratio, steps)


def _set_data_and_evaluation(values: Mapping[str, Any], migration: Migration) -> None:
    columns = {key: as_text(values.get(f"{key}_key") or key) for key in ("chosen", "rejected")}
    map_keys = json.dumps({"prompt": "instruction", "query": "", **columns}, ensure_ascii=False)
    for key, source in (("data_path", "actor_train"), ("eval_data_path", "validation")):
        files = values.get(f"{source}.data_args.file_name")
        for file in files[:1] if isinstance(files, list) else [files] if files else []:
            set_data(migration, as_text(file), key, "AlpacaStylePairwiseHandler", map_keys, "chat_template")
        for file in files[1:] if isinstance(files, list) else []:
            migration.leave_out(f"{source}.data_args.file_name={file}", f"preprocess it as well and add it to {key}")
    steps = parse_plain(values.get("eval_steps"))
    if "eval_data_path" in migration.settings and steps:
        migration.set("eval_interval", steps, f"eval_steps={steps}")
    elif steps:
        migration.leave_out(f"eval_steps={steps}", "validation names no data")
