"""What a role reads from disk, opened the same way by the driver, which checks it, and by the workers, who use it."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.dataset import PreferenceDataset, PromptDataset
from mindspeed_dpo.data.reference_cache import data_fingerprint
from mindspeed_dpo.data.splits import parse_data_path
from mindspeed_dpo.data.templates import SPECIAL_PROMPT_TYPES, load_template
from mindspeed_dpo.data.tokenizer import load_tokenizer, stop_token_ids
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
