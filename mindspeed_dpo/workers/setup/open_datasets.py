"""Opens the pairs and prompts of a run: on the driver, which checks them, and on the workers, which train on them."""

from __future__ import annotations

from dataclasses import replace

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs, TrainEvalPrompts


def open_dataset(run: RunConfig) -> TrainEvalPairs | TrainEvalPrompts:
    """Open the dataset of a run: pairs offline, prompts online.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    return open_prompts(run) if run.is_online else open_pairs(run)


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
            ranked=run.trains_reward_model,
        )
        for data in (run.actor.data, *evaluation_data(run).values())
    ]
    pairs = TrainEvalPairs(train, dict(zip(evaluation_data(run), evaluated, strict=True)))
    _check_rankings(run, pairs.lengths().shape[1] - 1)
    return pairs


def _check_rankings(run: RunConfig, longest: int) -> None:
    """Check that settings which compare two responses are not used for more.

    Raises:
        ValueError: They are.
    """
    actor = run.actor
    of_pairs = {
        "margin_column": actor.loss.margin_column,
        "rm_label_smoothing": actor.reward_model.rm_label_smoothing,
    }
    named = [f"{key}={value}" for key, value in of_pairs.items() if value]
    if longest > 2 and named:
        raise ValueError(
            f"data_path {actor.data.data_path} has rankings of up to {longest} responses, but {' and '.join(named)} "
            "compares two; remove it, or preprocess the data as pairs with pair_selection=best_worst"
        )


def evaluation_data(run: RunConfig) -> dict[str, DataConfig]:
    """Return the data settings of the evaluation sets other than the hold-out, by name."""
    paths = run.loop.eval_data_path or {}
    return {name: replace(run.actor.data, data_path=path) for name, path in paths.items()}


def open_prompts(run: RunConfig) -> TrainEvalPrompts:
    """Open a run's prompts and evaluation sets; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, no row is left, or a set lacks a column.
    """
    settings = run.actor.rollout
    train, *evaluated = [
        PromptDataset.open(
            data.data_path, max_prompt_length=settings.max_prompt_length, truncation=settings.prompt_truncation
        )
        for data in (run.actor.data, *evaluation_data(run).values())
    ]
    return TrainEvalPrompts(train, dict(zip(evaluation_data(run), evaluated, strict=True)))
