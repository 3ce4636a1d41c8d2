"""Rotary frequencies and angles against those of transformers, for every scaling; missing settings are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.rotary_scaling import amplitude, angles, inverse_frequencies

pytestmark = pytest.mark.numerics

LENGTH = 4096


def model(**settings: Any) -> ModelConfig:
    values = {
        "num_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 9,
        "max_position_embeddings": LENGTH, **settings,
    }  # fmt: skip
    return ModelConfig(**values)


def theirs(ours: ModelConfig) -> LlamaRotaryEmbedding:
    """The embedding of transformers for the same settings."""
    names = {
        "factor": ours.rope_scaling_factor,
        "low_freq_factor": ours.low_freq_factor,
        "high_freq_factor": ours.high_freq_factor,
        "original_max_position_embeddings": ours.original_max_position_embeddings,
    }
    rope = {"rope_type": ours.rope_scaling_type or "default", "rope_theta": ours.rotary_base}
    if ours.rope_scaling_type:
        rope |= {name: value for name, value in names.items() if value is not None}
    sizes = {"hidden_size": ours.hidden_size, "num_attention_heads": ours.num_attention_heads}
    config = LlamaConfig(
        **sizes, head_dim=ours.kv_channels, max_position_embeddings=LENGTH, vocab_size=9, rope_parameters=rope
    )
    return LlamaRotaryEmbedding(config)


SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "large base": {"rotary_base": 500000.0},
    "wide heads": {"kv_channels": 128, "rotary_base": 1e6},
    "linear": {"rope_scaling_type": "linear", "rope_scaling_factor": 4.0},
    "llama3": {
        "rope_scaling_type": "llama3", "rope_scaling_factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024, "rotary_base": 500000.0, "kv_channels": 64,
    },
    "yarn": {"rope_scaling_type": "yarn", "rope_scaling_factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn with wide heads": {
        "rope_scaling_type": "yarn", "rope_scaling_factor": 40.0, "original_max_position_embeddings": 2048,
        "kv_channels": 128, "rotary_base": 1e6,
    },
    "yarn of a short length": {
        "rope_scaling_type": "yarn", "rope_scaling_factor": 2.0, "original_max_position_embeddings": 32,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", SCALINGS)
def test_frequencies_and_angles_equal_those_of_transformers(case: str) -> None:
    ours = model(**SCALINGS[case])
    reference = theirs(ours)
    actual = inverse_frequencies(ours)
    assert actual.dtype == torch.float32 and actual.shape == (ours.kv_channels // 2,)
    torch.testing.assert_close(actual, reference.inv_freq, rtol=2e-6, atol=0)
    assert amplitude(ours) == pytest.approx(reference.attention_scaling)
    positions = torch.tensor([0, 1, 17, 250, 3, 0])
    expected = reference(torch.zeros(1), positions[None])
    for one, other in zip(angles(positions, actual, amplitude(ours)), expected, strict=True):
        torch.testing.assert_close(one, other[0], rtol=0, atol=1e-4)


@given(
    base=st.floats(1e3, 1e7),
    factor=st.floats(1, 64),
    original=st.integers(64, LENGTH),
    width=st.sampled_from([8, 16, 64, 128]),
    kind=st.sampled_from(["llama3", "yarn", "linear"]),
)
def test_frequencies_equal_those_of_transformers_for_any_settings(
    base: float, factor: float, original: int, width: int, kind: str
) -> None:
    extra = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    if kind != "linear":
        extra["original_max_position_embeddings"] = original
    ours = model(rotary_base=base, kv_channels=width, rope_scaling_type=kind, rope_scaling_factor=factor, **extra)
    torch.testing.assert_close(inverse_frequencies(ours), theirs(ours).inv_freq, rtol=1e-5, atol=0)


def test_angles_count_positions_not_rows() -> None:
    frequencies = torch.tensor([1.0, 0.1])
    cos, sin = angles(torch.tensor([5, 0, 5]), frequencies, scale=2.0)
    expected = torch.tensor([5.0, 0.5, 5.0, 0.5])
    torch.testing.assert_close(cos, 2 * torch.stack([expected.cos(), torch.ones(4), expected.cos()]))
    torch.testing.assert_close(sin, 2 * torch.stack([expected.sin(), torch.zeros(4), expected.sin()]))


@pytest.mark.parametrize("absent", ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
def test_llama3_names_what_it_needs(absent: str) -> None:
    with pytest.raises(ValueError, match="rope_scaling_type=llama3 needs low_freq_factor, high_freq_factor and"):
        inverse_frequencies(model(**{**SCALINGS["llama3"], absent: None}))


def test_yarn_names_what_it_needs() -> None:
    with pytest.raises(ValueError, match="rope_scaling_type=yarn needs original_max_position_embeddings"):
        inverse_frequencies(model(rope_scaling_type="yarn", rope_scaling_factor=2.0))


def test_an_unknown_scaling_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(ValueError, match="'longrope' is not supported; choose one of default, linear, llama3, yarn"):
        inverse_frequencies(model(rope_scaling_type="longrope"))
