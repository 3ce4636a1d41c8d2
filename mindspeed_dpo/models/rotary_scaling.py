"""Rotary frequencies with the supported scalings, and cosines and sines for arbitrary positions.

The formulas are those of the model families' published code: the default of Su et al. 2021 (arXiv:2104.09864), linear
interpolation of Chen et al. 2023 (arXiv:2306.15595), YaRN of Peng et al. 2023 (arXiv:2309.00071), and the scaling by
wavelength of Llama 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig


def inverse_frequencies(model: ModelConfig) -> Tensor:
    """Angle per position of each rotated pair, [w / 2] float32 in radians, with the model's scaling applied.

    The rotated width w of a head is `ModelConfig.rotary_width`.

    Raises:
        ValueError: The scaling type is not one of `SCALINGS`, or lacks a setting that it needs.
    """
    exponents = torch.arange(0, model.rotary_width, 2, dtype=torch.int64).float() / model.rotary_width
    unscaled = 1.0 / (float(model.rotary_base) ** exponents)
    scaling = model.rope_scaling_type or "default"
    if scaling not in SCALINGS:
        raise ValueError(f"rope_scaling_type={scaling!r} is not supported; choose one of {', '.join(SCALINGS)}")
    return SCALINGS[scaling](unscaled, model)


def amplitude(model: ModelConfig) -> float:
    """Factor on cosines and sines; 1 except for YaRN, which scales attention logits this way."""
    return 0.1 * math.log(model.rope_scaling_factor) + 1.0 if model.rope_scaling_type == "yarn" else 1.0


def angles(positions: Tensor, frequencies: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines [T, w] float32, unitless, with equal halves along w.

    Args:
        positions: [T] integers, in tokens.
        frequencies: [w / 2] float32, from `inverse_frequencies`.
        scale: Factor on both, from `amplitude`.
    """
    half = positions.float()[:, None] * frequencies[None, :]
    full = torch.cat((half, half), dim=-1)
    return full.cos() * scale, full.sin() * scale


def _default(frequencies: Tensor, model: ModelConfig) -> Tensor:
    return frequencies


def _linear(frequencies: Tensor, model: ModelConfig) -> Tensor:
    return frequencies / model.rope_scaling_factor


def _llama3(frequencies: Tensor, model: ModelConfig) -> Tensor:
    """Divide the frequencies of long wavelengths by the factor, preserve those of short ones, and blend in between."""
    low, high, factor = model.low_freq_factor, model.high_freq_factor, model.rope_scaling_factor
    original = model.original_max_position_embeddings
    if low is None or high is None or original is None:
        raise ValueError(
            "rope_scaling_type=llama3 needs low_freq_factor, high_freq_factor and original_max_position_embeddings"
        )
    wavelengths = 2 * math.pi / frequencies
    blend = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / factor + blend * frequencies


def _yarn(frequencies: Tensor, model: ModelConfig) -> Tensor:
    """Preserve pairs with many turns within the original length, divide those with less than one turn by the factor."""
    if model.original_max_position_embeddings is None:
        raise ValueError("rope_scaling_type=yarn needs original_max_position_embeddings")
    width, length = model.rotary_width, model.original_max_position_embeddings

    def pair_with_turns(turns: float) -> float:
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(model.rotary_base))

    low = max(math.floor(pair_with_turns(_YARN_FAST_TURNS)), 0)
    high = min(math.ceil(pair_with_turns(_YARN_SLOW_TURNS)), width - 1)
    ramp = ((torch.arange(width // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies / model.rope_scaling_factor * ramp + frequencies * (1 - ramp)


# The published defaults of YaRN, which are the only supported values.
_YARN_FAST_TURNS, _YARN_SLOW_TURNS = 32, 1

SCALINGS: dict[str, Callable[[Tensor, ModelConfig], Tensor]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
