"""The gallery lists every example."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PARTS = {"environment.sh", "ray.sh", "settings.sh", "wait_for_devices.py", "__init__.py"}
"""Files that other examples read or call."""


def test_the_gallery_lists_every_example_and_nothing_else() -> None:
    listed = set(re.findall(r"`(examples/[\w/.]+)`", (DOCS / "gallery.md").read_text(encoding="utf-8")))
    files = [path for kind in ("*.sh", "*.py") for path in (ROOT / "examples").rglob(kind)]
    assert listed == {str(path.relative_to(ROOT)) for path in files if path.name not in PARTS}
