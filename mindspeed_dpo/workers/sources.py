"""What a role reads from disk, opened the same way by the driver, which checks it, and by the workers, who use it."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.dataset import PreferenceDataset, PromptDataset
from mindspeed_dpo.data.reference_cache import data_fingerprint
from mindspeed_dpo.data.splits import parse_data_path
from mindspeed_dpo.models.weights import WeightSource, open_weights


def open_dataset(role: RoleConfig) -> PreferenceDataset:
    """The role's preference pairs; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    data = role.data
    return PreferenceDataset.open(data.data_path, seq_length=data.seq_length, truncation=data.truncation)


def open_prompts(role: RoleConfig) -> PromptDataset:
    """The role's prompts; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    settings = role.rollout
    return PromptDataset.open(
        role.data.data_path, max_prompt_length=settings.max_prompt_length, truncation=settings.prompt_truncation
    )


def open_initial_weights(role: RoleConfig) -> WeightSource | None:
    """The weights the role starts from, or None where they are drawn at random."""
    if role.checkpoint.random_init:
        return None
    source = open_weights(str(role.checkpoint.load))
    source.loosely = role.checkpoint.load_checkpoint_loosely
    return source


def sampling_of(role: RoleConfig, seed: int, num_rows: int) -> dict[str, Any]:
    """All that decides which rows a step takes: equal for two runs exactly if they take the same ones."""
    return {
        "global_batch_size": role.batch.global_batch_size,
        "seed": seed,
        "rows": num_rows,
        "split": role.data.split,
        "no_shuffle": role.data.no_shuffle,
        "weights": [source.weight for source in parse_data_path(role.data.data_path)],
        "data": data_fingerprint(role.data),
    }
