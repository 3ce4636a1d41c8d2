"""Every key of MindSpeed-LLM's and MindSpeed-RL's preprocessing: how its value is read and what becomes of it here.

Used keys are fields of `PreprocessSettings`; the others have no effect, or are refused, each with its sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SWITCHED_OFF: tuple[Any, ...] = (None, False, "", "false", "False", (), [])
"""Values with which a refused key asks for nothing."""


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return words[str(value).lower()]


def _optional_flag(value: Any) -> bool | None:
    return None if value is None or str(value).lower() in ("none", "null", "") else _flag(value)


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise TypeError
    return str(value)


def _optional_text(value: Any) -> str | None:
    return None if value is None or value in ("", "null", "none", "None") else _text(value)


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
    value = json.loads(value) if isinstance(value, str) and value.strip() else value
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)


def _anything(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Key:
    """One key: how its value is read, and what becomes of it.

    Attributes:
        read: From text or a YAML value; raises ValueError, TypeError or KeyError.
        expected: What a good value is, for messages.
        no_effect: Why the key changes nothing; such keys are reported.
        reject: Why the key cannot be used, unless its value is empty or false.
        switch: Whether the flag may stand without a value.
        many: Whether the flag takes several words.
    """

    read: Callable[[Any], Any]
    expected: str
    no_effect: str = ""
    reject: str = ""
    switch: bool = False
    many: bool = False


TEXT = Key(_text, "a text")
_PATH = Key(_optional_text, "a path")
_COUNT = Key(_integer, "a whole number")
_OPTIONAL_COUNT = Key(_optional_integer, "a whole number")
_SWITCH = Key(_flag, "true or false", switch=True)
_LIST = Key(_words, "a list of names", many=True)


def _ignored(why: str, many: bool = False, switch: bool = False) -> Key:
    return Key(_anything, "anything", no_effect=why, many=many, switch=switch)


def _refused(why: str, many: bool = False, switch: bool = False) -> Key:
    return Key(_anything, "anything", reject=why, many=many, switch=switch)


_NOT_HF = "not read for Hugging Face tokenizers"
_PACK = "it joins samples of instruction data; pairs and prompts are packed in training, without losing their borders"
_MIX = "sets are mixed in training: data_path weight,a,weight,b"

KEYS: dict[str, Key] = {
    "input": TEXT,
    "output_prefix": TEXT,
    "handler_name": TEXT,
    "map_keys": Key(_mapping, "a JSON object"),
    "prompt_type": Key(_optional_text, "a template name"),
    "prompt_type_path": _PATH,
    "enable_thinking": Key(_optional_flag, "true, false or none", switch=True),
    "seq_length": _OPTIONAL_COUNT,
    "dataset_additional_keys": _LIST,
    "max_invalid_share": Key(float, "a number"),
    "max_samples": _OPTIONAL_COUNT,
    "workers": _COUNT,
    "n_subs": _COUNT,
    "log_interval": _COUNT,
    "tokenizer_name_or_path": _PATH,
    "tokenizer_not_use_fast": _SWITCH,
    "trust_remote_code": _SWITCH,
    "merge_group_keys": _LIST,
    "streaming": _SWITCH,
    "cache_dir": TEXT,
    "overwrite_cache": _SWITCH,
    "hf_datasets_params": _PATH,
    "append_eod": _ignored("responses end as their template says", switch=True),
    "json_keys": _ignored("the handler says which columns are read", many=True),
    "seed": _ignored("nothing here is random"),
    "vocab_file": _ignored(_NOT_HF),
    "merge_file": _ignored(_NOT_HF),
    "make_vocab_size_divisible_by": _ignored(_NOT_HF),
    "pad_vocab_size_to": _ignored(_NOT_HF),
    "dataset_impl": _ignored("token files are always memory-mapped"),
    "datasets": _ignored("only read by pre-training tools", many=True),
    "pad_to_multiple_of": _ignored("rows are stored without padding"),
    "placeholder_token": _ignored("only read for process reward data"),
    "pack": _refused(_PACK, switch=True),
    "neat_pack": _refused(_PACK, switch=True),
    "split_sentences": _refused("it is for pre-training text", switch=True),
    "keep_newlines": _refused("it is for pre-training text", switch=True),
    "reward_tokens": _refused("it is for process reward data", many=True),
    "script_data_dir": _refused("loading scripts are not run; give the data files as input"),
    "dataset_dir": _refused("it belongs to LlamaFactoryInstructionHandler; give the data files as input"),
    "interleave_probs": _refused(_MIX),
    "mix_strategy": Key(_anything, "anything", no_effect=_MIX),
    "tokenizer_model": _refused("only Hugging Face tokenizers are read; give tokenizer_name_or_path"),
    "tokenizer_type": TEXT,
}
