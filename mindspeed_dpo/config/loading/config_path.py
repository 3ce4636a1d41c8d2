"""The name of a configuration that may also be its path, `--config-name conf/mine.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.storage.nearest_path import nearest_path_advice


def split_path(config_name: str, config_dir: str | None) -> tuple[str, str | None]:
    """Return name and folder of a configuration.

    Args:
        config_name: Its name, or its path with or without `.yaml`.
        config_dir: The folder of `--config-dir`, in which the name is searched; a path is then no file of its own.

    Raises:
        ConfigError: It is a path at which there is no file.
    """
    # A name with ~ of a user who does not exist is searched as it is, and not found.
    path = Path(os.path.expanduser(config_name))
    file = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    is_path = len(path.parts) > 1 or path.suffix == ".yaml"
    if config_dir is not None or not is_path:
        return config_name, config_dir
    if file.is_file():
        return file.stem, str(file.parent)
    if len(path.parts) > 1:
        raise ConfigError([f"--config-name {config_name}: there is no file {file}{nearest_path_advice(file)}"])
    return config_name, config_dir
