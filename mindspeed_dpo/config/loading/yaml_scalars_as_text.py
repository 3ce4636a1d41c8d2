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

from mindspeed_dpo.untrusted.text_files import read_text
from mindspeed_dpo.untrusted.yaml_text import MAX_YAML_BYTES, read_yaml_texts

# Hydra takes only absolute folders for its first source, which it tells by the slash.
SCHEME = "/text"


class TextSource(ConfigSource):
    """A folder of YAML files; its path is written `/text:///absolute/path`."""

    @staticmethod
    def scheme() -> str:
        """The scheme of the paths that Hydra opens with this source."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file.

        Raises:
            MalformedDataError: It is not a mapping.
        """
        path = Path(self.path, self._normalize_file_name(config_path))
        header = self._get_header_dict(read_text(path, MAX_YAML_BYTES))
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(read_yaml_texts(path)), header)

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
