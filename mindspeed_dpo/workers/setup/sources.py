"""What a role reads from disk, opened the same way by the driver, which checks it, and by the workers, who use it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.dataset import PreferenceDataset, PromptDataset
from mindspeed_dpo.data.datasets.reference_cache import data_fingerprint, prompts_fingerprint
from mindspeed_dpo.data.datasets.splits import parse_data_path
from mindspeed_dpo.data.datasets.train_eval import EvaluatedPairs
from mindspeed_dpo.data.tokenization.templates import SPECIAL_PROMPT_TYPES, load_template
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, stop_token_ids
from mindspeed_dpo.weights import WeightsError, WeightSource, open_adapter, open_weights
from mindspeed_dpo.weights.lora import AdapterSource, check_adapter, described

REWARD = "reward"


def open_dataset(run: RunConfig) -> EvaluatedPairs | PromptDataset:
    """What the run reads: pairs, or prompts that it answers itself. Raises what `open_pairs` raises."""
    return open_prompts(run.actor) if run.is_online else open_pairs(run)


def open_pairs(run: RunConfig) -> EvaluatedPairs:
    """The run's preference pairs and evaluation sets; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    loss = run.actor.loss
    learned, *evaluated = [
        PreferenceDataset.open(
            data.data_path,
            seq_length=data.seq_length,
            truncation=data.truncation,
            margin_column=loss.margin_column,
            weight_column=loss.weight_column,
        )
        for data in (run.actor.data, *evaluation_data(run).values())
    ]
    return EvaluatedPairs(learned, dict(zip(evaluation_data(run), evaluated, strict=True)))


def evaluation_data(run: RunConfig) -> dict[str, DataConfig]:
    """The evaluation sets beside the hold-out, each with the settings of what the run learns from."""
    paths = run.loop.eval_data_path or {}
    return {name: replace(run.actor.data, data_path=path) for name, path in paths.items()}


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


def stop_ids(role: RoleConfig) -> frozenset[int]:
    """The tokens that end a response: of tokenizer, template and generation config, none without a tokenizer.

    Raises:
        FileNotFoundError: There is no such tokenizer or template file.
        ValueError: One of them cannot be read.
    """
    data = role.data
    if data.tokenizer_name_or_path is None:
        return frozenset()
    named = data.prompt_type is not None and data.prompt_type not in SPECIAL_PROMPT_TYPES
    template = load_template(str(data.prompt_type), data.prompt_type_path) if named else None
    source = open_initial_weights(role)
    return stop_token_ids(load_tokenizer(data.tokenizer_name_or_path), template, source.assets() if source else None)


def open_initial_weights(role: RoleConfig) -> WeightSource | None:
    """The weights the role starts from, or None where they are drawn at random.

    Raises:
        WeightsError: They are a reward model's where a language model is needed, or the other way round.
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
    """The adapters that a role's own start from, or None where they start from nothing.

    Raises:
        FileNotFoundError: There are none.
        WeightsError: They are not what the role's settings and model say.
    """
    if role.adapters.lora_load is None:
        return None
    adapter = open_adapter(role.adapters.lora_load)
    check_adapter(adapter, role.adapters)
    adapter.check(role.model)
    return adapter


def adapters_on_weights(role: RoleConfig) -> dict[str, Any] | None:
    """What a checkpoint of the role says about its adapters and the weights beneath; None without adapters."""
    source = open_initial_weights(role) if role.adapters.is_on else None
    return None if source is None else described(role.adapters, source)


def _check_head(source: WeightSource, role: RoleConfig) -> None:
    if source.is_reward_model and role.name != REWARD:
        raise WeightsError(
            f"load of {role.name}: {source.path} is a reward model, which has no output layer to answer with; give it "
            "as load of section reward, and here a language model"
        )
    if role.name == REWARD and not source.is_reward_model:
        raise WeightsError(
            f"load of {role.name}: {source.path} is a language model, which has no head that scores; give a reward "
            "model: a Hugging Face ...ForSequenceClassification with one label, or a checkpoint of "
            "convert_ckpt.py --orm"
        )


def sampling_of(run: RunConfig, num_rows: int) -> dict[str, Any]:
    """All that decides which rows a step takes: equal for two runs exactly if they take the same ones."""
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
