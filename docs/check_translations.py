"""Checks that every page has a Chinese one that translates its present text: `python docs/check_translations.py`.

README.md and each page of docs/ have a counterpart NAME.zh.md, whose first line names what it translates:
`<!-- translates NAME.md, sha256 50b392276df1 -->`, the first digits of the SHA-256 of the English file. A page whose
English text has changed since is stale: translate the change, then run
`python docs/check_translations.py --stamp NAME.zh.md`. Both have the same commands and keys: the lines of
their blocks of code are equal but for comments, and so is what the first columns of their tables quote.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMP = re.compile(r"<!-- translates (\S+), sha256 ([0-9a-f]{12}) -->\n")
QUOTED = re.compile(r"`[^`]+`")
DIGITS = 12
SHOWN = 5
"""How many lines of a difference are shown."""
ENGLISH, CHINESE = ".md", ".zh.md"


def is_chinese(page: Path) -> bool:
    """Whether a page is a translation, by its name."""
    return page.name.endswith(CHINESE)


def counterpart(page: Path) -> Path:
    """The Chinese page of an English one, and the English one of a Chinese one."""
    old, new = (CHINESE, ENGLISH) if is_chinese(page) else (ENGLISH, CHINESE)
    return page.with_name(page.name.removesuffix(old) + new)


def stamp(english: Path) -> str:
    """The first line of the translation of the present text of a page."""
    digest = hashlib.sha256(english.read_bytes()).hexdigest()[:DIGITS]
    return f"<!-- translates {english.name}, sha256 {digest} -->\n"


def is_current(chinese: Path) -> bool:
    """Whether a translation names the present text of its original."""
    return chinese.read_text(encoding="utf-8").startswith(stamp(counterpart(chinese)))


def keys(text: str) -> list[str]:
    """What the first cells of the rows of all tables quote as code, sorted, as a translation may turn a cell round."""
    cells = re.findall(r"^\|((?:`[^`]*`|[^|`])*)\|", text, re.MULTILINE)
    return sorted(code for cell in cells for code in QUOTED.findall(cell))


def commands(text: str) -> list[str]:
    """Lines of all blocks of code without comments, which are translated."""
    blocks = re.findall(r"^```.*\n([\s\S]*?)^```", text, re.MULTILINE)
    lines = [re.sub(r"(^|\s+)# .*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.strip()]


def problems(root: Path) -> Iterator[str]:
    """A sentence for each page that lacks its translation or differs from it, by path."""
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    wanted = {counterpart(page) for page in pages if not is_chinese(page) and _needs_translation(page, root)}
    for chinese in sorted(wanted | {page for page in pages if is_chinese(page)}):
        if problem := _problem(chinese):
            yield f"{chinese.relative_to(root)} {problem}"


def _needs_translation(english: Path, root: Path) -> bool:
    return english.parent != root or english.name == "README.md"


def _problem(chinese: Path) -> str | None:
    english = counterpart(chinese)
    if not english.is_file():
        return f"translates {english.name}, which does not exist; remove it, or rename it with its original"
    if not chinese.is_file():
        return f"is missing: translate {english.name}, then run python docs/check_translations.py --stamp on the page"
    text = chinese.read_text(encoding="utf-8")
    found = STAMP.match(text)
    if found is None or found[1] != english.name:
        return f"should begin with the line {stamp(english).strip()!r}, which --stamp writes"
    if not is_current(chinese):
        return f"is stale: {english.name} has changed since {found[2]}; translate the change, then run --stamp"
    original = english.read_text(encoding="utf-8")
    for what, read in (("code", commands), ("first columns of tables", keys)):
        if difference := _difference(read(original), read(text)):
            return f"has other {what} than {english.name}: {difference}"
    return None


def _difference(original: list[str], translated: list[str]) -> str | None:
    missing, extra = sorted(set(original) - set(translated)), sorted(set(translated) - set(original))
    if missing or extra:
        return f"lacks {missing[:SHOWN]}, and has {extra[:SHOWN]} instead"
    return None if original == translated else "the same in another order or number"


def write_stamp(chinese: Path) -> None:
    """Make the first line of a translation name the present text of its original.

    Raises:
        ValueError: If the page is no translation of a page that exists.
    """
    if not is_chinese(chinese) or not counterpart(chinese).is_file():
        raise ValueError(f"--stamp {chinese}: expected a page NAME.zh.md beside its NAME.md")
    text = STAMP.sub("", chinese.read_text(encoding="utf-8"), count=1)
    chinese.write_text(stamp(counterpart(chinese)) + text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write stamps, or check all pages; the exit status is 1 if there are problems."""
    parser = argparse.ArgumentParser(description="Check that the Chinese pages translate the present English ones.")
    parser.add_argument("--stamp", nargs="+", type=Path, metavar="PAGE.zh.md", help="pages that are up to date now")
    stamped = parser.parse_args(arguments).stamp
    if stamped:
        for page in stamped:
            write_stamp(page)
        return 0
    found = list(problems(ROOT))
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
