"""Lists the Chinese pages of docs/ whose English page has changed: `python tests/stale_translations.py [--stamp PAGE]`.

The first line of a Chinese page has the digest of the English page that it translates. `--stamp docs/data.zh.md` writes
the current one, once the page has been brought up to date.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
_STAMP = re.compile(r"\A<!-- translates (\S+), sha256 ([0-9a-f]{12}) -->\n")


def stamp_of(english: Path) -> str:
    """Return the first line of the translation of a page as it is now."""
    digest = hashlib.sha256(english.read_bytes()).hexdigest()[:12]
    return f"<!-- translates {english.name}, sha256 {digest} -->\n"


def english_of(page: Path) -> Path:
    """Return the page that a Chinese page translates."""
    return page.with_name(page.name.replace(".zh.md", ".md"))


def stale_pages(folder: Path) -> list[str]:
    """Return pages without a translation, and translations of an earlier page."""
    english = {page.stem for page in folder.glob("*.md")} - {page.stem for page in folder.glob("*.zh.md")}
    translations = {name: folder / f"{name}.zh.md" for name in sorted(english)}
    missing = [f"{name}.md has no translation" for name, page in translations.items() if not page.exists()]
    written = {name: page for name, page in translations.items() if page.exists()}
    return missing + [f"{name}.md has changed" for name, page in written.items() if not is_current(page)]


def is_current(page: Path) -> bool:
    """Whether a Chinese page translates its English page as it is now."""
    return page.read_text(encoding="utf-8").startswith(stamp_of(english_of(page)))


def stamp(page: Path) -> None:
    """Write the digest of the English page into a Chinese page."""
    text = _STAMP.sub("", page.read_text(encoding="utf-8"))
    page.write_text(stamp_of(english_of(page)) + text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Stamp the pages that are named, or list the stale ones; exit code 1 if there are any."""
    if arguments[:1] == ["--stamp"]:
        for name in arguments[1:]:
            stamp(Path(name))
        return 0
    stale = stale_pages(DOCS)
    text = "\n".join(stale) or "all Chinese pages are up to date"
    sys.stdout.write(f"{text}\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
