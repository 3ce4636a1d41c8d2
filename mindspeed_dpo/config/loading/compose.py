"""From a configuration's name to one plain tree. Hydra composes here, and nowhere else.

Hydra's compose API is used, not its application wrapper: the working folder, the loggers and the disk stay as they are.
An override may name any setting, whether or not the file mentions it, and a comma in a value is text: there are no
sweeps. What the keys mean is left to `sections` and `resolve`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.legacy.aliases import canonical, did_you_mean, listing, plain

SHIPPED_CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "rlxf"
_KEPT_AS_WRITTEN = re.compile(r"~|\+{2}|\+?(model|hydra|hydra\..*)(@[^=]*)?=")


@dataclass(frozen=True)
class ComposedConfig:
    """A composed configuration.

    Attributes:
        name: The configuration's name, without `.yaml`.
        tree: Plain dictionaries, lists and scalars; interpolations are resolved.
        overrides: Dotted key, with `_` for `-`, to the override as typed.
    """

    name: str
    tree: dict[str, Any]
    overrides: dict[str, str]


def available_configs(config_dir: str | Path | None = None) -> list[str]:
    """Names of the configurations in `config_dir` and of those shipped."""
    return sorted({path.stem for folder in _folders(config_dir) for path in folder.glob("*.yaml")})


def compose(config_name: str, overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> ComposedConfig:
    """Compose a configuration from `config_dir`, else from the shipped ones, with overrides such as `training.lr=1e-6`.

    Model files are looked for in the folder `model` beside or above the configuration, then among the shipped ones.

    Raises:
        ConfigError: There is no such configuration or model file, or a text cannot be read.
    """
    name = config_name.removesuffix(".yaml")
    known = available_configs(config_dir)
    if name not in known:
        raise ConfigError([f"--config-name {name}: there is no such configuration{did_you_mean(name, known)}"])
    folders = sorted(_folders(config_dir), key=lambda folder: not (folder / f"{name}.yaml").is_file())
    beside = [folder.parent for folder in folders if (folder.parent / "model").is_dir()]
    search = ",".join(_quoted(f"file://{folder}") for folder in [*folders[1:], *beside])
    prepared = _all_prepared(overrides)
    try:
        with warnings.catch_warnings(), initialize_config_dir(config_dir=str(folders[0]), version_base="1.3"):
            # Older files lack `_self_`; as wanted, their own sections then win over the model files.
            warnings.filterwarnings("ignore", message=".*_self_", category=UserWarning)
            config = hydra_compose(name, [f"hydra.searchpath=[{search}]", *prepared])
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingConfigException as error:
        models = sorted({path.stem for place in [*folders, *beside] for path in place.glob("model/*.yaml")})
        raise ConfigError([f"{name}.yaml: {_missing(error, models)}"]) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([f"{name}.yaml: {' '.join(str(error).split())}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{name}.yaml: must hold sections such as training, got a list"])
    for text in overrides:
        _drop_other_spellings(tree, _key_of(text).split("."))
    return ComposedConfig(name, {str(key): value for key, value in tree.items()}, {plain(_key_of(o)): o for o in overrides})


def _folders(config_dir: str | Path | None) -> list[Path]:
    if config_dir is None:
        return [SHIPPED_CONFIGS]
    folder = Path(config_dir).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError([f"--config-dir {config_dir}: there is no such folder"])
    return list(dict.fromkeys([folder, SHIPPED_CONFIGS]))


def _all_prepared(overrides: Iterable[str]) -> list[str]:
    prepared, problems = [], []
    for text in overrides:
        try:
            prepared.append(_prepared(text))
        except HydraException as error:
            reason = " ".join(str(error).split())
            problems.append(f"override {text} cannot be read; write section.key=value ({reason})")
    if problems:
        raise ConfigError(problems)
    return prepared


def _prepared(text: str) -> str:
    """An override in Hydra's words: `++` also sets a key that the file leaves out; a list with commas is one text."""
    if OverridesParser.create().parse_override(text).is_sweep_override():
        key, value = text.split("=", 1)
        text = f"{key}={_quoted(value)}"
    return text if _KEPT_AS_WRITTEN.match(text) else f"++{text.removeprefix('+')}"


def _key_of(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _drop_other_spellings(tree: Any, path: list[str]) -> None:
    """Let an override of `min_lr` replace the `min-lr` of the file."""
    for part in path[:-1]:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict) and path[-1] in tree:
        for other in [key for key in tree if key != path[-1] and canonical(key) == canonical(path[-1])]:
            del tree[other]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def _missing(error: MissingConfigException, models: list[str]) -> str:
    wanted = str(error.missing_cfg_file).removesuffix(".yaml")
    choose = f"; choose {listing(models)}" if wanted.startswith("model/") and models else ""
    return f"there is no file {wanted}.yaml{choose}"
