"""Paths as users write them: with `~` for the home folder, and with symbolic links."""

from __future__ import annotations

import os
from pathlib import Path


class NoHomeFolderError(FileNotFoundError):
    """A path begins with `~` and a name that is no user, or nothing says where the home folder is."""


def expanded_text(path: str) -> str:
    """Replace `~` at the start of a path; `~name` is the home folder of a user, as in a shell.

    Raises:
        NoHomeFolderError: There is no such user, or no such folder is known; a shell would leave the path as it is.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise NoHomeFolderError(f"{path} {no_home_folder(expanded)}")
    return expanded


def no_home_folder(path: str) -> str:
    """Return the end of the sentence "path …" for a path whose `~` could not be replaced."""
    name = path.split("/", 1)[0]
    reason = "HOME is not set" if name == "~" else f"there is no user {name[1:]}"
    return f"begins with {name}, and {reason}; write ./{name} for a folder of that name"


def expanded_path(path: str | Path) -> Path:
    """Return a path with `~` at its start replaced.

    Raises:
        NoHomeFolderError: As for `expanded_text`.
    """
    return Path(expanded_text(str(path)))


def real_path(path: str | Path) -> Path:
    """Return the absolute path with all links followed; `Path.resolve` raises a RuntimeError for links in a circle."""
    return Path(os.path.realpath(path))
