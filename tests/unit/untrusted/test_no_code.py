"""No part of the package uses a loader that can run what a file names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mindspeed_dpo

PACKAGE = Path(mindspeed_dpo.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
WRITERS = {"Pickler", "register_pickle_by_value"}
"""Names of these modules that read nothing."""
CALLS = {
    "torch.load", "np.load", "numpy.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "eval", "exec",
    "dcp.load", "dcp.FileSystemReader", "FileSystemReader",
}  # fmt: skip


def loaders(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything in a module that may run code of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            yield from ((node.lineno, name) for name in names & MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            if {alias.name for alias in node.names} - WRITERS:
                yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield node.lineno, ast.unparse(node.func)


def test_the_package_has_no_loader_that_runs_code() -> None:
    noticed = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name in loaders(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert noticed == []


def test_the_search_notices_loaders() -> None:
    source = "import pickle\nfrom pickle import Pickler, loads\nimport torch\ntorch.load('a')\neval('1')\n"
    assert [line for line, _ in loaders(ast.parse(source))] == [1, 2, 4, 5]
