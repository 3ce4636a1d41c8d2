"""Opens the weights and adapters that a role starts from: on the driver, which checks them, and on the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.weights import WeightsError, WeightSource, open_adapter, open_weights
from mindspeed_dpo.weights.lora import AdapterSource, adapter_description, check_adapter


def open_initial_weights(role: RoleConfig) -> WeightSource | None:
    """Open the weights that a role starts from; None with `random_init`.

    Raises:
        WeightsError: A reward model was given where a language model is needed, or the other way round.
    """
    if role.checkpoint.random_init:
        return None
    source = open_weights(str(role.checkpoint.load))
    source.loosely = role.checkpoint.load_checkpoint_loosely
    source.drop_mtp_layers = role.checkpoint.drop_mtp_layers
    _check_head(source, role)
    if role.has_score_head and role.is_trained:
        source.decoder_only = not source.is_reward_model
    elif role.has_score_head:
        source.final_norm = not role.reward.no_post_layer_norm
    return source


def model_folder(role: RoleConfig) -> Path:
    """Return the folder with the Hugging Face config.json that belongs to the weights that a role starts from.

    Raises:
        WeightsError: There is none.
    """
    source = open_initial_weights(role)
    folder = source.assets() if source is not None else None
    if folder is None or not (folder / "config.json").is_file():
        where = "random_init" if source is None else f"load={source.path}"
        raise WeightsError(
            f"rollout_engine=vllm needs the config.json of the model, which {where} does not have; start from a "
            "Hugging Face folder, or put its config and tokenizer files beside the checkpoint as convert_ckpt.py does"
        )
    return folder


def open_initial_adapter(role: RoleConfig) -> AdapterSource | None:
    """Open the adapters that a role's adapters are initialised from; None without `lora_load`.

    Raises:
        FileNotFoundError: The path holds no adapters.
        WeightsError: They do not fit the role's settings or model.
    """
    if role.adapters.lora_load is None:
        return None
    adapter = open_adapter(role.adapters.lora_load)
    if adapter.has_head and not role.has_score_head:
        raise WeightsError(
            f"{adapter.path} is an adapter of a reward model, with a score head; set the adapter of a language model "
            "as lora_load"
        )
    check_adapter(adapter, role.adapters, role.model)
    adapter.check(role.model)
    return adapter


def adapters_on_weights(role: RoleConfig) -> dict[str, Any] | None:
    """Describe a role's adapters and base weights for a checkpoint's metadata; None without adapters."""
    source = open_initial_weights(role) if role.adapters.is_on else None
    return None if source is None else adapter_description(role.adapters, source)


def _check_head(source: WeightSource, role: RoleConfig) -> None:
    if source.is_reward_model and not role.has_score_head:
        raise WeightsError(
            f"load of {role.name}: {source.path} is a reward model, which cannot generate; set it as load of "
            "section reward, and here a language model"
        )
    # A reward model that is trained may start from a language model, with a new head.
    if role.has_score_head and not role.is_trained and not source.is_reward_model:
        raise WeightsError(
            f"load of {role.name}: {source.path} is a language model, which has no reward head; set a reward "
            "model: a Hugging Face ...ForSequenceClassification with one label, or a checkpoint of "
            "convert_ckpt.py --orm"
        )
