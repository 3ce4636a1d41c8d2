"""Parses the command line and YAML files of preprocessing into `PreprocessSettings`, with one table of keys for both.

Keys of MindSpeed-LLM and MindSpeed-RL that have no effect here are accepted and reported. Keys that request an
unsupported feature are rejected with the reason. All problems are reported together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean, normalize_key
from mindspeed_dpo.config.shipped_files import start_of_paths
from mindspeed_dpo.data.preprocessing.config_keys import KEYS, TEXT, is_off
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.storage.user_paths import expanded_text
from mindspeed_dpo.untrusted.errors import MalformedDataError, shortened
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.untrusted.yaml_text import read_yaml_texts

_PROBLEM_CHARACTERS, _ALL_CHARACTERS = 800, 4500
"""Length of one problem, and of the message that lists all: they quote what was given, which may be long."""


class SettingsError(ValueError):
    """Raised for invalid settings; the message lists all problems, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = [shortened(problem, _PROBLEM_CHARACTERS) for problem in problems]
        super().__init__(shortened("\n".join(f"- {problem}" for problem in self.problems), _ALL_CHARACTERS))


_HF_TOKENIZERS = ("PretrainedFromHF", "HuggingFaceTokenizer")


@dataclass(frozen=True)
class ParsedArguments:
    """The result of parsing.

    Example:
        ParsedArguments(
            settings=PreprocessSettings(input="train.jsonl", output_prefix="out/train", ...),
            notices=("seed has no effect: preprocessing is deterministic",),
        )

    Attributes:
        settings: Valid settings.
        notices: One sentence for each given key that has no effect.
    """

    settings: PreprocessSettings
    notices: tuple[str, ...]


def parse(arguments: Sequence[str], root: Path) -> ParsedArguments:
    """Parse a command line: flags, or the name or path of a YAML file followed by overrides.

    Args:
        arguments: Command-line arguments without the program's name.
        root: Repository root, which contains `configs/datasets`; relative paths in those files start here. For an
            installed package its folder of shipped files, and paths start in the working directory.

    Raises:
        FileNotFoundError: The YAML file does not exist.
        SettingsError: A key or a value is invalid.
    """
    words = list(arguments)
    from_file: dict[str, Any] = {}
    notices: list[str] = []
    if words and not words[0].startswith("-") and "=" not in words[0]:
        from_file = read_yaml(words.pop(0), root)
        if not is_off(from_file.pop("tokenizer_not_use_fast", None)):
            notices.append("tokenizer_not_use_fast has no effect in a YAML file, as in MindSpeed-RL; pass it as a flag")
    from_flags, problems = _read_flags(words)
    return _resolve({**from_file, **from_flags}, problems, notices)


def read_yaml(name: str, root: Path) -> dict[str, Any]:
    """Read the keys of `configs/datasets/{name}.yaml`, or of the YAML file at a path.

    Raises:
        FileNotFoundError: Neither exists; the message suggests the closest name.
        MalformedDataError: The path is no regular file.
        SettingsError: The file is not a YAML mapping.
    """
    folder = root / "configs" / "datasets"
    shipped = folder / f"{name.removesuffix('.yaml')}.yaml"
    path = Path(expanded_text(name))
    # Without an ending it may be the name of a shipped file, whatever folder has that name, too.
    is_shipped = not has_file(path) if path.suffix in (".yaml", ".yml") else not path.is_file()
    path = shipped if is_shipped else path
    if not path.is_file():
        available = sorted(file.stem for file in folder.glob("*.yaml"))
        raise FileNotFoundError(
            f"there is no dataset file {name} and no {shipped}; available: {', '.join(available)}"
            f"{did_you_mean(name, available)}"
        )
    try:
        content = read_yaml_texts(path)
    except MalformedDataError as error:
        raise SettingsError([str(error)]) from error
    values = {normalize_key(key): value for key, value in content.items()}
    start = start_of_paths(root)
    return {key: _from_root(key, value, start) for key, value in values.items()} if is_shipped else values


def _from_root(key: str, value: Any, root: Path) -> Any:
    """Resolve a path of a shipped YAML file against the repository root; `owner/name` on the hub is left as it is."""
    paths = ("input", "output_prefix", "tokenizer_name_or_path", "prompt_type_path", "hf_datasets_params")
    if key not in paths or not isinstance(value, str) or not value:
        return value
    is_hub_name = key == "input" and not value.startswith((".", "/", "~"))
    return value if is_hub_name else str(root / expanded_text(value))


def _read_flags(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Parse `--key value`, `--key=value`, `--switch` and `key=value`; return the values and a list of problems."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for head, tail in _group_by_flag(words):
        name, joined, value = head.lstrip("-").partition("=")
        key = normalize_key(name)
        spec = KEYS.get(key, TEXT)
        given = ([value] if joined else []) + tail
        if len(given) > 1 and not spec.many:
            problems.append(f"{head}: expected one value, got {' '.join(given)}")
        elif not given and not spec.switch:
            problems.append(
                f"{head} needs a value" if head.startswith("-") else f"{head!r} is neither --key nor key=value"
            )
        else:
            values[key] = tuple(filter(None, given)) if spec.many else given[0] if given else True
    return values, problems


def _group_by_flag(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with its values; `key=value` starts a group unless it is the only value of a flag."""
    head: str | None = None
    tail: list[str] = []
    for word in words:
        starts = word.startswith("--") or (re.match(r"[\w-]+=", word) and (head is None or tail or "=" in head))
        if starts or head is None:
            if head is not None:
                yield head, tail
            head, tail = word, []
        else:
            tail.append(word)
    if head is not None:
        yield head, tail


def _resolve(values: Mapping[str, Any], problems: list[str], notices: list[str]) -> ParsedArguments:
    parsed: dict[str, Any] = {}
    for key, value in values.items():
        spec = KEYS.get(key)
        if spec is None:
            problems.append(f"{key} is not a setting{did_you_mean(key, KEYS)}")
        elif spec.reject and not is_off(value):
            problems.append(f"{key} cannot be used here: {spec.reject}")
        elif spec.no_effect:
            notices.append(f"{key} has no effect: {spec.no_effect}")
        elif not spec.reject:
            try:
                parsed[key] = spec.parse(value)
            except (ValueError, TypeError, KeyError):
                problems.append(f"{key} should be {spec.expected}, got {value!r}")
    kind = parsed.pop("tokenizer_type", _HF_TOKENIZERS[0])
    if kind not in _HF_TOKENIZERS:
        problems.append(f"tokenizer_type {kind} is not supported; use {' or '.join(_HF_TOKENIZERS)}")
    settings = PreprocessSettings(**parsed)
    # A key whose value could not be parsed must not be reported as missing, too.
    unparsed = {f"{key} is missing" for key in values if key not in parsed}
    problems += [problem for problem in settings.problems() if not problem.startswith(tuple(unparsed))]
    if problems:
        raise SettingsError(problems)
    return ParsedArguments(settings, tuple(notices))
