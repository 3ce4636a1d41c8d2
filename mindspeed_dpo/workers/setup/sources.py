"""Opens what a role reads from disk: by the driver, which checks it, and by the workers, which use it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.blending import parse_data_path
from mindspeed_dpo.data.datasets.dataset import PreferenceDataset, PromptDataset
from mindspeed_dpo.data.datasets.reference_cache import data_fingerprint, prompts_fingerprint
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from mindspeed_dpo.data.tokenization.templates import SPECIAL_PROMPT_TYPES, load_template
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, stop_token_ids
from mindspeed_dpo.weights import WeightsError, WeightSource, open_adapter, open_weights
from mindspeed_dpo.weights.lora import AdapterSource, adapter_description, check_adapter

REWARD = "reward"


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


def stop_ids(role: RoleConfig) -> frozenset[int]:
    """Return the ids of the tokens that end a response: of tokenizer, template and generation config.

    Raises:
        FileNotFoundError: The tokenizer or template file does not exist.
        ValueError: One of them cannot be read.
    """
    data = role.data
    if data.tokenizer_name_or_path is None:
        return frozenset()
    has_template = data.prompt_type is not None and data.prompt_type not in SPECIAL_PROMPT_TYPES
    template = load_template(str(data.prompt_type), data.prompt_type_path) if has_template else None
    source = open_initial_weights(role)
    return stop_token_ids(load_tokenizer(data.tokenizer_name_or_path), template, source.assets() if source else None)


def open_initial_weights(role: RoleConfig) -> WeightSource | None:
    """Open the weights that a role starts from; None with `random_init`.

    Raises:
        WeightsError: A reward model was given where a language model is needed, or the other way round.
    """
    if role.checkpoint.random_init:
        return None
    source = open_weights(str(role.checkpoint.load))
    source.loosely = role.checkpoint.load_checkpoint_loosely
    _check_head(source, role)
    if role.name == REWARD:
        source.final_norm = not role.reward.no_post_layer_norm
    return source


def open_initial_adapter(role: RoleConfig) -> AdapterSource | None:
    """Open the adapters that a role's adapters are initialised from; None without `lora_load`.

    Raises:
        FileNotFoundError: The path holds no adapters.
        WeightsError: They do not fit the role's settings or model.
    """
    if role.adapters.lora_load is None:
        return None
    adapter = open_adapter(role.adapters.lora_load)
    check_adapter(adapter, role.adapters)
    adapter.check(role.model)
    return adapter


def adapters_on_weights(role: RoleConfig) -> dict[str, Any] | None:
    """Describe a role's adapters and base weights for a checkpoint's metadata; None without adapters."""
    source = open_initial_weights(role) if role.adapters.is_on else None
    return None if source is None else adapter_description(role.adapters, source)


def _check_head(source: WeightSource, role: RoleConfig) -> None:
    if source.is_reward_model and role.name != REWARD:
        raise WeightsError(
            f"load of {role.name}: {source.path} is a reward model, which cannot generate; set it as load of "
            "section reward, and here a language model"
        )
    if role.name == REWARD and not source.is_reward_model:
        raise WeightsError(
            f"load of {role.name}: {source.path} is a language model, which has no reward head; set a reward "
            "model: a Hugging Face ...ForSequenceClassification with one label, or a checkpoint of "
            "convert_ckpt.py --orm"
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
