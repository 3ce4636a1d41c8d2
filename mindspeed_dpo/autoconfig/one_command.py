"""The configuration of `train model=FOLDER data=FILE`: the defaults of its stage, and what model and data decide."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindspeed_dpo.autoconfig.architecture import add_architectures, read_architecture
from mindspeed_dpo.autoconfig.bare_keys import compose_words
from mindspeed_dpo.autoconfig.command_words import CommandWords
from mindspeed_dpo.autoconfig.config_tree import ACTOR, ConfigTree
from mindspeed_dpo.autoconfig.data_request import DataRequest, parse_settings
from mindspeed_dpo.autoconfig.layout import add_layout
from mindspeed_dpo.autoconfig.steps import add_steps, set_placeholder
from mindspeed_dpo.autoconfig.token_files import existing_prefix, token_files
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import validate
from mindspeed_dpo.config.loading.compose import ComposedConfig
from mindspeed_dpo.config.loading.value_parsing import expand_home
from mindspeed_dpo.config.settings.training import ONLINE_STAGE
from mindspeed_dpo.config.shipped_files import PROJECT
from mindspeed_dpo.config.validation.path_advice import missing_data_advice, missing_weights_advice
from mindspeed_dpo.data.tokenization.tokenizer import has_tokenizer
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.device.available_devices import num_devices
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.weights import open_weights
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_config import CONFIG_FILE

DEFAULTS = PROJECT / "configs" / "defaults"
_SEQ_LENGTH = {"dpo": 2048, "rm": 2048, ONLINE_STAGE: 1024}
_PASS_TOKENS = 8192
"""Tokens of a pass unless the command says otherwise; at least two sequences of the longest length."""
_RATES = {"dpo": (1e-6, 1e-5), "rm": (1e-5, 1e-4), ONLINE_STAGE: (5e-7, 5e-6)}
"""Peak learning rates for all weights and for adapters, which learn at ten times the rate (TRL's recommendation)."""
_NUM_EVALUATIONS = 10
_DEFAULT = "default of the command"
_SHORT_STAGE = {ONLINE_STAGE: "online"}


def configure(
    words: CommandWords, show: Callable[[str], None], exists: Callable[[str], bool] = os.path.exists
) -> ComposedConfig:
    """Return the complete configuration of a command; raw data becomes tokens in the cache.

    Args:
        words: The command.
        show: Receives lines for the user about raw data.
        exists: Returns whether a path exists.

    Raises:
        ConfigError: The command has problems, or its model or data cannot be used.
    """
    _check_model_folder(words.model)
    settings = parse_settings(words.preprocessing)
    tree = ConfigTree(compose_words(words.stage, words.overrides, DEFAULTS))
    stage = _SHORT_STAGE.get(words.stage, words.stage)
    tree.name_run(f"{real_path(expand_home(words.model)).name}_{stage}")
    _add_model(tree, words)
    _add_devices(tree, words)
    _add_training(tree, words)
    _check_before_data(tree, words)
    request = DataRequest(
        "prompt" if words.stage == ONLINE_STAGE else "pair",
        str(tree.find("tokenizer_name_or_path") or ""),
        settings,
        words.token_cache_dir,
    )
    _add_data(tree, words, request, show)
    has_interval = tree.find("eval_interval") is not None
    if words.eval and not has_interval:
        tree.set("training", "eval_interval", 1, "eval=")
    add_layout(tree)
    add_steps(tree, exists)
    if words.eval and not has_interval:
        # A length that is no number is reported when it is read.
        steps = str(tree.find("train_iters"))
        interval = max(1, int(steps) // _NUM_EVALUATIONS) if steps.isdecimal() else 1
        tree.set("training", "eval_interval", interval, "eval=")
    return tree.composed()


def _check_model_folder(model: str) -> None:
    """Report a model that is no folder.

    Raises:
        ConfigError: It is none.
    """
    path = Path(expand_home(model))
    if path.is_file():
        raise ConfigError([f"model={model} is a file; name the folder with the weights and their config.json"])
    if not path.is_dir():
        raise ConfigError([f"model={model} does not exist{missing_weights_advice(model)}"])


def _missing_data(words: CommandWords) -> list[str]:
    """Return a sentence for each data set that does not exist; a list of sets is looked at when it is read."""
    given = {"data": words.data, **({"eval": words.eval} if words.eval else {})}
    return [
        f"{key}={path} does not exist{missing_data_advice(path)}"
        for key, path in given.items()
        if "," not in path and not _exists(str(expand_home(path)))
    ]


def _exists(path: str) -> bool:
    return Path(path).exists() or existing_prefix(path) is not None


def _add_model(tree: ConfigTree, words: CommandWords) -> None:
    source = f"model={words.model}"
    tree.fill(ACTOR, {"load": words.model}, source)
    if tree.find("tokenizer_name_or_path") is None:
        tree.set("training", "tokenizer_name_or_path", _tokenizer_folder(words.model), source)
    add_architectures(tree)
    if words.lora is None and not _has_hf_config(words.model):
        tree.set_unless_overridden("training", "export_hf", False, f"no config.json with {words.model}")
    longest = read_architecture(words.model).max_position_embeddings if not tree.has("seq_length") else 0
    tree.fill("training", {"seq_length": min(_SEQ_LENGTH[words.stage], longest)}, _DEFAULT)


def _has_hf_config(model: str) -> bool:
    folder = Path(expand_home(model))
    return (folder / CONFIG_FILE).is_file() or open_weights(folder).assets() is not None


def _tokenizer_folder(model: str) -> str:
    """Return the folder of the tokenizer that comes with weights.

    Raises:
        ConfigError: There is none.
    """
    folder = Path(expand_home(model))
    if has_tokenizer(folder):
        return model
    try:
        assets = open_weights(folder).assets()
    except WeightsError as error:
        raise ConfigError([f"model={model}: {error}"]) from error
    except (ValueError, OSError):
        assets = None
    if assets is None or not has_tokenizer(assets):
        raise ConfigError([f"model={model} comes without a tokenizer; set tokenizer_name_or_path"])
    return str(assets)


def _add_devices(tree: ConfigTree, words: CommandWords) -> None:
    device = str(tree.find("device") or "auto")
    try:
        kind = find_accelerator(device).kind
    except ValueError:
        return  # reported when it is read
    if (tree.section("resource_pool") or {}).get("actor_rollout") is None:
        count = words.devices or num_devices(kind)
        source = f"devices={count}" if words.devices else f"{kind} devices of this machine"
        tree.set("resource_pool", "actor_rollout", [count], source)
    if kind != "cpu":
        tree.fill("training", {"bf16": True}, f"device={kind}")


def _add_training(tree: ConfigTree, words: CommandWords) -> None:
    """Add what depends on the stage, on adapters, and on which of two alternative keys the user sets."""
    rates = _RATES[words.stage]
    if words.lora is not None:
        adapters: dict[str, Any] = {"lora_r": words.lora, "lora_alpha": 2 * words.lora}
        if not tree.has("lora_target_parameters"):
            adapters["lora_target_modules"] = ["all-linear"]
        tree.fill(ACTOR, adapters, f"lora={words.lora}")
    tree.fill(ACTOR, {"lr": rates[words.lora is not None]}, _DEFAULT)
    if tree.find("train_iters") is None:
        tree.fill("training", {"num_train_epochs": 1}, _DEFAULT)
    if not tree.has("micro_batch_size"):
        longest = tree.find("seq_length")
        tokens = max(_PASS_TOKENS, 2 * int(longest)) if str(longest).isdecimal() else _PASS_TOKENS
        tree.fill(ACTOR, {"micro_batch_tokens": tokens}, _DEFAULT)
    if words.stage == ONLINE_STAGE and not tree.has("max_prompt_length") and str(tree.find("seq_length")).isdecimal():
        tree.fill(ACTOR, {"max_prompt_length": int(tree.find("seq_length")) // 2}, _DEFAULT)
    tree.fill("training", {"layout": "auto"}, _DEFAULT)


def _check_before_data(tree: ConfigTree, words: CommandWords) -> None:
    """Report every problem of the settings before any row is read.

    Raises:
        ConfigError: There are some.
    """
    trial = ConfigTree(tree.composed())
    trial.remove("layout")
    set_placeholder(trial)
    trial.set(ACTOR, "data_path", words.data, "data=")
    if words.eval:
        trial.set("training", "eval_data_path", words.eval, "eval=")
        trial.fill("training", {"eval_interval": 1}, "eval=")
    problems = [*validate(trial.composed(), exists=lambda path: True).problems, *_missing_data(words)]
    if problems:
        raise ConfigError(problems)


def _add_data(tree: ConfigTree, words: CommandWords, request: DataRequest, show: Callable[[str], None]) -> None:
    paths = {"data": words.data, **({"eval": words.eval} if words.eval else {})}
    for name, path in paths.items():
        try:
            prefix = _prefixes(str(expand_home(path)), request, show)
        except (ValueError, OSError) as error:
            raise ConfigError([f"{name}={path}: {error}"]) from error
        section, key = (ACTOR, "data_path") if name == "data" else ("training", "eval_data_path")
        tree.set(section, key, prefix, f"{name}={path}")


def _prefixes(path: str, request: DataRequest, show: Callable[[str], None]) -> str:
    """Return the token files of a path, or of several with or without weights, as `data_path` takes them."""
    if "," not in path or Path(path).exists():
        return token_files(path, request, show)
    parts = [part.strip() for part in path.split(",")]
    return ",".join(part if _is_weight(part) else token_files(part, request, show) for part in parts)


def _is_weight(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True
