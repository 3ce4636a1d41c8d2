"""Modules that are hidden from an import."""

from __future__ import annotations

import importlib
import sys

import pytest

from mindspeed_dpo.device.hidden_modules import hidden_module


def test_a_module_is_hidden_inside_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with hidden_module("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys") is sys.modules["colorsys"]


def test_an_imported_module_stays_visible() -> None:
    with hidden_module("importlib"):
        assert importlib.import_module("importlib") is importlib
