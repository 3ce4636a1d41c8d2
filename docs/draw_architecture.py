"""Draws docs/architecture.svg from the code's own imports: `python docs/draw_architecture.py`.

One row for each package, in the order of the layers of the import-linter contract in pyproject.toml, captioned by the
first sentence of its docstring. The matrix counts the modules of the row's package that import the column's package:
all counts lie right of the diagonal, since a package imports only from layers below its own. A test compares the file
in the repository with what this script draws.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections import Counter
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mindspeed_dpo"
SCRIPTS = ("ray_gpt.py", "preprocess_data.py", "convert_ckpt.py")
PICTURE = ROOT / "docs" / "architecture.svg"
LEFT, TOP, ROW_HEIGHT, CELL, NAME_WIDTH, CAPTION_WIDTH = 16, 112, 40, 26, 164, 400
CAPTION_COLUMNS = 68
STYLE = """
  .page { fill: #ffffff; } .band { fill: #f6f8fa; } .line { stroke: #d0d7de; stroke-width: 1; }
  .name { font: 600 13px sans-serif; fill: #1f2328; } .caption { font: 11px sans-serif; fill: #57606a; }
  .column { font: 11px sans-serif; fill: #57606a; } .self { fill: #d0d7de; } .cell { fill: #0969da; }
  .count { font: 10px sans-serif; fill: #ffffff; text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; } .band { fill: #161b22; } .line { stroke: #30363d; } .name { fill: #e6edf3; }
    .caption, .column { fill: #9da7b1; } .self { fill: #30363d; } .cell { fill: #1f6feb; }
  }
"""


def layers() -> list[list[str]]:
    """Names of the packages of each layer, the highest layer first, as pyproject.toml lists them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = text.split(f'containers = ["{PACKAGE}"]', 1)[1].split("layers = [", 1)[1].split("]", 1)[0]
    return [re.findall(r"\w+", line) for line in re.findall(r'"([^"]+)"', contract)]


def import_counts(packages: list[str]) -> dict[str, Counter[str]]:
    """For each package and script, how many of its modules import from each of the other packages."""
    sys.path.insert(0, str(ROOT))  # this checkout, also where another one is installed
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    counts: dict[str, Counter[str]] = {name: Counter() for name in packages}
    for module in sorted(graph.modules - {PACKAGE, f"{PACKAGE}.__main__"}):
        source = module.split(".")[1]
        imported = graph.find_modules_directly_imported_by(module)
        counts[source].update({name.split(".")[1] for name in imported if "." in name} - {source})
    for script in SCRIPTS:
        text = (ROOT / script).read_text(encoding="utf-8")
        counts[script] = Counter(set(re.findall(rf"^\s*from {PACKAGE}\.(\w+)", text, re.MULTILINE)))
    return counts


def caption(name: str) -> list[str]:
    """The first sentence of a package's or script's docstring, wrapped to two lines."""
    path = ROOT / name if name in SCRIPTS else ROOT / PACKAGE / name / "__init__.py"
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    sentence = re.split(r"(?<=[a-z0-9)`])\.\s", first.replace("\n", " "))[0]
    return textwrap.wrap(sentence.replace("`", "").rstrip("."), CAPTION_COLUMNS, max_lines=2, placeholder=" …")


def draw() -> str:
    """The picture as SVG text."""
    rows = layers()
    packages = [name for row in rows for name in row]
    counts = import_counts(packages)
    matrix_left = LEFT + NAME_WIDTH + CAPTION_WIDTH
    width = matrix_left + CELL * len(packages) + 60
    height = TOP + ROW_HEIGHT * (len(packages) + len(SCRIPTS)) + LEFT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Packages of {PACKAGE}, by layer, and the imports between them">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    for number, row in enumerate([list(SCRIPTS), *rows]):
        top = TOP + ROW_HEIGHT * sum(len(other) for other in [list(SCRIPTS), *rows][:number])
        band = "band" if number % 2 == 0 else "page"
        parts.append(f'<rect class="{band}" x="0" y="{top}" width="{width}" height="{ROW_HEIGHT * len(row)}"/>')
        parts.append(f'<line class="line" x1="0" y1="{top}" x2="{width}" y2="{top}"/>')
        for index, name in enumerate(row):
            parts.append(_row(name, top + ROW_HEIGHT * index, counts[name], packages, matrix_left))
    parts.extend(
        f'<text class="column" transform="translate({matrix_left + CELL * index + 17} {TOP - 8}) rotate(-60)">'
        f"{name}</text>"
        for index, name in enumerate(packages)
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(name: str, top: int, counts: Counter[str], packages: list[str], matrix_left: int) -> str:
    """Name, caption and matrix cells of one package."""
    lines = caption(name)
    parts = [f'<text class="name" x="{LEFT}" y="{top + 25}">{name}</text>']
    for number, line in enumerate(lines):
        baseline = top + 25 + (-7 + 14 * number if len(lines) > 1 else 0)
        parts.append(f'<text class="caption" x="{LEFT + NAME_WIDTH}" y="{baseline}">{escape(line)}</text>')
    for index, column in enumerate(packages):
        left, middle = matrix_left + CELL * index, top + ROW_HEIGHT // 2
        if column == name:
            parts.append(f'<rect class="self" x="{left + 3}" y="{middle - 10}" width="20" height="20" rx="3"/>')
        elif counts[column]:
            parts.append(f'<rect class="cell" x="{left + 3}" y="{middle - 10}" width="20" height="20" rx="3"/>')
            parts.append(f'<text class="count" x="{left + 13}" y="{middle + 4}">{counts[column]}</text>')
    return "\n".join(parts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
