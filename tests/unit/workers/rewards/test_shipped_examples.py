"""Rewards of the examples, as an installed package finds them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mindspeed_dpo.workers.rewards import function_loading
from mindspeed_dpo.workers.rewards.function_loading import InvalidFunction, import_function


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package whose examples lie in a package of another name, and no repository."""
    folder = tmp_path / "shipped_here" / "examples"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("def score():\n    return 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(function_loading, "SHIPPED_PACKAGE", "shipped_here")
    monkeypatch.setattr(function_loading, "is_installed", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_finds_its_own_examples() -> None:
    assert import_function("examples.mine.score")() == 7
    with pytest.raises(InvalidFunction):
        import_function("mine.score")


@pytest.mark.usefixtures("installed")
def test_examples_of_the_working_directory_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InvalidFunction):
        import_function("examples.mine.score")
