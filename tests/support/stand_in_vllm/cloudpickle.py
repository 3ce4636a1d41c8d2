"""The stand-in has no other processes to send functions to."""

from __future__ import annotations

from types import ModuleType


def register_pickle_by_value(module: ModuleType) -> None:
    """Do nothing."""
