"""Keys of config.json: the type and limits of each, and the field of `ModelConfig` that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject

_MAX_LAYERS = _MAX_EXPERTS = 10_000
"""Limits for what is counted one by one."""
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class HfKey:
    """One key of config.json, for example `HfKey("vocab_size", read_size)`.

    Attributes:
        name: The key.
        read: Reads its value from config.json and checks type and limits.
        is_nullable: Whether null is a value of its own, which differs from an absent key.
        aliases: Names that other releases of transformers give to the key.
    """

    name: str
    read: Callable[[JsonObject, str], Any]
    is_nullable: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The key and its aliases."""
        return (self.name, *self.aliases)

    def is_in(self, hf: JsonObject) -> bool:
        """Whether a config has the key, also as null or under an alias."""
        return any(name in hf for name in self.names)

    def value(self, hf: JsonObject) -> Any:
        """Read the key, which must be present.

        Raises:
            MalformedDataError: The value has another type, exceeds a limit, or differs from that of an alias.
        """
        first, *others = (name for name in self.names if name in hf)
        for other in others:
            if hf[other] != hf[first]:
                raise MalformedDataError(f"{hf.location}: {first} and {other} mean the same, but differ; remove one")
        return None if self.is_nullable and hf[first] is None else self.read(hf, first)


def read_size(hf: JsonObject, key: str) -> int:
    """Read a number of rows, columns, heads or tokens.

    Raises:
        MalformedDataError: It is no integer from 1 to 2^31 - 1.
    """
    return _at_most(_MAX_SIZE, hf, key, hf.integer(key, minimum=1))


def read_num_layers(hf: JsonObject, key: str) -> int:
    """Read a number of layers.

    Raises:
        MalformedDataError: It is no integer from 1 to 10000.
    """
    return _at_most(_MAX_LAYERS, hf, key, hf.integer(key, minimum=1))


def read_count(hf: JsonObject, key: str) -> int:
    """Read a number that may be 0.

    Raises:
        MalformedDataError: It is no integer from 0 to 2^31 - 1.
    """
    return _at_most(_MAX_SIZE, hf, key, hf.integer(key, minimum=0))


def read_positive(hf: JsonObject, key: str) -> float:
    """Read a number above 0.

    Raises:
        MalformedDataError: It is no finite number above 0.
    """
    value = hf.number(key)
    if value <= 0:
        raise MalformedDataError(f"{hf.location}: {key} must be more than 0, got {value}")
    return value


def read_not_negative(hf: JsonObject, key: str) -> float:
    """Read a number of at least 0.

    Raises:
        MalformedDataError: It is no finite number of at least 0.
    """
    value = hf.number(key)
    if value < 0:
        raise MalformedDataError(f"{hf.location}: {key} must be at least 0, got {value}")
    return value


def read_num_experts(hf: JsonObject, key: str) -> int:
    """Read a number of experts.

    Raises:
        MalformedDataError: It is no integer from 2 to 10000.
    """
    return _at_most(_MAX_EXPERTS, hf, key, hf.integer(key, minimum=2))


def read_share(hf: JsonObject, key: str) -> float:
    """Read a number above 0 and at most 1.

    Raises:
        MalformedDataError: It is no such number.
    """
    value = read_positive(hf, key)
    if value > 1:
        raise MalformedDataError(f"{hf.location}: {key} must be at most 1, got {value}")
    return value


def read_layers(hf: JsonObject, key: str) -> list[int]:
    """Read a list of numbers of layers, counted from 0.

    Raises:
        MalformedDataError: It is no list of integers.
    """
    return list(hf.integers(key))


def read_texts(hf: JsonObject, key: str) -> list[str]:
    """Read a list of texts.

    Raises:
        MalformedDataError: It is no list of texts.
    """
    return list(hf.texts(key))


def _at_most(maximum: int, hf: JsonObject, key: str, value: int) -> int:
    if value > maximum:
        raise MalformedDataError(f"{hf.location}: {key} must be at most {maximum}, got {value}")
    return value


DENSE_FIELDS: Mapping[str, HfKey] = {
    "num_layers": HfKey("num_hidden_layers", read_num_layers),
    "hidden_size": HfKey("hidden_size", read_size),
    "num_attention_heads": HfKey("num_attention_heads", read_size),
    "num_query_groups": HfKey("num_key_value_heads", read_size, is_nullable=True),
    "kv_channels": HfKey("head_dim", read_size, is_nullable=True),
    "ffn_hidden_size": HfKey("intermediate_size", read_size),
    "vocab_size": HfKey("vocab_size", read_size),
    "max_position_embeddings": HfKey("max_position_embeddings", read_size),
    "norm_epsilon": HfKey("rms_norm_eps", read_positive),
    "init_method_std": HfKey("initializer_range", read_not_negative),
}
"""Field of `ModelConfig` -> key of config.json, for dense models; a family adds those of its own."""

EXPERT_FIELDS: Mapping[str, HfKey] = {
    **DENSE_FIELDS,
    "num_experts": HfKey("num_experts", read_num_experts, aliases=("num_local_experts",)),
    "moe_router_topk": HfKey("num_experts_per_tok", read_size),
    "moe_ffn_hidden_size": HfKey("moe_intermediate_size", read_size),
}
"""The same for models with experts, in the names that most families have."""

TRAIT_KEYS = (
    HfKey("hidden_act", JsonObject.text),
    HfKey("attention_bias", JsonObject.boolean),
    HfKey("mlp_bias", JsonObject.boolean),
    HfKey("tie_word_embeddings", JsonObject.boolean),
    HfKey("use_sliding_window", JsonObject.boolean),
    # Qwen2-MoE stores 0 where it does not use a window.
    HfKey("sliding_window", read_count, is_nullable=True),
    HfKey("max_window_layers", read_count),
    HfKey("layer_types", read_texts, is_nullable=True),
)
"""Keys that determine further fields, or select what may not be supported."""

EXPERT_TRAIT_KEYS = (
    HfKey("decoder_sparse_step", read_size),
    HfKey("mlp_only_layers", read_layers, is_nullable=True),
    HfKey("router_jitter_noise", read_not_negative),
    HfKey("qkv_bias", JsonObject.boolean),
)
"""The same for models with experts."""
