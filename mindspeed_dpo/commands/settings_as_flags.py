"""Settings that were written as flags, `--training.lr=1e-6` or `--lr 1e-6`, as the words that they are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.legacy_keys import canonical_key
from mindspeed_dpo.config.loading.compose import available_configs
from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.config.settings.registry import SETTINGS

VALUE_FLAGS = ("--config-name", "-cn", "--config-dir", "--config-path", "-cd")
"""Flags that take a value."""
FLAGS = (*VALUE_FLAGS, "--plan", "--help", "-h")
_OF_OTHER_TOOLS = dict.fromkeys(("--config", "--config-file", "--config_file", "--cfg", "-c"), "--config-name")


def settings_as_words(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which settings have no leading dashes; its own flags are unchanged.

    Raises:
        ConfigError: A flag is neither.
    """
    return list(_words(list(arguments)))


def check_words(words: Sequence[str]) -> None:
    """Check that every word is a setting with a value, or the removal of one, `~section.key`.

    Raises:
        ConfigError: One has no value; the error says what may have been meant.
    """
    problems = [_without_value(word) for word in words if "=" not in word and not word.startswith("~")]
    if problems:
        raise ConfigError(problems)


def _without_value(word: str) -> str:
    if word.endswith(".yaml") or word in available_configs():
        return f"{word} is no setting; did you mean --config-name {word}?"
    return f"{word} has no value; settings are written section.key=value, without spaces around ="


def _words(arguments: list[str]) -> Iterator[str]:
    position = 0
    while position < len(arguments):
        word = arguments[position]
        following = arguments[position + 1] if position + 1 < len(arguments) else None
        position += 1
        if word in VALUE_FLAGS and following is not None:
            yield from (word, following)
            position += 1
        elif not word.startswith("--") or word == "--" or word.split("=")[0] in FLAGS:
            yield word
        elif "=" in word:
            yield word.removeprefix("--")
        elif _is_value(following) and _is_setting(word):
            yield f"{word.removeprefix('--')}={following}"
            position += 1
        elif _is_switch(word):
            yield f"{word.removeprefix('--')}=true"
        else:
            raise ConfigError([f"{word} is no option{_advice(word)}"])


def _is_value(word: str | None) -> bool:
    return word is not None and not word.startswith("--") and "=" not in word


def _is_setting(word: str) -> bool:
    return "." in word or canonical_key(word.removeprefix("--")) in SETTINGS


def _is_switch(word: str) -> bool:
    setting = SETTINGS.get(canonical_key(word.removeprefix("--").rpartition(".")[2]))
    return setting is not None and setting.type is bool


def _advice(word: str) -> str:
    """Return what may have been meant: an option, or a setting, which is written without dashes."""
    name = canonical_key(word.removeprefix("--").rpartition(".")[2])
    if name in SETTINGS:
        return f"; settings are written {word.removeprefix('--')}=value"
    if word in _OF_OTHER_TOOLS:
        return f"; did you mean {_OF_OTHER_TOOLS[word]}?"
    return did_you_mean(word, [flag for flag in FLAGS if flag.startswith("--")]) or did_you_mean(name, SETTINGS)
