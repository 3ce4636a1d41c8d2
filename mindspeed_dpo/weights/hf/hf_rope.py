"""Rotary embeddings of config.json: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of 4, or both.

The precedence is that of transformers 5: a non-empty `rope_scaling` replaces `rope_parameters`, and values inside
replace those beside them.
"""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families.hf_config_keys import read_positive, read_share, read_size

_TYPES = "default, linear, llama3, yarn"
_HAS_ORIGINAL_LENGTH = ("llama3", "yarn")
_SHARE = "partial_rotary_factor"
_ORIGINAL_LENGTH = "original_max_position_embeddings"
_YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}


def rotary_fields(
    hf: JsonObject, default_theta: float, max_positions: int, default_share: float | None = None
) -> dict[str, Any]:
    """Translate the rotary settings to fields of `ModelConfig`.

    Args:
        hf: The content of config.json.
        default_theta: The base where config.json has none.
        max_positions: The model's `max_position_embeddings`, in tokens.
        default_share: The rotated share of a head where config.json has none; None for families that rotate all of it.

    Raises:
        MalformedDataError: A value has another type or exceeds a limit, or is missing.
        HfConfigError: The settings ask for something that is not supported.
    """
    rope = _rope_section(hf)
    fields: dict[str, Any] = {"rotary_percent": _rotated_share(hf, rope, default_share)}
    theta = next((read_positive(part, "rope_theta") for part in (rope, hf) if "rope_theta" in part), default_theta)
    rope_type = rope.text("rope_type", None) or rope.text("type", None) or "default"
    if rope_type not in _TYPES.split(", "):
        raise HfConfigError(f"{rope.location}: rope type {rope_type!r} is not supported; supported: {_TYPES}")
    fields["rotary_base"] = theta
    if rope_type == "default":
        return fields
    fields["rope_scaling_type"] = rope_type
    if rope_type in _HAS_ORIGINAL_LENGTH:
        fields[_ORIGINAL_LENGTH] = _original_length(hf, rope, max_positions)
    if rope_type == "llama3":
        fields.update(_frequency_factors(rope))
    if rope_type == "yarn":
        _check_yarn_defaults(rope)
    return {**fields, "rope_scaling_factor": _factor(rope, rope_type, max_positions, fields)}


def _rope_section(hf: JsonObject) -> JsonObject:
    """The object that holds the settings; empty where there is none."""
    empty = JsonObject({}, hf.location)
    scaling = hf.section("rope_scaling", empty)
    rope = scaling if scaling else hf.section("rope_parameters", empty)
    if any(isinstance(value, dict) for value in rope.values()):
        raise HfConfigError(f"{rope.location}: settings that differ by layer type are not supported")
    return rope


def _rotated_share(hf: JsonObject, rope: JsonObject, default: float | None) -> float:
    """The share of each head that is rotated."""
    if default is not None:
        return next((read_share(part, _SHARE) for part in (rope, hf) if _SHARE in part), default)
    for part in (hf, rope):
        if part.number(_SHARE, 1.0) != 1.0:
            raise HfConfigError(f"{part.location}: {_SHARE}={part[_SHARE]} is not supported; supported: 1.0")
    return 1.0


def _original_length(hf: JsonObject, rope: JsonObject, max_positions: int) -> int:
    """The length before scaling; transformers reads the value beside the section before the one in it."""
    parts = [part for part in (hf, rope) if part.get(_ORIGINAL_LENGTH) is not None]
    return read_size(parts[0], _ORIGINAL_LENGTH) if parts else max_positions


def _frequency_factors(rope: JsonObject) -> dict[str, float]:
    low, high = (read_positive(rope, f"{name}_freq_factor") for name in ("low", "high"))
    if high <= low:
        raise HfConfigError(f"{rope.location}: high_freq_factor={high} must be more than low_freq_factor={low}")
    return {"low_freq_factor": low, "high_freq_factor": high}


def _factor(rope: JsonObject, rope_type: str, max_positions: int, fields: dict[str, Any]) -> float:
    """The scaling factor; null is the ratio of both lengths for yarn."""
    if rope_type == "yarn" and "factor" in rope and rope["factor"] is None:
        return max_positions / int(fields[_ORIGINAL_LENGTH])
    return read_positive(rope, "factor")


def _check_yarn_defaults(rope: JsonObject) -> None:
    """Check that yarn is configured by its factor and original length only."""
    for key, default in _YARN_DEFAULTS.items():
        if rope.get(key) is not None and rope[key] != default:
            raise HfConfigError(f"{rope.location}: {key}={rope[key]!r} is not supported; supported: {default}")
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if rope.get(key) is not None:
            raise HfConfigError(f"{rope.location}: {key}={rope[key]!r} is not supported; remove the key")
