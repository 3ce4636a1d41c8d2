"""A small configuration as a plain tree; its resolved run, and its problems."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import check
from mindspeed_dpo.config.loading.compose import ComposedConfig
from mindspeed_dpo.config.run import RunConfig

Tree = dict[str, Any]
NOON = datetime(2026, 1, 31, 12, 0, 0)

_TREE: Tree = {
    "model": {
        "small": {
            "num_layers": 4,
            "hidden_size": 64,
            "ffn_hidden_size": 176,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "vocab_size": 262,
            "make_vocab_size_divisible_by": 1,
            "max_position_embeddings": 256,
        }
    },
    "training": {"stage": "dpo", "train_iters": 10, "global_batch_size": 8},
    "actor_rollout_ref": {
        "actor_rollout": {"model": "small", "micro_batch_size": 2, "load": "weights", "data_path": "pairs", "lr": 1e-3}
    },
    "resource_pool": {"actor_rollout": [2]},
}


def small_tree() -> Tree:
    """A configuration without problems, free to be changed."""
    return copy.deepcopy(_TREE)


def online_tree(**rollout: Any) -> Tree:
    """An online configuration without problems: a function scores, and all roles share two processes."""
    tree = small_tree()
    tree["training"] |= {"stage": "ray_online_dpo", "tokenizer_name_or_path": "hf", "max_prompt_length": 128}
    tree["actor_rollout_ref"]["actor_rollout"] |= {"data_path": "prompts", **rollout}
    tree["reward"] = {"reward_functions": ["package.score"]}
    return tree


def put(tree: Tree, key: str, value: Any) -> Tree:
    """Give `key` a value in the section that has it already, else in `training`."""
    actor, model = tree["actor_rollout_ref"]["actor_rollout"], tree["model"]["small"]
    section: Tree = next((part for part in (actor, model) if key in part), tree["training"])
    section[key] = value
    return tree


def resolved(
    tree: Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
    exists: Callable[[str], bool] = lambda path: True,
) -> RunConfig:
    """The run of a tree, as if every path existed."""
    return check(ComposedConfig("small_run", dict(tree), dict(overrides or {})), exists=exists, now=NOON)


def problems(tree: Mapping[str, Any], exists: Callable[[str], bool] = lambda path: True) -> list[str]:
    """The problems of a tree."""
    try:
        resolved(tree, exists=exists)
    except ConfigError as actual:
        return list(actual.problems)
    return []
