"""The picture of the architecture is the one that its script draws from today's imports."""

from __future__ import annotations

from pathlib import Path

from tests.support.scripts import load_script

ROOT = Path(__file__).parents[2]


def test_the_picture_is_up_to_date() -> None:
    drawn = load_script(ROOT / "docs" / "draw_architecture.py").draw()
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == drawn, "run docs/draw_architecture.py"
