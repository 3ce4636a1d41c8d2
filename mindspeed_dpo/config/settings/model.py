"""The architecture of one model, in Megatron's words: the resolved content of a `configs/model/*.yaml`.

Only what shapes weights or changes logits is here. Which values of older keys (`swiglu`, `normalization`, …) go without
saying is told in `legacy_keys`; how a Hugging Face `config.json` maps onto this is told in `models`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.legacy.aliases import did_you_mean
from mindspeed_dpo.config.settings.field import POSITIVE, at_least, setting


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder with RMSNorm, gated SiLU and rotary positions. Absent sizes are filled in on construction."""

    num_layers: int = setting(help="Transformer layers.", check=at_least(1))
    hidden_size: int = setting(help="Width of the residual stream.", check=at_least(1))
    num_attention_heads: int = setting(help="Query heads.", check=at_least(1))
    num_query_groups: int = setting(
        derived="num_attention_heads", help="Key and value heads (grouped-query attention).", check=at_least(1)
    )
    kv_channels: int = setting(
        derived="hidden_size / num_attention_heads", help="Width of one attention head.", check=at_least(1)
    )
    ffn_hidden_size: int = setting(
        derived="4 x hidden_size", help="Width of the gated feed-forward layer.", check=at_least(1)
    )
    vocab_size: int = setting(
        derived="padded_vocab_size", help="Token ids the tokenizer knows, without padding.", check=at_least(1)
    )
    make_vocab_size_divisible_by: int = setting(
        128,
        help="The embedding is padded to a multiple of this times the tensor-parallel size.",
        unit="rows",
        check=at_least(1),
    )
    padded_vocab_size: int | None = setting(
        None, help="Rows of the embedding, where it is not to be computed.", unit="rows", check=at_least(1)
    )
    untie_embeddings_and_output_weights: bool = setting(
        False, help="The output layer has its own weight instead of the embedding's."
    )
    max_position_embeddings: int = setting(
        help="Longest sequence the model was made for.", unit="tokens", check=at_least(1)
    )
    rotary_base: float = setting(10000.0, help="Base of the rotary frequencies.", check=POSITIVE)
    rope_scaling_type: str | None = setting(
        None,
        help="How rotary frequencies are stretched beyond the original length.",
        choices=("linear", "llama3", "yarn"),
        not_yet={"longrope": "longrope is not implemented yet", "dynamic": "dynamic scaling is not implemented yet"},
    )
    rope_scaling_factor: float = setting(1.0, help="Stretch of the rotary positions.", check=POSITIVE)
    low_freq_factor: float | None = setting(
        None, help="llama3: wavelengths above original length / this are stretched fully.", check=POSITIVE
    )
    high_freq_factor: float | None = setting(
        None, help="llama3: wavelengths below original length / this stay as they are.", check=POSITIVE
    )
    original_max_position_embeddings: int | None = setting(
        None, help="Length before stretching.", unit="tokens", check=at_least(1)
    )
    norm_epsilon: float = setting(1e-5, help="Added to the mean square inside RMSNorm.", check=POSITIVE)
    add_qkv_bias: bool = setting(False, help="The query, key and value projections have a bias (Qwen2).")
    qk_layernorm: bool = setting(False, help="RMSNorm on every query and key head (Qwen3).")
    init_method_std: float = setting(
        0.02, help="Standard deviation of random weights; matters only with random_init.", check=at_least(0)
    )
    sliding_window: int | None = setting(
        None, help="A token sees only this many tokens before itself; null is all.", unit="tokens", check=at_least(1)
    )

    def __post_init__(self) -> None:
        """Fill in the sizes that follow from others."""
        self._fill("num_query_groups", self.num_attention_heads)
        self._fill("kv_channels", self.hidden_size // self.num_attention_heads)
        self._fill("ffn_hidden_size", 4 * self.hidden_size)
        self._fill("vocab_size", self.padded_vocab_size)

    def _fill(self, name: str, value: int | None) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def padded_vocab(self, tp: int) -> int:
        """Rows of the embedding over all `tp` shards.

        That is `padded_vocab_size` where given, else the smallest multiple of
        `make_vocab_size_divisible_by * tp` that holds `vocab_size`.
        """
        if self.padded_vocab_size is not None:
            return self.padded_vocab_size
        multiple = self.make_vocab_size_divisible_by * tp
        return math.ceil(self.vocab_size / multiple) * multiple

    def as_dict(self) -> dict[str, Any]:
        """Plain values by key, fit for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from plain values, the inverse of `as_dict`.

        Raises:
            ValueError: A key is unknown or a required one is missing; the sentence names it.
        """
        fields = {item.name: item for item in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ValueError(f"model settings: {key} is not a known key{did_you_mean(key, fields)}")
        for name, item in fields.items():
            if item.default is dataclasses.MISSING and values.get(name) is None:
                raise ValueError(f"model settings: {name} is missing")
        return cls(**values)
