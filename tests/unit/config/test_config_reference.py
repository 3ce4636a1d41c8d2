"""The generated page is the one in the repository."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.config.reference_page import page
from mindspeed_dpo.config.settings.registry import SETTINGS

PAGE = Path(__file__).parents[3] / "docs" / "config-reference.md"


def test_the_reference_page_is_not_stale() -> None:
    wanted = "run: python -m mindspeed_dpo.config.reference_page > docs/config-reference.md"
    assert PAGE.read_text(encoding="utf-8") == page(), wanted


def test_the_page_has_a_row_for_every_setting() -> None:
    rows = [line.split("`")[1] for line in page().splitlines() if line.startswith("| `")]
    assert set(SETTINGS) <= set(rows)
