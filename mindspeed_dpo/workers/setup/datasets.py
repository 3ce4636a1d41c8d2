"""Opens the pairs and prompts of a run: on the driver, which checks them, and on the workers, which train on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.data_fingerprint import data_fingerprint, prompts_fingerprint
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs


def open_dataset(run: RunConfig) -> TrainEvalPairs | PromptDataset:
    """Open the dataset of a run: pairs offline, prompts online.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    return open_prompts(run.actor) if run.is_online else open_pairs(run)


def open_pairs(run: RunConfig) -> TrainEvalPairs:
    """Open a run's preference pairs and evaluation sets; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    loss = run.actor.loss
    train, *evaluated = [
        PreferenceDataset.open(
            data.data_path,
            seq_length=data.seq_length,
            truncation=data.truncation,
            margin_column=loss.margin_column,
            weight_column=loss.weight_column,
        )
        for data in (run.actor.data, *evaluation_data(run).values())
    ]
    return TrainEvalPairs(train, dict(zip(evaluation_data(run), evaluated, strict=True)))


def evaluation_data(run: RunConfig) -> dict[str, DataConfig]:
    """Return the data settings of the evaluation sets other than the hold-out, by name."""
    paths = run.loop.eval_data_path or {}
    return {name: replace(run.actor.data, data_path=path) for name, path in paths.items()}


def open_prompts(role: RoleConfig) -> PromptDataset:
    """Open a role's prompts; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    settings = role.rollout
    return PromptDataset.open(
        role.data.data_path, max_prompt_length=settings.max_prompt_length, truncation=settings.prompt_truncation
    )


def sampling_of(run: RunConfig, num_rows: int) -> dict[str, Any]:
    """Return all settings that decide which rows a step samples: equal for two runs only if they sample the same."""
    role = run.actor
    return {
        "global_batch_size": role.batch.global_batch_size,
        "seed": run.loop.seed,
        "rows": num_rows,
        "split": role.data.split,
        "no_shuffle": role.data.no_shuffle,
        "weights": [source.weight for source in parse_data_path(role.data.data_path)],
        "data": prompts_fingerprint(role.data, role.rollout) if run.is_online else data_fingerprint(role.data),
    }
