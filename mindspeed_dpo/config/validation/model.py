"""Rules about the architecture of the model of one role."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.parallel_layout import divisors

_REQUIRED_BY_ROPE_SCALING: dict[str | None, tuple[str, ...]] = {
    "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("original_max_position_embeddings",),
}


def check_model(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that the sizes of a model are consistent, and that it supports the length of sequences."""
    model = role.model
    heads, groups = model.num_attention_heads, model.num_query_groups
    if not model.vocab_size:
        yield Violation(("vocab_size", "padded_vocab_size", "model"), "must be set to the number of token ids")
    elif model.padded_vocab_size is not None and model.padded_vocab_size < model.vocab_size:
        yield Violation(("padded_vocab_size", "vocab_size"), f"is less than vocab_size={model.vocab_size}")
    if model.hidden_size % heads and model.kv_channels == model.hidden_size // heads:
        yield Violation(
            ("num_attention_heads", "hidden_size", "kv_channels"),
            f"does not divide hidden_size={model.hidden_size}; set kv_channels, the width of a head",
        )
    if heads % groups:
        yield Violation(
            ("num_query_groups", "num_attention_heads"),
            f"does not divide num_attention_heads={heads}; choose {join_words(divisors(heads))}",
        )
    required = _REQUIRED_BY_ROPE_SCALING.get(model.rope_scaling_type, ())
    missing = [key for key in required if getattr(model, key) is None]
    if missing:
        yield Violation(("rope_scaling_type", *missing), f"also requires {join_words(missing, 'and')}")
    if role.data.seq_length > model.max_position_embeddings:
        owner = "the model" if role.name == "actor" else f"the model of {role.name}"
        yield Violation(
            ("seq_length", "max_position_embeddings"),
            f"is more than max_position_embeddings={model.max_position_embeddings} of {owner}",
        )
