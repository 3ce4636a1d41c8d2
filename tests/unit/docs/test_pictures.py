"""The pictures of the README are those of the data beside them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.support.scripts import load_script

DOCS = Path(__file__).parents[3] / "docs"
SERIES = 5
"""Curves in the picture: training and held out of two metrics, and the scores."""


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    return load_script(DOCS / "draw_curves.py")


def drawn_lines(text: str) -> int:
    """Paths of curves; the axes are lines as well, but have no `reactive`."""
    classes = [element.get("class", "").split() for element in ElementTree.fromstring(text).iter()]
    return sum({"line", "reactive"} <= set(words) for words in classes)


def test_the_curves_are_those_of_the_metrics_in_the_repository(curves: ModuleType) -> None:
    picture = (DOCS / "curves.svg").read_text(encoding="utf-8")
    assert f'data-digest="{curves.digest()}"' in picture, "run docs/draw_curves.py"
    assert drawn_lines(picture) == drawn_lines(curves.draw()) == SERIES


def test_only_what_is_drawn_is_kept_of_a_run(
    curves: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "METRICS", tmp_path / "kept")
    line = {"step": 1, "time": 1.5, "loss": 0.69, "eval/loss": 0.7, "grad_norm": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    curves.keep_metrics("offline", tmp_path)
    (kept,) = map(json.loads, (tmp_path / "kept" / "offline.jsonl").read_text().splitlines())
    assert kept == {"step": 1, "loss": 0.69, "eval/loss": 0.7}


def test_the_pictures_are_well_formed_and_named_by_the_readme() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for name in ("curves.svg", "roles.svg"):
        assert f'src="docs/{name}"' in readme
        assert ElementTree.parse(DOCS / name).getroot().get("viewBox")
