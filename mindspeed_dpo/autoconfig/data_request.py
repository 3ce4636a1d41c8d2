"""Keys of preprocessing on the command line of training, and the request that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.data.preprocessing.config_keys import KEYS
from mindspeed_dpo.data.recognition.recognise import Kind

PREPROCESSING_KEYS = (
    *("handler_name", "map_keys", "row_filter", "mask_history", "response_end", "pair_selection", "min_score_margin"),
    *("max_samples", "max_invalid_share", "enable_thinking", "prompt_type", "prompt_type_path"),
    *("dataset_additional_keys", "trust_remote_code"),
)
"""Keys of preprocessing that the command line of training takes for raw data."""
DEFAULT_CACHE_DIR = "outputs/token_cache"


@dataclass(frozen=True)
class DataRequest:
    """A request for the tokens of raw data: `DataRequest("pair", "models/qwen", {"handler_name": "…"})`.

    Attributes:
        kind: `pair` or `prompt`.
        tokenizer: Folder of the tokenizer.
        settings: Keys of preprocessing that the user sets, parsed.
        cache_dir: Folder of the token files.
    """

    kind: Kind
    tokenizer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache_dir: str = DEFAULT_CACHE_DIR


def parse_settings(words: Mapping[str, str]) -> dict[str, Any]:
    """Parse keys of preprocessing.

    Raises:
        ConfigError: A value has another type.
    """
    parsed, problems = {}, []
    for key, text in words.items():
        try:
            parsed[key] = KEYS[key].parse(text)
        except (ValueError, TypeError, KeyError):
            problems.append(f"{key} should be {KEYS[key].expected}, got {text!r}")
    if problems:
        raise ConfigError(problems)
    return parsed
