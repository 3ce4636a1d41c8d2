"""The words of a command line without a configuration file: model, data, and what else has a short name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mindspeed_dpo.autoconfig.data_request import DEFAULT_CACHE_DIR, PREPROCESSING_KEYS
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words, normalize_key
from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.config.settings.training import ONLINE_STAGE, REWARD_MODEL_STAGE

STAGES = {
    **dict.fromkeys(("offline", "dpo"), "dpo"),
    **dict.fromkeys(("online", ONLINE_STAGE), ONLINE_STAGE),
    **dict.fromkeys((REWARD_MODEL_STAGE, "reward_model", "orm"), REWARD_MODEL_STAGE),
}
"""Values of `stage=`, and the stage that each stands for."""
SHORT_KEYS = ("model", "data", "eval", "lora", "stage", "devices", "token_cache_dir")
_OFF, _ON = ("false", "no", "off", "0"), ("true", "yes", "on")
_DEFAULT_RANK = 16


@dataclass(frozen=True)
class CommandWords:
    """A parsed command line, for example `CommandWords("models/qwen", "pairs.jsonl", lora=16)`.

    Attributes:
        model: Folder of the weights.
        data: Raw data or token files to train on.
        eval: The same to evaluate on; None for no evaluation.
        lora: Rank of the adapters; None to train all weights.
        stage: Stage of the run.
        devices: Number of processes, one device each; None for all devices, or one process on the CPU.
        token_cache_dir: Folder of the tokens of raw data.
        preprocessing: Keys of preprocessing, as written.
        overrides: All other words.
    """

    model: str
    data: str
    eval: str | None = None
    lora: int | None = None
    stage: str = "dpo"
    devices: int | None = None
    token_cache_dir: str = DEFAULT_CACHE_DIR
    preprocessing: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()


def names_model_or_data(words: Sequence[str]) -> bool:
    """Return whether words ask for a run without a configuration file."""
    return any(word.startswith(("model=", "data=")) for word in words)


def parse_words(words: Sequence[str]) -> CommandWords:
    """Parse the words of a command line.

    Raises:
        ConfigError: A word is missing or has no valid value; the error lists all of them.
    """
    short: dict[str, str] = {}
    preprocessing: dict[str, str] = {}
    overrides: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        key = normalize_key(name)
        if equals and key in SHORT_KEYS:
            short[key] = value
            continue
        if equals and key in PREPROCESSING_KEYS:
            preprocessing[key] = value
        if not equals or key not in PREPROCESSING_KEYS or key in SETTINGS:
            overrides.append(word)
    problems: list[str] = []
    for key, example in (("model", "a folder with weights"), ("data", "a file or folder of pairs, or token files")):
        if not short.get(key):
            problems.append(f"{key}= is missing: name {example}, or a configuration with --config-name")
    stage, devices, lora = _stage(short, problems), _devices(short, problems), _rank(short, problems)
    if problems:
        raise ConfigError(problems)
    return CommandWords(
        short["model"],
        short["data"],
        short.get("eval") or None,
        lora,
        stage,
        devices,
        short.get("token_cache_dir") or DEFAULT_CACHE_DIR,
        preprocessing,
        tuple(overrides),
    )


def _stage(short: dict[str, str], problems: list[str]) -> str:
    written = short.get("stage", "dpo")
    if written not in STAGES:
        choices = join_words(["offline", "online", REWARD_MODEL_STAGE])
        problems.append(f"stage={written} must be {choices}{did_you_mean(written, STAGES)}")
    return STAGES.get(written, "dpo")


def _devices(short: dict[str, str], problems: list[str]) -> int | None:
    written = short.get("devices")
    if written is None:
        return None
    if not written.isdecimal() or int(written) < 1:
        problems.append(f"devices={written} must be the number of processes, one device each")
        return None
    return int(written)


def _rank(short: dict[str, str], problems: list[str]) -> int | None:
    written = short.get("lora", "false").lower()
    if written in _OFF:
        return None
    if written in _ON:
        return _DEFAULT_RANK
    if not written.isdecimal():
        problems.append(f"lora={written} must be the rank of the adapters, such as 16, or false")
        return None
    return int(written)
