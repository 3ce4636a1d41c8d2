"""The gallery lists every example, and the pages that people read first link to what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PARTS = {"environment.sh", "ray.sh", "settings.sh", "wait_for_devices.py", "__init__.py"}
"""Files that other examples read or call."""
PAGES = [
    page
    for page in (ROOT / "README.md", *DOCS.glob("*.md"), *(DOCS / "tutorials").glob("*.md"))
    if page.name.removesuffix(".md").removesuffix(".zh") in {"README", "faq", "troubleshooting", "gallery"}
    or page.parent.name == "tutorials"
]


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as links write them, and those written as `<a id="…">`."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def test_the_gallery_lists_every_example_and_nothing_else() -> None:
    listed = set(re.findall(r"`(examples/[\w/.]+)`", (DOCS / "gallery.md").read_text(encoding="utf-8")))
    files = [path for kind in ("*.sh", "*.py") for path in (ROOT / "examples").rglob(kind)]
    assert listed == {str(path.relative_to(ROOT)) for path in files if path.name not in PARTS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)|src=\"([^\"]+)\"", text)
    assert links
    for target, anchor, image in links:
        if target.startswith("http"):
            continue
        path = page.parent / (target or image) if target or image else page
        assert path.is_file(), f"{page.name}: {path} does not exist"
        assert not anchor or anchor in anchors(path), f"{page.name}: {path.name} has no heading #{anchor}"
