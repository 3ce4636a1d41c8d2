"""Values that trainers after transformers' Trainer combine: batch size, length, schedule, model and data."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.migration.model_files import folder_settings, is_folder, shipped_model, shipped_models
from mindspeed_dpo.migration.outcome import Migration, as_text, undefined
from mindspeed_dpo.migration.rules import becomes

MAX_NUMBER = 1e15
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
SCHEDULE_RULE = becomes("lr_decay_style", values=SCHEDULES)
FULL_RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def number(values: Mapping[str, Any], key: str, default: float | None = None) -> float | None:
    """Return the number that a key has, or the default where it is absent, no number or beyond 1e15."""
    value = parse_plain(values.get(key))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < MAX_NUMBER else default


def set_batch(migration: Migration, per_device: float, accumulation: float, num_replicas: int | None) -> None:
    """Set pairs per pass and per step; without a number of replicas, one is assumed and reported."""
    written = f"{per_device:g} pairs x {accumulation:g} passes x {num_replicas or 1} replicas"
    migration.set("micro_batch_size", int(per_device))
    migration.set("global_batch_size", int(per_device * accumulation * (num_replicas or 1)), written)
    if num_replicas is None:
        migration.to_do.append(
            "global_batch_size and resource_pool.actor_rollout: the file does not say on how many devices it runs, "
            "one is assumed; use --devices"
        )


def set_length(migration: Migration, max_steps: float | None, epochs: float | None, num_pairs: int | None) -> None:
    """Set the length of the run: the given steps, or the epochs, as steps where the number of rows is known."""
    if max_steps and max_steps > 0:
        migration.set("train_iters", int(max_steps), f"max_steps={max_steps:g}")
        if epochs is not None:
            migration.leave_out(f"num_train_epochs={epochs:g}", "max_steps is the length of the run")
        return
    if epochs is None:
        migration.to_do.append(
            "train_iters: the file gives no length of the run; set it to the number of steps, or num_train_epochs"
        )
        return
    pairs_per_step = migration.settings.get("global_batch_size")
    if num_pairs is None or not pairs_per_step:
        migration.set("num_train_epochs", epochs)
        return
    steps = max(1, math.ceil(num_pairs * epochs / pairs_per_step))
    migration.set("train_iters", steps, f"{epochs:g} epochs of {num_pairs} pairs")


def set_warmup(migration: Migration, style: Any, ratio: float | None, steps: float | None) -> None:
    """Set the warm-up; a schedule `constant` has none in transformers, whatever is given."""
    written = {"warmup_ratio": ratio, "warmup_steps": steps}
    if style == "constant":
        for key, value in written.items():
            if value:
                migration.leave_out(
                    f"{key}={value:g}", "lr_scheduler_type constant ignores it; constant_with_warmup does not"
                )
        return
    if steps:
        is_share = steps < 1
        key = "lr_warmup_fraction" if is_share else "lr_warmup_iters"
        migration.set(key, steps if is_share else int(steps), f"warmup_steps={steps:g}")
        if ratio:
            migration.leave_out(f"warmup_ratio={ratio:g}", "warmup_steps takes precedence")
    elif ratio:
        migration.set("lr_warmup_fraction", ratio, f"warmup_ratio={ratio:g}")


def set_model(migration: Migration, name: str, model: str) -> None:
    """Set the weights and the architecture of a model.

    Args:
        migration: Receives them.
        name: Folder, or name on the Hugging Face hub.
        model: Name of a shipped model file; "" to find it by `name`.
    """
    migration.set("stage", "dpo")
    if not name:
        migration.to_do.append("load: the file names no model; set load and tokenizer_name_or_path to its folder")
        migration.shipped_model = model
        return
    migration.set("load", name, f"model_name_or_path={name}")
    if undefined(name):
        return
    migration.set("tokenizer_name_or_path", name)
    if not is_folder(name):
        migration.to_do.append(f"load: download {name} and set load and tokenizer_name_or_path to its folder")
    block = None if model else folder_settings(name)
    if block is not None:
        migration.settings |= block
        return
    migration.shipped_model = model or shipped_model(name)
    if migration.shipped_model and not model:
        found = "found by its name; compare it with the config.json of the weights"
        migration.changed.append((f"model_name_or_path={name}", f"model=[{migration.shipped_model}]", found))
    if not migration.shipped_model:
        migration.to_do.append(
            f"model: the architecture of {name} is not known; give its folder with config.json, or --model with one of "
            f"{', '.join(shipped_models())}"
        )


def set_data(migration: Migration, source: str, key: str, handler: str, map_keys: str, prompt_type: str) -> None:
    """Set the path of token files, and tell the command that makes them.

    Args:
        migration: Receives the path and the command.
        source: File or name of the raw data.
        key: `data_path` or `eval_data_path`.
        handler: Handler that reads its rows.
        map_keys: Columns of the rows as JSON; "" for the handler's own.
        prompt_type: Chat template.
    """
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(source.rstrip("/")).stem) or "data"
    prefix = f"dataset/{stem}"
    migration.set(key, prefix, f"{key} {source}")
    words = ["mindspeed-dpo", "preprocess", "--input", source, "--output-prefix", prefix, "--handler-name", handler]
    words += ["--prompt-type", prompt_type, *(["--map-keys", map_keys] if map_keys else [])]
    words += ["--tokenizer-name-or-path", as_text(migration.settings.get("tokenizer_name_or_path", "FOLDER"))]
    command = f"make token files first: {shlex.join(words)}"
    if not any(command in sentence for sentence in migration.to_do):
        migration.to_do.append(f"{key}: {command}")


def set_trackers(migration: Migration, names: Any, key: str) -> None:
    """Switch trackers on; `none` and `all` of transformers mean no tracker and every installed one."""
    known = {"wandb": "use_wandb", "swanlab": "use_swanlab", "mlflow": "use_mlflow", "tensorboard": "tensorboard"}
    listed = names if isinstance(names, list) else re.split(r"[,\s]+", as_text(names).strip())
    for name in filter(None, listed):
        if name in known:
            migration.set(known[name], True, f"{key}={name}")
        elif name not in ("none", "null"):
            migration.leave_out(
                f"{key}={name}", f"trackers here are {', '.join(known)}, metrics.jsonl is always written"
            )
