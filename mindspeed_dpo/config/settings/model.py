"""The architecture of one model in Megatron's terms: the content of a `configs/model/*.yaml` file.

Only settings that shape weights or change logits are here. Older keys with a single accepted value (`swiglu`,
`normalization`, …) are in `config.legacy_keys`; the mapping from a Hugging Face `config.json` is in
`weights.hf.hf_config`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.settings.experts import ExpertConfig
from mindspeed_dpo.config.settings.setting import POSITIVE, ValueCheck, at_least, setting
from mindspeed_dpo.config.settings.stored_values import check_stored

_SHARE = ValueCheck(lambda value: 0 < value <= 1, "more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ExpertConfig):
    """A decoder-only transformer with RMSNorm, SwiGLU and rotary position embeddings, dense or with experts.

    Absent sizes are filled in on construction: `ModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4,
    vocab_size=262, max_position_embeddings=256)` has `kv_channels` 16 and `ffn_hidden_size` 256.
    """

    num_layers: int = setting(help="Number of transformer layers.", unit="layers", check=at_least(1))
    hidden_size: int = setting(help="Width of the residual stream.", check=at_least(1))
    num_attention_heads: int = setting(help="Number of query heads.", check=at_least(1))
    num_query_groups: int = setting(
        derived="num_attention_heads",
        help="Number of key and value heads (grouped-query attention).",
        check=at_least(1),
    )
    kv_channels: int = setting(
        derived="hidden_size / num_attention_heads", help="Width of one attention head.", check=at_least(1)
    )
    ffn_hidden_size: int = setting(
        derived="4 x hidden_size", help="Width of the gated feed-forward layer.", check=at_least(1)
    )
    vocab_size: int = setting(
        derived="padded_vocab_size", help="Number of token ids of the tokenizer, without padding.", check=at_least(1)
    )
    make_vocab_size_divisible_by: int = setting(
        128,
        help="The embedding is padded to a multiple of this value times the tensor-parallel size.",
        unit="rows",
        check=at_least(1),
    )
    padded_vocab_size: int | None = setting(
        None,
        help="Number of rows of the embedding; null computes it from vocab_size.",
        unit="rows",
        check=at_least(1),
    )
    untie_embeddings_and_output_weights: bool = setting(
        False, help="The output layer has its own weight instead of sharing the embedding's."
    )
    max_position_embeddings: int = setting(
        help="Longest sequence that the model supports.", unit="tokens", check=at_least(1)
    )
    rotary_base: float = setting(10000.0, help="Base of the rotary frequencies.", check=POSITIVE)
    rotary_percent: float = setting(1.0, help="Share of each head, from its start, that is rotated.", check=_SHARE)
    rope_scaling_type: str | None = setting(
        None,
        help="Method that extends rotary positions beyond the original length; null disables scaling.",
        choices=("linear", "llama3", "yarn"),
        refused={"longrope": "longrope is not implemented yet", "dynamic": "dynamic scaling is not implemented yet"},
    )
    rope_scaling_factor: float = setting(1.0, help="Scaling factor of the rotary positions.", check=POSITIVE)
    low_freq_factor: float | None = setting(
        None,
        help="For llama3: wavelengths above original_max_position_embeddings / low_freq_factor are scaled fully.",
        check=POSITIVE,
    )
    high_freq_factor: float | None = setting(
        None,
        help="For llama3: wavelengths below original_max_position_embeddings / high_freq_factor are not scaled.",
        check=POSITIVE,
    )
    original_max_position_embeddings: int | None = setting(
        None,
        help="Sequence length before scaling; required by llama3 and yarn.",
        unit="tokens",
        check=at_least(1),
    )
    norm_epsilon: float = setting(1e-5, help="Epsilon added to the mean square in RMSNorm.", check=POSITIVE)
    add_qkv_bias: bool = setting(False, help="The query, key and value projections have a bias (Qwen2).")
    qk_layernorm: bool = setting(False, help="Apply RMSNorm to every query and key head (Qwen3).")
    init_method_std: float = setting(
        0.02, help="Standard deviation of random initial weights; used only with random_init.", check=at_least(0)
    )
    sliding_window: int | None = setting(
        None,
        help="Number of preceding tokens that a token attends to; null attends to all of them.",
        unit="tokens",
        check=at_least(1),
    )

    def __post_init__(self) -> None:
        """Fill in the sizes that follow from others."""
        self._fill("num_query_groups", self.num_attention_heads)
        self._fill("kv_channels", self.hidden_size // self.num_attention_heads)
        self._fill("ffn_hidden_size", 4 * self.hidden_size)
        self._fill("vocab_size", self.padded_vocab_size)
        self._fill("moe_ffn_hidden_size", self.ffn_hidden_size)
        self._fill("moe_shared_expert_intermediate_size", self.n_shared_experts * self.moe_ffn_hidden_size)
        object.__setattr__(self, "num_experts", self.num_experts or None)
        object.__setattr__(self, "moe_layer_freq", abs(self.moe_layer_freq))
        # Plain values of a JSON file are lists.
        object.__setattr__(self, "mlp_only_layers", tuple(self.mlp_only_layers))

    def _fill(self, name: str, value: int | None) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def rotary_width(self) -> int:
        """Number of channels of a head that are rotated."""
        return int(self.kv_channels * self.rotary_percent)

    def padded_vocab(self, tp: int) -> int:
        """Return the number of embedding rows over all `tp` shards.

        This is `padded_vocab_size` where set, else the smallest multiple of `make_vocab_size_divisible_by * tp` that
        is at least `vocab_size`.
        """
        if self.padded_vocab_size is not None:
            return self.padded_vocab_size
        multiple = self.make_vocab_size_divisible_by * tp
        return math.ceil(self.vocab_size / multiple) * multiple

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by key, fit for JSON; `from_dict` is the inverse.

        Settings that later releases added are left out where they have no effect, so that what is stored under a hash
        of these values remains valid.
        """
        unused = set() if self.has_experts else {item.name for item in dataclasses.fields(ExpertConfig)}
        if self.rotary_percent == 1:
            unused.add("rotary_percent")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in unused}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build a configuration from plain values, the inverse of `as_dict`.

        Raises:
            ValueError: A key is unknown or missing, or its value is not acceptable; the message names it.
        """
        try:
            check_stored(cls, values)
            model = cls(**values)
            check_stored(cls, model.as_dict())
        except ValueError as error:
            raise ValueError(f"model settings: {error}") from error
        if model.vocab_size is None:
            raise ValueError("model settings: vocab_size is missing")
        return model
