"""What a role reads from disk, opened the same way by the driver, which checks it, and by the workers, who use it."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.dataset import PreferenceDataset
from mindspeed_dpo.data.reference_cache import data_fingerprint
from mindspeed_dpo.data.splits import parse_data_path
from mindspeed_dpo.models.weights import WeightsError, WeightSource, open_weights

REWARD = "reward"


def open_dataset(role: RoleConfig) -> PreferenceDataset:
    """The role's preference pairs; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    data = role.data
    return PreferenceDataset.open(data.data_path, seq_length=data.seq_length, truncation=data.truncation)


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
