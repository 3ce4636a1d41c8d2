"""Composition of a configuration with Hydra: from its name and overrides to one tree of plain values.

This uses Hydra's compose API, not its application wrapper, so the working directory, logging and the disk are not
touched. An override may set any key, whether or not the file has it, and a comma in a value is text, not a sweep.
Scalars of files and overrides stay the text that was written. The meaning of keys is left to `sections` and `resolve`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.legacy_keys import canonical_key
from mindspeed_dpo.config.loading import yaml_scalars_as_text
from mindspeed_dpo.config.loading.config_files import check_config_files
from mindspeed_dpo.config.loading.interpolations import limited_interpolations, text_in_interpolations
from mindspeed_dpo.config.loading.overrides_as_text import quote_typed_values, quote_unknown_characters, quoted
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words, normalize_key
from mindspeed_dpo.config.shipped_files import PROJECT
from mindspeed_dpo.storage.user_paths import real_path

SHIPPED_CONFIGS = PROJECT / "configs" / "rlxf"
# What Hydra and OmegaConf raise for content that they do not expect; the files themselves are checked before.
_COMPOSE_ERRORS = (
    HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, AssertionError,
    KeyError, IndexError, RecursionError, OverflowError,
)  # fmt: skip
_UNCHANGED_OVERRIDE = re.compile(r"~|\+{2}|\+?(model|hydra|hydra\..*)(@[^=]*)?=")


@dataclass(frozen=True)
class ComposedConfig:
    """A composed configuration, for example `ComposedConfig("mine", {"training": {"lr": 1e-6}}, {})`.

    Attributes:
        name: Name of the configuration, without `.yaml`.
        tree: Plain dictionaries, lists, texts and None; interpolations are resolved.
        overrides: Dotted key, with `_` for `-`, to the override as typed.
        sources: Dotted key of a value, or of a section, that comes from elsewhere to what it comes from.
        notes: Remarks for the user about such values.
    """

    name: str
    tree: dict[str, Any]
    overrides: dict[str, str]
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def available_configs(config_dir: str | Path | None = None) -> list[str]:
    """Return the names of the configurations in `config_dir` and of those in this repository."""
    return sorted({path.stem for folder in _folders(config_dir) for path in folder.glob("*.yaml")})


def compose(config_name: str, overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> ComposedConfig:
    """Compose a configuration from `config_dir`, else from this repository, with overrides such as `training.lr=1e-6`.

    Model files are searched in the directory `model` beside or above the configuration, then in this repository.

    Raises:
        ConfigError: The configuration or a model file does not exist, or a file or override cannot be parsed.
    """
    name = config_name.removesuffix(".yaml")
    names = available_configs(config_dir)
    if name not in names:
        raise ConfigError([f"--config-name {name}: there is no such configuration{did_you_mean(name, names)}"])
    folders = sorted(_folders(config_dir), key=lambda folder: not (folder / f"{name}.yaml").is_file())
    beside = [folder.parent for folder in folders if (folder.parent / "model").is_dir()]
    check_config_files(name, [*folders, *beside])
    first, *others = [f"{yaml_scalars_as_text.SCHEME}://{folder}" for folder in [*folders, *beside]]
    prepared = _prepare_overrides(overrides)
    yaml_scalars_as_text.register()
    try:
        with (
            limited_interpolations(),
            text_in_interpolations(),
            warnings.catch_warnings(),
            initialize_config_dir(config_dir=first, version_base="1.3"),
        ):
            # Older files lack `_self_`; their own sections then override the model files, which is the intended order.
            warnings.filterwarnings("ignore", message=".*_self_", category=UserWarning)
            config = hydra_compose(name, [f"hydra.searchpath=[{','.join(map(quoted, others))}]", *prepared])
            tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingConfigException as error:
        models = sorted({path.stem for place in [*folders, *beside] for path in place.glob("model/*.yaml")})
        raise ConfigError([f"{name}.yaml: {_describe_missing(error, models)}"]) from error
    except _COMPOSE_ERRORS as error:
        # OmegaConf has no message for an interpolation that does not end.
        reason = " ".join(str(error).split()) or "a value with ${ is not a complete interpolation"
        raise ConfigError([f"{name}.yaml: {reason}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{name}.yaml: must contain sections such as training, got a list"])
    for text in overrides:
        _drop_other_spellings(tree, _key_of(text).split("."))
    return ComposedConfig(
        name, {str(key): value for key, value in tree.items()}, {normalize_key(_key_of(o)): o for o in overrides}
    )


def _folders(config_dir: str | Path | None) -> list[Path]:
    if config_dir is None:
        return [SHIPPED_CONFIGS]
    # A home folder that does not exist remains as it is written, and there is no such folder.
    folder = real_path(os.path.expanduser(config_dir))
    if not folder.is_dir():
        raise ConfigError([f"--config-dir {config_dir}: there is no such folder"])
    return list(dict.fromkeys([folder, SHIPPED_CONFIGS]))


def _prepare_overrides(overrides: Iterable[str]) -> list[str]:
    prepared, problems = [], []
    for text in overrides:
        try:
            prepared.append(_prepare_override(text))
        except (HydraException, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            problems.append(
                f"override {text} cannot be read; write section.key=value, and a value with = , [ ] {{ }} ( ) in "
                f"quotes, as section.key='a=b' ({reason})"
            )
    if problems:
        raise ConfigError(problems)
    return prepared


def _prepare_override(text: str) -> str:
    """Convert an override to Hydra's grammar: `++` also sets absent keys, and a value with commas is quoted."""
    text = text if text.startswith("~") else quote_unknown_characters(text)
    is_sweep = OverridesParser.create().parse_override(text).is_sweep_override()
    if is_sweep:
        key, value = text.split("=", 1)
        text = f"{key}={quoted(value)}"
    if _UNCHANGED_OVERRIDE.match(text):
        return text
    return f"++{(text if is_sweep else quote_typed_values(text)).removeprefix('+')}"


def _key_of(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _drop_other_spellings(tree: Any, path: list[str]) -> None:
    """Remove other spellings of an overridden key: an override of `min_lr` replaces `min-lr` of the file."""
    for part in path[:-1]:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict) and path[-1] in tree:
        for other in [key for key in tree if key != path[-1] and canonical_key(key) == canonical_key(path[-1])]:
            del tree[other]


def _describe_missing(error: MissingConfigException, models: list[str]) -> str:
    file = str(error.missing_cfg_file).removesuffix(".yaml")
    choices = f"; choose {join_words(models)}" if file.startswith("model/") and models else ""
    return f"there is no file {file}.yaml{choices}"
