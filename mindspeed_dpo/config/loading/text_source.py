"""A source of configuration files for Hydra whose scalars stay the text that was written.

The declared type of a setting decides what a text means, not YAML: `output_dir: 1.10` is a folder named 1.10.
"""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.text_files import read_text
from mindspeed_dpo.untrusted.yaml_text import parse_yaml_text

SCHEME = "text"


class TextSource(ConfigSource):
    """A folder of YAML files; its path is written `text:///absolute/path`."""

    @staticmethod
    def scheme() -> str:
        """The scheme of the paths that Hydra opens with this source."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file.

        Raises:
            MalformedDataError: It is not YAML, or its `defaults` are no list of names.
        """
        path = Path(self.path, self._normalize_file_name(config_path))
        text = read_text(path)
        tree = parse_yaml_text(text, str(path))
        if tree is not None and not isinstance(tree, dict):
            raise MalformedDataError(f"{path} must contain keys and values")
        _check_defaults((tree or {}).get("defaults", []), path)
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(tree or {}), self._get_header_dict(text))

    def available(self) -> bool:
        """Whether the folder exists."""
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        """Whether a folder of this name is in it."""
        return os.path.isdir(os.path.join(self.path, config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether a YAML file of this name is in it."""
        return os.path.isfile(os.path.join(self.path, self._normalize_file_name(config_path)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the files and folders in a folder of it."""
        names: list[str] = []
        for name in os.listdir(os.path.join(self.path, config_path)):
            self._list_add_result(names, os.path.join(config_path, name), name, results_filter)
        return sorted(set(names))


def register() -> None:
    """Make the source known to Hydra; doing it again has no effect."""
    Plugins.instance().register(TextSource)


def _check_defaults(defaults: object, path: Path) -> None:
    """Check the list of files that a file includes: names, or `group: name` with a name, a list of names or null."""
    if not isinstance(defaults, list) or not all(map(_is_default, defaults)):
        raise MalformedDataError(f"{path}: defaults must be a list such as `- model: tiny`, got {defaults!r}")


def _is_default(item: object) -> bool:
    if not isinstance(item, dict):
        return isinstance(item, str)
    values = [name for value in item.values() for name in (value if isinstance(value, list) else [value])]
    return len(item) == 1 and all(isinstance(name, str) or name is None for name in values)
