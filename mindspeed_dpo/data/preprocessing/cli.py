"""From a command line or a YAML file to `PreprocessSettings`: one table of keys, flags and files alike.

Keys of MindSpeed-LLM and MindSpeed-RL that change nothing here are accepted and reported; those that asked for
something this project does not do are refused with a sentence. All problems are listed at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mindspeed_dpo.config.names import did_you_mean, normalize_key
from mindspeed_dpo.data.preprocessing.config_keys import KEYS, SWITCHED_OFF, TEXT
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings


class SettingsError(ValueError):
    """One or more settings cannot be used; the message lists all of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"- {problem}" for problem in problems))
        self.problems = list(problems)


_HF_TOKENIZERS = ("PretrainedFromHF", "HuggingFaceTokenizer")


@dataclass(frozen=True)
class Parsed:
    """Settings, and remarks on keys that change nothing."""

    settings: PreprocessSettings
    remarks: tuple[str, ...]


def parse(arguments: Sequence[str], root: Path) -> Parsed:
    """Read a command line: flags, or the name or path of a YAML file followed by overrides.

    Args:
        arguments: Without the program's name.
        root: Where `configs/datasets` lies; relative paths in its files are meant from here.

    Raises:
        FileNotFoundError: There is no such YAML file.
        SettingsError: Keys or values cannot be used.
    """
    words = list(arguments)
    from_file: dict[str, Any] = {}
    remarks: list[str] = []
    if words and not words[0].startswith("-") and "=" not in words[0]:
        from_file = read_yaml(words.pop(0), root)
        if from_file.pop("tokenizer_not_use_fast", None):
            remarks.append("tokenizer_not_use_fast has no effect in a YAML file, as in MindSpeed-RL; give it as a flag")
    from_flags, problems = _read_flags(words)
    return _settle({**from_file, **from_flags}, problems, remarks)


def read_yaml(name: str, root: Path) -> dict[str, Any]:
    """The keys of `configs/datasets/{name}.yaml`, or of the YAML file at a path.

    Raises:
        FileNotFoundError: Neither exists; names the nearest.
        SettingsError: It is not a flat YAML mapping.
    """
    folder = root / "configs" / "datasets"
    shipped = folder / f"{name.removesuffix('.yaml')}.yaml"
    path = Path(name).expanduser()
    is_shipped = not path.is_file()
    path = shipped if is_shipped else path
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise FileNotFoundError(
            f"there is no dataset file {name} and no {shipped}; known are {', '.join(known)}{did_you_mean(name, known)}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError([f"{path} is not valid YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, Mapping):
        raise SettingsError([f"{path} should hold `key: value` lines"])
    values = {normalize_key(key): value for key, value in content.items()}
    return {key: _from_root(key, value, root) for key, value in values.items()} if is_shipped else values


def _from_root(key: str, value: Any, root: Path) -> Any:
    """Paths of shipped files are meant from the repository; `owner/name` on the hub is no path."""
    paths = ("input", "output_prefix", "tokenizer_name_or_path", "prompt_type_path", "hf_datasets_params")
    if key not in paths or not isinstance(value, str) or not value:
        return value
    is_hub_name = key == "input" and not value.startswith((".", "/", "~"))
    return value if is_hub_name else str(root / Path(value).expanduser())


def _read_flags(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """`--key value`, `--key=value`, `--switch` and `key=value` as a mapping, and what could not be read."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for head, tail in _grouped(words):
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


def _grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with the words that follow it; `key=value` stands alone unless it is the flag's only value."""
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


def _settle(values: Mapping[str, Any], problems: list[str], remarks: list[str]) -> Parsed:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        spec = KEYS.get(key)
        if spec is None:
            problems.append(f"{key} is not a setting{did_you_mean(key, KEYS)}")
        elif spec.reject and value not in SWITCHED_OFF:
            problems.append(f"{key} cannot be used here: {spec.reject}")
        elif spec.no_effect:
            remarks.append(f"{key} has no effect: {spec.no_effect}")
        elif not spec.reject:
            try:
                kept[key] = spec.read(value)
            except (ValueError, TypeError, KeyError):
                problems.append(f"{key} should be {spec.expected}, got {value!r}")
    kind = kept.pop("tokenizer_type", _HF_TOKENIZERS[0])
    if kind not in _HF_TOKENIZERS:
        problems.append(f"tokenizer_type {kind} is not supported; use {' or '.join(_HF_TOKENIZERS)}")
    settings = PreprocessSettings(**kept)
    # A key with a value that cannot be read is not missing as well.
    unread = {f"{key} is missing" for key in values if key not in kept}
    problems += [problem for problem in settings.problems() if not problem.startswith(tuple(unread))]
    if problems:
        raise SettingsError(problems)
    return Parsed(settings, tuple(remarks))
