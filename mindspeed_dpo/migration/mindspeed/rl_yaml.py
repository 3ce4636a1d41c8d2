"""Conversion of a DPO configuration of MindSpeed-RL, whose settings are in `megatron_training`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.legacy_keys import canonical_key, normalize_key
from mindspeed_dpo.config.settings.trackers import TRACKER_KEYS
from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.mindspeed.arguments import convert_arguments
from mindspeed_dpo.migration.model_files import model_block, shipped_model
from mindspeed_dpo.migration.outcome import Migration, as_text

TOOL = "MindSpeed-RL"


def convert_rl_yaml(content: Mapping[str, Any], path: Path) -> Migration:
    """Convert the content of a file; the model file is looked for in `model` beside it or above.

    Raises:
        MigrationError: A section is no mapping, the stage is another one, or the model file is malformed.
    """
    migration = Migration(f"{TOOL} YAML")
    training = _section(content, "megatron_training", path)
    arguments = {normalize_key(key): value for key, value in training.items()}
    model = str(arguments.pop("model", "") or "")
    block = model_block(model, path) if model else None
    if block is None:
        migration.shipped_model = shipped_model(model)
    convert_arguments({**(block or {}), **arguments}, migration, TOOL, str(path))
    for key, value in _section(content, "rl_config", path).items():
        if canonical_key(key) in TRACKER_KEYS:
            migration.set(canonical_key(key), value)
        else:
            migration.leave_out(f"rl_config.{key}={as_text(value)}", "only trackers are set there for DPO")
    for key, value in _others(content):
        migration.leave_out(f"{key}={as_text(value)}", _reason(key))
    migration.to_do.append(
        "resource_pool.actor_rollout: the processes of each node are in the launch script; use --devices"
    )
    return migration


def _section(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    block = content.get(name) or {}
    if not isinstance(block, Mapping):
        raise MigrationError(f"{path}: section {name} should contain keys and values, got {as_text(block)}")
    return block


def _others(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, block in content.items():
        if name in ("megatron_training", "rl_config", "defaults"):
            continue
        if isinstance(block, Mapping):
            yield from ((f"{name}.{key}", value) for key, value in block.items())
        else:
            yield name, block


def _reason(key: str) -> str:
    if key.startswith("profiler_config"):
        return "profiling is not implemented yet"
    return "it is not a section of DPO files; only megatron_training and rl_config are converted"
