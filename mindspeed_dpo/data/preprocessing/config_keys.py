"""The table of all preprocessing keys of MindSpeed-LLM and MindSpeed-RL: how to parse each and whether it is supported.

Supported keys are fields of `PreprocessSettings`. The others have no effect or are rejected, each with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.storage.user_paths import expanded_text
from mindspeed_dpo.untrusted.json_text import parse_json

_OFF_WORDS = ("", "false", "no", "off")


def is_off(value: Any) -> bool:
    """Return whether a rejected key is off with a value, so that it is accepted."""
    return value in (None, False, (), []) or (isinstance(value, str) and value.strip().lower() in _OFF_WORDS)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return words[str(value).lower()]


def _optional_flag(value: Any) -> bool | None:
    return None if value is None or str(value).lower() in ("none", "null", "") else _flag(value)


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise TypeError
    text = str(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("null characters and halves of surrogate pairs can be neither stored nor part of a path")
    return text


def _optional_text(value: Any) -> str | None:
    return None if value is None or value in ("", "null", "none", "None") else _text(value)


def _path(value: Any) -> str:
    return expanded_text(_text(value))


def _optional_path(value: Any) -> str | None:
    return None if value is None or value in ("", "null", "none", "None") else _path(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _optional_integer(value: Any) -> int | None:
    return None if value is None or str(value).lower() in ("none", "null") else _integer(value)


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    return tuple(word for item in items for word in re.split(r"[,\s]+", _text(item)) if word)


def _mapping(value: Any) -> dict[str, Any]:
    value = parse_json(value, "the value") if isinstance(value, str) and value.strip() else value
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


def _filter(value: Any) -> dict[str, list[Any]]:
    return {column: values if isinstance(values, list) else [values] for column, values in _mapping(value).items()}


def _any_value(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class KeySpec:
    """The parser of one key, and whether the key is supported.

    Attributes:
        parse: Converts text or a YAML value; raises ValueError, TypeError or KeyError.
        expected: Description of a valid value, for messages.
        no_effect: Reason for which the key has no effect; empty if it has one.
        reject: Reason for which the key is rejected unless its value is empty or false; empty if it is accepted.
        switch: Whether the flag may be given without a value.
        many: Whether the flag takes several values.
    """

    parse: Callable[[Any], Any]
    expected: str
    no_effect: str = ""
    reject: str = ""
    switch: bool = False
    many: bool = False


TEXT = KeySpec(_text, "a text")
_PATH = KeySpec(_optional_path, "a path")
_COUNT = KeySpec(_integer, "an integer")
_OPTIONAL_COUNT = KeySpec(_optional_integer, "an integer")
_SWITCH = KeySpec(_flag, "true or false", switch=True)
_LIST = KeySpec(_words, "a list of names", many=True)


def _ignored(why: str, many: bool = False, switch: bool = False) -> KeySpec:
    return KeySpec(_any_value, "anything", no_effect=why, many=many, switch=switch)


def _rejected(why: str, many: bool = False, switch: bool = False) -> KeySpec:
    return KeySpec(_any_value, "anything", reject=why, many=many, switch=switch)


_NOT_HF = "Hugging Face tokenizers do not use it"
_PACK = "it packs samples of instruction data; pairs and prompts are packed during training, with separate attention"
_MIX = "datasets are mixed during training: data_path weight,a,weight,b"

KEYS: dict[str, KeySpec] = {
    "input": KeySpec(_path, "a path"),
    "output_prefix": KeySpec(_path, "a path"),
    "handler_name": TEXT,
    "map_keys": KeySpec(_mapping, "a JSON object"),
    "prompt_type": KeySpec(_optional_text, "a template name"),
    "prompt_type_path": _PATH,
    "enable_thinking": KeySpec(_optional_flag, "true, false or none", switch=True),
    "seq_length": _OPTIONAL_COUNT,
    "dataset_additional_keys": _LIST,
    "row_filter": KeySpec(_filter, "a JSON object of column names and values"),
    "mask_history": _SWITCH,
    "response_end": TEXT,
    "pair_selection": TEXT,
    "min_score_margin": KeySpec(float, "a number"),
    "seed": _COUNT,
    "max_invalid_share": KeySpec(float, "a number"),
    "max_samples": _OPTIONAL_COUNT,
    "workers": _COUNT,
    "n_subs": _COUNT,
    "log_interval": _COUNT,
    "tokenizer_name_or_path": _PATH,
    "tokenizer_not_use_fast": _SWITCH,
    "trust_remote_code": _SWITCH,
    "merge_group_keys": _LIST,
    "streaming": _SWITCH,
    "cache_dir": KeySpec(_path, "a path"),
    "overwrite_cache": _SWITCH,
    "hf_datasets_params": _PATH,
    "append_eod": _ignored("the template defines how responses end", switch=True),
    "json_keys": _ignored("the handler determines which columns are read", many=True),
    "vocab_file": _ignored(_NOT_HF),
    "merge_file": _ignored(_NOT_HF),
    "make_vocab_size_divisible_by": _ignored(_NOT_HF),
    "pad_vocab_size_to": _ignored(_NOT_HF),
    "dataset_impl": _ignored("token files are always memory-mapped"),
    "datasets": _ignored("only pre-training tools use it", many=True),
    "pad_to_multiple_of": _ignored("rows are stored without padding"),
    "placeholder_token": _ignored("only used for process reward data"),
    "pack": _rejected(_PACK, switch=True),
    "neat_pack": _rejected(_PACK, switch=True),
    "split_sentences": _rejected("it applies to pre-training text", switch=True),
    "keep_newlines": _rejected("it applies to pre-training text", switch=True),
    "reward_tokens": _rejected("it applies to process reward data", many=True),
    "script_data_dir": _rejected("loading scripts are not supported; pass the data files as input"),
    "dataset_dir": _rejected("it belongs to LlamaFactoryInstructionHandler; pass the data files as input"),
    "interleave_probs": _rejected(_MIX),
    "mix_strategy": KeySpec(_any_value, "anything", no_effect=_MIX),
    "tokenizer_model": _rejected("only Hugging Face tokenizers are supported; set tokenizer_name_or_path"),
    "tokenizer_type": TEXT,
}
