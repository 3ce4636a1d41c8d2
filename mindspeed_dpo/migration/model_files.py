"""The architecture of a model, for files that only name it: a model file beside it, a folder, or a shipped file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.legacy_keys import normalize_key
from mindspeed_dpo.config.settings.setting import group_settings
from mindspeed_dpo.config.shipped_files import PROJECT
from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.text_files import is_file_name
from mindspeed_dpo.untrusted.yaml_text import read_yaml_texts

_MODELS = PROJECT / "configs" / "model"
_LEVELS = 3
_SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")
_SUFFIXES = r"(?:-(?:instruct|base|chat|hf|sft|it|v\d+(?:\.\d+)*))+$"
# The shipped llama3-8b has the rotary positions of Llama 3.1, which Llama 3 does not have.
_OTHER_NAMES = {"llama-3.1-8b": "llama3-8b", "llama-3-8b": "llama 3 without scaling"}


def shipped_models() -> list[str]:
    """Names of the files in configs/model."""
    return sorted(path.stem for path in _MODELS.glob("*.yaml"))


def shipped_model(name: str) -> str:
    """Return the shipped model file that describes a model of this name or path; "" where none does.

    `Qwen/Qwen3-8B`, `./model_from_hf/qwen3_8b` and `Qwen2.5-7B-Instruct` are found: neither `.` nor `-` counts.
    """
    wanted = re.sub(_SUFFIXES, "", Path(name.rstrip("/")).name.lower().replace("_", "-")).removeprefix("meta-")
    wanted = _OTHER_NAMES.get(wanted, wanted)
    return next((model for model in shipped_models() if model == wanted or _compact(model) == _compact(wanted)), "")


def _compact(name: str) -> str:
    return name.replace(".", "").replace("-", "")


def model_block(name: str, file: Path) -> dict[str, Any] | None:
    """Read the model file of this name in `model` beside a configuration or in the folders above it.

    Returns:
        Its keys with `_` for `-`; None if there is no such file.

    Raises:
        MigrationError: The file does not hold one model of that name.
    """
    folders = [file.parent, *file.parent.parents][:_LEVELS]
    if not is_file_name(f"{name}.yaml"):
        return None
    path = next((path for path in (folder / "model" / f"{name}.yaml" for folder in folders) if path.is_file()), None)
    if path is None:
        return None
    with reraised_as(MigrationError):
        content = read_yaml_texts(path)
    block = content.get(name)
    if not isinstance(block, Mapping):
        raise MigrationError(f"{path}: should contain the keys of the model below `{name}:`")
    return {normalize_key(key): value for key, value in block.items()}


def model_of_size(settings: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return name and embedding rows of the shipped model with these layers and widths, if there is one."""
    for name in shipped_models():
        block = read_yaml_texts(_MODELS / f"{name}.yaml")[name]
        if all(str(settings.get(key)) == block.get(key) for key in _SIZES):
            return name, int(block.get("padded_vocab_size") or block["vocab_size"])
    return None


def is_folder(name: str) -> bool:
    """Whether a text is the path of a folder; a text that is no path at all is none."""
    try:
        return expanded_path(name).is_dir()
    except (OSError, ValueError):
        return False


def folder_settings(folder: str) -> dict[str, Any] | None:
    """Read the settings of the model in a Hugging Face folder; None where the folder has no config.json.

    Raises:
        MigrationError: Its config.json asks for something that is not supported.
    """
    # Deferred: only folders need it, and it imports torch.
    from mindspeed_dpo.weights.errors import HfConfigError
    from mindspeed_dpo.weights.hf.hf_config import read_model_config

    if not is_folder(folder) or not (expanded_path(folder) / "config.json").is_file():
        return None
    try:
        model = read_model_config(expanded_path(folder))
    except HfConfigError as error:
        raise MigrationError(str(error)) from error
    values = {key: getattr(model, key) for key in group_settings(type(model))}
    defaults = {item.name: item.default for item in dataclasses.fields(type(model))}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None and (value != defaults[key] or key == "make_vocab_size_divisible_by")
    }
