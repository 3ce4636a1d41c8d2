"""The check of configuration files before Hydra composes them: their form, their size and their list of defaults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.loading.foreign_files import foreign_file_problem
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.untrusted.yaml_text import read_yaml_texts

_KEYWORDS = ("optional", "override")
_MAX_NAME_BYTES = 250
"""Length of a name before `.yaml`; file systems hold 255 bytes."""


def check_config_files(name: str, folders: Sequence[Path]) -> None:
    """Check a configuration and the files that its `defaults` name; absent files are left to Hydra.

    Args:
        name: Name of the configuration, without `.yaml`.
        folders: Folders that are searched, in order.

    Raises:
        ConfigError: A file is not a mapping, exceeds a limit, or its `defaults` are malformed; the message names it.
    """
    waiting, checked = [name], set()
    while waiting:
        files = [folder / f"{waiting[-1]}.yaml" for folder in folders]
        waiting.pop()
        try:
            file = next((file for file in files if has_file(file)), None)
            if file is None or file in checked:
                continue
            checked.add(file)
            content = read_yaml_texts(file)
            waiting += _defaults(content, file)
        except (MalformedDataError, OSError) as error:
            raise ConfigError([str(error)]) from error
        if problem := foreign_file_problem(content, file):
            raise ConfigError([problem])


def _defaults(content: dict[str, Any], file: Path) -> Iterator[str]:
    """Yield the names of the files, without `.yaml`, in the `defaults` of a file."""
    entries = content.get("defaults")
    if entries is None:
        return
    if not isinstance(entries, list):
        raise MalformedDataError(f"{file}: defaults must be a list such as `- model: llama`, got {entries!r}")
    for entry in entries:
        pairs = entry.items() if isinstance(entry, dict) and len(entry) == 1 else [(None, entry)]
        for group, option in pairs:
            options = option if isinstance(option, list) else [option]
            if not (group is None or isinstance(group, str)) or not all(_is_option(item, group) for item in options):
                raise MalformedDataError(
                    f"{file}: defaults must hold `- name` or `- group: name`, got {str(entry)[:100]!r}"
                )
            yield from (_file_name(group, item) for item in options if isinstance(item, str) and item != "_self_")


def _is_option(option: Any, group: str | None) -> bool:
    """Return whether a value names a file, which a file system could hold; a group may be left empty."""
    if isinstance(option, str):
        return all(len(part.encode(errors="replace")) <= _MAX_NAME_BYTES for part in f"{group}/{option}".split("/"))
    return group is not None and option is None


def _file_name(group: str | None, option: str) -> str:
    option = option.split("@")[0].strip().removesuffix(".yaml")
    words = [word for word in (group or "").split("@")[0].split() if word not in _KEYWORDS]
    return "/".join([*words, option]).lstrip("/")
