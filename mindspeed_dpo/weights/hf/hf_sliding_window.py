"""Sliding windows of attention in config.json, read as transformers does: accepted if all layers have the same one."""

from __future__ import annotations

from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families.model_family import HfArchitecture
from mindspeed_dpo.weights.hf.hf_config_defaults import HfValues

_FULL, _SLIDING = "full_attention", "sliding_attention"


def sliding_window(values: HfValues, architecture: HfArchitecture) -> int | None:
    """Return the attention window of all layers in tokens, or None where it never shortens a sequence.

    Raises:
        HfConfigError: Only some layers use the window, or the family has none.
    """
    window, layer_types = _window(values, architecture), _layer_types(values, architecture)
    if _SLIDING not in layer_types:
        return None
    if window is None:
        raise HfConfigError(
            f"{values.location}: layer_types names {_SLIDING}, but sliding_window or use_sliding_window gives no window"
        )
    is_shorter = window < values.get("max_position_embeddings")
    if is_shorter and (architecture.windowed_layers == "none" or _FULL in layer_types):
        raise HfConfigError(
            f"{values.location}: {values.source_of('sliding_window')} is supported only for every layer of Mistral, "
            "Qwen2 and Qwen3; if none of your sequences is longer than the window, set it to null"
        )
    return window if is_shorter else None


def _window(values: HfValues, architecture: HfArchitecture) -> int | None:
    is_off = architecture.windowed_layers == "by_layer_type" and not values.get("use_sliding_window")
    window = values.get("sliding_window")
    if window is None or is_off:
        return None
    if window < 1:
        raise HfConfigError(f"{values.location}: {values.source_of('sliding_window')} must be at least 1, or null")
    return int(window)


def _layer_types(values: HfValues, architecture: HfArchitecture) -> list[str]:
    """The kind of attention of each layer, in transformers' names."""
    num_layers, has_window = values.get("num_hidden_layers"), _window(values, architecture) is not None
    types = values.get("layer_types")
    # Mistral's model applies its window to all layers, whatever `layer_types` says.
    if types is not None and architecture.windowed_layers != "all":
        unknown = sorted(set(types) - {_FULL, _SLIDING})
        if unknown:
            raise HfConfigError(f"{values.location}: layer_types names {unknown[0]}; supported: {_FULL}, {_SLIDING}")
        return list(types)
    # Releases of transformers before 4.53 have no layer types, but the key that they follow from.
    first = (values.get("max_window_layers") if architecture.windowed_layers == "by_layer_type" else 0) or 0
    return [_SLIDING if has_window and layer >= first else _FULL for layer in range(num_layers)]
