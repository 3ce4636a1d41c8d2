"""The report of what a resumed run takes from its checkpoint, leaves out, and sets otherwise than the earlier run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.checkpoints import CheckpointConfig
from mindspeed_dpo.config.settings.setting import group_settings
from mindspeed_dpo.config.settings.trackers import TRACKER_KEYS
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import ROLLOUTS_FILE
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.trainers.resuming.resume import ResumePoint
from mindspeed_dpo.trainers.resuming.resume_checks import topology_of, weights_identity
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.yaml_text import read_yaml_mapping

CONFIG_FILE = "config.yaml"
_WITHOUT_INFLUENCE = {
    *group_settings(CheckpointConfig), *TRACKER_KEYS,
    "name", "output_dir", "log_interval", "log_samples_interval", "log_token_statistics", "reference_cache_dir",
    "ray_address", "ray_resource", "master_port", "ref_model", "data_path", "eval_data_path", "tokenizer_name_or_path",
}  # fmt: skip
"""Keys that change no number of the training, or whose content is compared instead of their path."""


def resume_lines(run: RunConfig, resume_point: ResumePoint) -> list[str]:
    """Return the report of a resumed run, one line per item of the block.

    Call it before the settings file of the earlier run is replaced.
    """
    taken, left_out = _parts(run, resume_point)
    changed = changed_settings(run, resume_point)
    lines = [
        f"resuming from {resume_point.folder}, after {resume_point.iteration} of {run.loop.train_iters} steps",
        f"  taken: {', '.join(taken)}",
        f"  left out: {', '.join(left_out) or 'nothing'}",
    ]
    if changed is None:
        return [*lines, "  settings: those of the earlier run are unknown, as its config.yaml is gone"]
    return [*lines, f"  settings that differ: {'; '.join(changed) or 'none'}"]


def changed_settings(run: RunConfig, resume_point: ResumePoint) -> list[str] | None:
    """Return each setting with an influence on training that differs, such as `lr was 1e-06, is 2e-06`.

    Returns:
        None if the settings of the earlier run are unknown.
    """
    before = resume_point.metadata.get("settings") or _settings_file(resume_point)
    if before is None:
        return None
    # Both as JSON has them.
    earlier, now = dict(_leaves(before)), dict(_leaves(json.loads(json.dumps(run.as_tree()))))
    changed = []
    for path in dict.fromkeys([*now, *earlier]):
        key = path.rpartition(".")[2]
        if earlier.get(path) != now.get(path) and key not in _WITHOUT_INFLUENCE:
            values = f"was {format_value(earlier.get(path))}, is {format_value(now.get(path))}"
            changed.append(f"{_shown(path)} {values}")
    # A role repeats the settings that it shares with the actor.
    return list(dict.fromkeys(changed))


def _parts(run: RunConfig, resume_point: ResumePoint) -> tuple[list[str], list[str]]:
    """Return the parts of the checkpoint that are loaded, and those that are not, with the reason."""
    metadata, settings = resume_point.metadata, run.actor.checkpoint
    taken, left_out = ["adapters" if metadata.get("adapters") else "weights"], []
    if resume_point.optimizer:
        taken.append("optimizer state with its step count")
    else:
        left_out.append(f"optimizer state ({'no_load_optim=true' if metadata['optimizer'] else 'not saved'})")
    if resume_point.rng:
        taken.append("random state")
    else:
        left_out.append(f"random state ({_reason_without_rng(run, resume_point)})")
    if metadata.get("follower"):
        (taken if run.actor.reference.sync_ref_model else left_out).append("weights of the updated reference")
    if (resume_point.folder / ROLLOUTS_FILE).is_file():
        is_used = run.is_online and bool(run.actor.rollout.rollout_staleness)
        (taken if is_used else left_out).append("prefetched rollouts")
    initial = metadata.get("weights", {}).get("initial")
    if initial and not metadata.get("adapters") and initial != weights_identity(run)["initial"]:
        left_out.append(f"the weights in load={settings.load}, which are not those that the earlier run began with")
    return taken, left_out


def _reason_without_rng(run: RunConfig, resume_point: ResumePoint) -> str:
    before, now = resume_point.metadata["topology"], topology_of(run)
    changed = [f"{key} was {before[key]}, is {now[key]}" for key in before if before[key] != now.get(key)]
    if changed:
        return f"it belongs to another layout: {', '.join(changed)}"
    return "no_load_rng=true" if resume_point.metadata["rng"] else "not saved"


def _settings_file(resume_point: ResumePoint) -> dict[str, Any] | None:
    """Return the settings that an earlier version wrote beside its checkpoints only."""
    for folder in (resume_point.folder.parent.parent, Path(resume_point.metadata["output_dir"])):
        if (folder / CONFIG_FILE).is_file():
            with reraised_as(CheckpointError, "move it away to resume without a comparison of settings"):
                return read_yaml_mapping(folder / CONFIG_FILE)
    return None


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and key != "eval_data_path":
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shown(path: str) -> str:
    """Return the key alone, as most keys occur once; those of pools and models keep their section."""
    return path if path.startswith(("resource_pool.", "model.")) else path.rpartition(".")[2]
