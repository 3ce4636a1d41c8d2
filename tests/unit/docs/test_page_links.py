"""Links between the pages of the repository lead to a file and, with an anchor, to one of its headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CHINESE = [page for page in PAGES if page.name.endswith(".zh.md")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Anchors as GitHub makes them of headings, and those written as `<a id="…">`."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def broken_links(page: Path, text: str) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", without_code(text))
    links += [(image, "") for image in re.findall(r'src="([^"]+)"', text)]
    return [f"{target}#{anchor}" for target, anchor in links if "://" not in target and is_broken(page, target, anchor)]


def is_broken(page: Path, target: str, anchor: str) -> bool:
    path = page.parent / target if target else page
    if not path.exists():
        return True
    return bool(anchor) and anchor not in anchors(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "page", [path for path in PAGES if path.name.endswith(".zh.md")], ids=lambda path: str(path.relative_to(ROOT))
)
def test_chinese_pages_link_to_chinese_pages(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
    english = {target for target in targets if "://" not in target and not target.endswith(".zh.md")}
    assert english <= {page.name.replace(".zh.md", ".md")}


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n", encoding="utf-8")
    good = "[x](#a-b-c) [x](page.md#a-b-c) [x](https://example.org/#y)"
    bad = '[x](none.md) [x](#none) <img src="none.svg">'
    assert broken_links(page, f"{good} {bad}") == ["none.md#", "#none", "none.svg#"]
