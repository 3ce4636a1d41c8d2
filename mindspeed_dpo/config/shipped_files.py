"""Finds `configs` and `examples`, which come with the project: in the repository, or where a wheel put them."""

from __future__ import annotations

from pathlib import Path

SHIPPED_PACKAGE = "mindspeed_dpo.shipped"
"""What a wheel installs them as."""
_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "shipped"
PROJECT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
"""The folder of `configs` and `examples`: the repository, or a folder of the package that a wheel has installed."""


def is_installed() -> bool:
    """Return whether the package was installed from a wheel, without the repository."""
    return PROJECT == _INSTALLED


def start_of_paths(project: Path = PROJECT) -> Path:
    """Return where relative paths in the project's own files start: the repository, else the working directory."""
    return Path.cwd() if project == _INSTALLED else project
