"""Runs of the tiny model for tests: their configuration, and a way to train without Ray on a pool of processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.config.settings.training import LoopConfig
from mindspeed_dpo.trainers.build import train_on
from mindspeed_dpo.trainers.run_inputs import open_inputs
from mindspeed_dpo.trainers.trackers import run_report
from tests.support.composing import load_quickly
from tests.support.metrics import read_metrics
from tests.support.processes import PoolGroup

ACTOR = "actor_rollout_ref.actor_rollout"
Layout = tuple[int, int, int]
"""Tensor-, pipeline- and data-parallel size."""


def tiny_run(layout: Layout = (1, 1, 1), **settings: Any) -> RunConfig:
    """The configuration of the tiny model under a layout; settings are keys of training, or of the actor."""
    tp, pp, dp = layout
    keys: dict[str, Any] = {
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "sequence_parallel": False,
        "tensorboard": False,
        "report": False,
        "eval_interval": 0,
        "split": "100,0,0",
        **settings,
    }
    processes = tp * pp * dp * settings.get("context_parallel_size", 1)
    return load_quickly("offline_dpo_trainer_tiny", [*overrides(keys), f"resource_pool.actor_rollout=[{processes}]"])


def tiny_online_run(layout: Layout = (1, 1, 1), pools: Mapping[str, Any] | None = None, **settings: Any) -> RunConfig:
    """The online configuration of the tiny model; settings as `tiny_run`, or of the reward; pools of others."""
    return load_quickly("online_dpo_trainer_tiny", online_overrides(layout, pools, **settings))


def online_overrides(layout: Layout, pools: Mapping[str, Any] | None = None, **settings: Any) -> list[str]:
    """What turns the shipped online configuration of the tiny model into a run of a test."""
    tp, pp, dp = layout
    sizes = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
    keys = {**sizes, "tensorboard": False, "report": False, **settings}
    pool_sizes = {"actor_rollout": f"[{tp * pp * dp + int(settings.get('num_gpus_for_infer', 0))}]", **(pools or {})}
    return [*overrides(keys), *(f"resource_pool.{name}={sizes}" for name, sizes in pool_sizes.items())]


def overrides(keys: Mapping[str, Any]) -> list[str]:
    """Command-line overrides that put each key into the section it belongs to."""
    return [f"{_section(key)}.{key}={_text(value)}" for key, value in keys.items()]


def train(run: RunConfig) -> list[dict[str, float]]:
    """Train on a pool of processes and give back what `metrics.jsonl` holds."""
    groups = {name: PoolGroup(run, sum(sizes), name) for name, sizes in run.pools.items()}
    with run_report(run) as report:
        assert train_on(open_inputs(run), groups, report) == 0
    for group in groups.values():
        group.leave()
    return read_metrics(Path(run.loop.output_dir) / "metrics.jsonl")


_TRAINING = {field.name for field in fields(LoopConfig)} | {
    "global_batch_size", "seq_length", "split", "tokenizer_name_or_path", "save_interval",
}  # fmt: skip


_REWARD = {field.name for field in fields(RewardConfig)}


def _section(key: str) -> str:
    return "training" if key in _TRAINING else "reward" if key in _REWARD else ACTOR


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
