"""The tables of docs/migration.md are those of the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.migration.key_tables import TABLES, with_tables

PAGE = Path(__file__).parents[3] / "docs" / "migration.md"


def test_the_page_has_the_tables_of_the_rules() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python -m mindspeed_dpo.migration.key_tables docs/migration.md"
    assert all(f"<!-- keys of {name} -->" in page for name in TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_rules_name_settings_or_reasons(name: str) -> None:
    for key, rule in TABLES[name].items():
        assert set(rule.targets) <= {*SETTINGS, "resource_pool"}, key
        assert rule.targets or rule.remark, key
