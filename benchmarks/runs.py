"""Configurations of the measured runs, written as a user would, for the files of `workload`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from workload import MAX_LENGTH, Size

from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.config.run import RunConfig

Tree = dict[str, Any]


def offline_run(folder: Path, size: Size, keys: Tree, processes: int = 1, **loop: Any) -> RunConfig:
    """Return the settings of an offline run on pairs.

    Args:
        folder: Folder that `prepare` filled.
        size: Size of the model.
        keys: Settings of the actor.
        processes: Number of processes.
        loop: Settings of the section `training`.
    """
    own = {
        "data_path": str(folder / "pairs"), "truncation": "keep_start",
        "reference_cache_dir": str(folder / "reference"), **keys,
    }  # fmt: skip
    return _loaded(folder, size, own, {}, processes, {"stage": "dpo", "eval_interval": 0, **loop})


def online_run(folder: Path, size: Size, keys: Tree, reward: str, processes: int = 1, **loop: Any) -> RunConfig:
    """Return the settings of an online run with the reward function `reward`; arguments as in `offline_run`."""
    own = {"data_path": str(folder / "prompts"), "max_tokens_to_oom": 1_000_000, **keys}
    return _loaded(
        folder, size, own, {"reward": {"reward_functions": [reward]}}, processes, {"stage": "ray_online_dpo", **loop}
    )


def _loaded(folder: Path, size: Size, keys: Tree, sections: Tree, processes: int, loop: Tree) -> RunConfig:
    training = {
        "seq_length": MAX_LENGTH, "split": "100,0,0", "save_interval": 1_000_000_000,
        "device": "cpu", "distributed_backend": "gloo", "tensorboard": False,
        "tokenizer_type": "PretrainedFromHF", "tokenizer_name_or_path": str(folder / "hf"),
        "output_dir": str(folder / "run"), **loop,
    }  # fmt: skip
    actor = {
        "model": "bench", "load": str(folder / "hf"), "finetune": True, "no_shuffle": True,
        "dpo_loss_type": "sigmoid", "dpo_beta": 0.1, "lr": 1e-6, "lr_decay_style": "constant", "weight_decay": 0.0,
        **keys,
    }  # fmt: skip
    tree = {
        "defaults": [{"model": ["bench"]}],
        "training": training,
        "actor_rollout_ref": {"actor_rollout": actor},
        **sections,
        "resource_pool": {"actor_rollout": [processes]},
    }
    configs = folder / "configs"
    model = {"bench": size.megatron_keys()}
    for path, content in ((configs / "model" / "bench.yaml", model), (configs / "bench.yaml", tree)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_run("bench", [], configs)
