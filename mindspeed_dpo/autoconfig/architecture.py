"""The architecture of a configuration without a model file: that of the weights its roles load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspeed_dpo.autoconfig.config_tree import ACTOR, REF, REWARD, ConfigTree
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.loading.value_parsing import expand_home
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.weights import open_weights
from mindspeed_dpo.weights.errors import HfConfigError, WeightsError
from mindspeed_dpo.weights.hf.hf_config import CONFIG_FILE, read_model_config

_NAMES = {ACTOR: "actor", REF: "ref", REWARD: "reward"}


def add_architectures(tree: ConfigTree) -> None:
    """Add the architecture of the weights of each role to a configuration without a model.

    Raises:
        ConfigError: Weights do not describe their model.
    """
    loads = _loads(tree)
    if ACTOR not in loads:
        return
    problems: list[str] = []
    for section, load in loads.items():
        try:
            model = read_architecture(load)
        except (FileNotFoundError, NotADirectoryError):
            continue  # reported with the other paths
        except (WeightsError, HfConfigError, MalformedDataError, OSError) as error:
            problems.append(f"{section}.load={load}: {error}")
            continue
        tree.add_model(_NAMES[section], _written(model), f"config of {load}")
        if section == ACTOR or tree.section(section) is not None:
            tree.set(section, "model", _NAMES[section], f"config of {load}")
    if problems:
        raise ConfigError(problems)
    _share_models(tree, loads)


def read_architecture(load: str) -> ModelConfig:
    """Read the architecture of weights from the Hugging Face config in or beside them, else from the checkpoint.

    Raises:
        FileNotFoundError: The path does not exist.
        WeightsError: It holds no weights, or they do not describe their model.
        HfConfigError: The model is not supported.
    """
    folder = Path(expand_home(load))
    if (folder / CONFIG_FILE).is_file():
        return read_model_config(folder)
    source = open_weights(folder)
    assets = source.assets()
    return read_model_config(assets) if assets and (assets / CONFIG_FILE).is_file() else source.model_config()


def _loads(tree: ConfigTree) -> dict[str, str]:
    """Return the weights of the roles that load some of their own, the actor first."""
    loads = {section: tree.get(section, "load") for section in (ACTOR, REF, REWARD) if tree.section(section)}
    loads[ACTOR] = loads.get(ACTOR) or tree.get(tree.run_section, "load")
    return {section: load for section, load in loads.items() if isinstance(load, str) and load}


def _share_models(tree: ConfigTree, loads: dict[str, str]) -> None:
    """A section without weights of its own has the actor's model."""
    models = tree.section("model") or {}
    for section in (REF, REWARD):
        if tree.section(section) is not None and section not in loads and "actor" in models:
            is_scored_by_model = section == REF or not any(map(tree.has, ("reward_functions", "judge", "judge_model")))
            if is_scored_by_model:
                tree.set(section, "model", "actor", "model of the actor")


def _written(model: ModelConfig) -> dict[str, Any]:
    """The settings of a model as a file would write them."""
    present = {key: value for key, value in model.as_dict().items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in present.items()}
