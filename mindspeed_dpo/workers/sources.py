"""What a role reads from disk, opened the same way by the driver, which checks it, and by the workers, who use it."""

from __future__ import annotations

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.dataset import PreferenceDataset
from mindspeed_dpo.models.weights import WeightSource, open_weights


def open_dataset(role: RoleConfig) -> PreferenceDataset:
    """The role's preference pairs; tokens are read on demand.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or no row is left.
    """
    data = role.data
    return PreferenceDataset.open(data.data_path, seq_length=data.seq_length, truncation=data.truncation)


def open_initial_weights(role: RoleConfig) -> WeightSource | None:
    """The weights the role starts from, or None where they are drawn at random."""
    if role.checkpoint.random_init:
        return None
    source = open_weights(str(role.checkpoint.load))
    source.loosely = role.checkpoint.load_checkpoint_loosely
    return source
