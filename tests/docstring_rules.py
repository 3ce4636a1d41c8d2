"""Docstring rules that ruff has no check for: `python tests/docstring_rules.py [FILE ...]` lists every violation.

1. The first line of every docstring of the package is a sentence: it has at least three words, ends with a full stop
   or a colon, does not begin with a question word or "The same", and is not a bare reference ("See X."). Public
   classes, functions and methods have a docstring.
2. A public function that takes or returns tensors or arrays, also under the name of a type alias, states a shape
   ("[P, K]", or "scalar"), a dtype and a unit. The docstring of its class counts where the function's own arguments are
   fields of that class.
3. A public function that raises an exception itself has a "Raises:" section. Assertions and NotImplementedError are
   exempt.
4. A dataclass or named tuple that another package imports has an example. Settings are exempt: the reference page
   documents their keys.

`__init__`, `__call__`, `__getitem__` and `__iter__` of public classes are held to rules 2 and 3, for which the
docstring of the class counts as well. A method marked `@override` is documented by the interface that declares it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "mindspeed_dpo"
ARRAY_TYPE = re.compile(r"\b(Tensor|NDArray|ndarray)\b")
SHAPE = re.compile(r"\[[A-Z0-9.][^\]]*\]|\bscalars?\b|\b0-d\b|\bany shape\b|\bsame shape\b|\bshape of\b", re.IGNORECASE)
DTYPE = re.compile(
    r"\b(float(16|32|64)|bfloat16|bf16|fp32|u?int(8|16|32|64)|bools?|booleans?|integers?|dtypes?|floats?|uint8)\b",
    re.IGNORECASE,
)
UNITS = (
    "nats?", "bits?", "bytes?", "seconds?", "tokens?", "(token )?ids?", "rows?", "pairs?", "positions?", "logits?",
    "probabilit(y|ies)", "log-probabilit(y|ies)", "weights?", "hidden states?", "activations?", "scores?", "radians?",
    "gradients?", "counts?", "lengths?", "samples?", "indices", "index", "masks?", "parameters?", "factors?",
    "unitless", "(any|one|same) unit", "rewards?", "labels?", "embeddings?",
)  # fmt: skip
UNIT = re.compile(rf"\b({'|'.join(UNITS)})\b", re.IGNORECASE)
EXEMPT_ERRORS = {"AssertionError", "NotImplementedError", "StopIteration", "SystemExit"}
NO_SENTENCE = re.compile(r"(What|Who|Where|How|Which|Why|From|The same)\b")
MAGIC_METHODS = {"__init__", "__call__", "__getitem__", "__iter__"}
SETTINGS = "config"
"""Package whose dataclasses are settings."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class DocstringViolation:
    """A rule that a definition breaks: its file, line and qualified name, and what is missing."""

    path: Path
    line: int
    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}:{self.line}: {self.name}: {self.message}"


def violations(path: Path) -> Iterator[DocstringViolation]:
    """Every violation in one module."""
    module = _parsed(path)
    for documented in ast.walk(module):
        if isinstance(documented, ast.Module | Function | ast.ClassDef) and ast.get_docstring(documented) is not None:
            for message in _sentence(ast.get_docstring(documented) or ""):
                line, name = getattr(documented, "lineno", 1), getattr(documented, "name", "module")
                yield DocstringViolation(path, line, name, message)
    arrays = re.compile(rf"{ARRAY_TYPE.pattern}|\b({'|'.join(_array_aliases(path)) or '(?!)'})\b")
    for name, node, owner in _public_definitions(module):
        for message in _messages(node, owner, arrays):
            yield DocstringViolation(path, node.lineno, name, message)
        if isinstance(node, ast.ClassDef) and _is_record(node) and not _has_example(node):
            home = path.relative_to(PACKAGE).parts[0]
            users = _importing_packages().get((home, name), set()) - {home}
            if users and home != SETTINGS:
                yield DocstringViolation(path, node.lineno, name, f"used in {', '.join(sorted(users))}, has no example")


def _public_definitions(module: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef, ast.ClassDef | None]]:
    for node in module.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node, None
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and (member.name in MAGIC_METHODS or member.name[0] != "_"):
                        yield f"{node.name}.{member.name}", member, node


def _messages(node: Function | ast.ClassDef, owner: ast.ClassDef | None, arrays: re.Pattern[str]) -> Iterator[str]:
    text = ast.get_docstring(node) or ""
    if _is_decorated(node, "override"):
        return
    is_magic = node.name in MAGIC_METHODS
    if not (text or is_magic or _is_decorated(node, "overload") or _is_decorated(node, ".setter")):
        yield "has no docstring"
    if isinstance(node, ast.ClassDef):
        return
    context = f"{text}\n{(ast.get_docstring(owner) or '') if owner else ''}"
    if arrays.search(_signature(node)):
        missing = [
            what for what, rule in (("shape", SHAPE), ("dtype", DTYPE), ("unit", UNIT)) if not rule.search(context)
        ]
        if missing:
            yield f"takes or returns arrays and does not state their {', '.join(missing)}"
    raised = sorted(set(_raised(node)) - EXEMPT_ERRORS)
    if raised and "Raises:" not in (context if is_magic else text):
        yield f"raises {', '.join(raised)} and has no 'Raises:' section"


def _sentence(text: str) -> Iterator[str]:
    first = text.strip().splitlines()[0] if text.strip() else ""
    if len(first.split()) < 3:
        yield "the first line is no sentence"
    elif not first.endswith((".", ":")):
        yield "the first line does not end with a full stop or a colon"
    elif begin := NO_SENTENCE.match(first):
        yield f"the first line is no sentence: it begins with {begin.group()!r}"
    elif re.match(r"(As|See|Like) (`|also|for|above|below)[^,:;]*\.$", first):
        yield "the first line only refers to another definition"


def _array_aliases(path: Path) -> set[str]:
    """Names of type aliases of arrays that a module defines or imports from the package."""
    named = {name for _, name in _names_of_package(path)}
    return (named & _all_array_aliases()) | _aliases_of(_parsed(path), ARRAY_TYPE)


@cache
def _all_array_aliases() -> set[str]:
    return {name for path in PACKAGE.rglob("*.py") for name in _aliases_of(_parsed(path), ARRAY_TYPE)}


def _aliases_of(module: ast.Module, arrays: re.Pattern[str]) -> set[str]:
    """Names that a module gives to types of arrays, or to types of such names."""
    found: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            value = ast.unparse(node.value)
            if arrays.search(value) or any(re.search(rf"\b{name}\b", value) for name in found):
                found |= {ast.unparse(target) for target in node.targets}
    return found


@cache
def _importing_packages() -> dict[tuple[str, str], set[str]]:
    """The packages that name each (package, name)."""
    packages: dict[tuple[str, str], set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for key in _names_of_package(path):
            packages.setdefault(key, set()).add(path.relative_to(PACKAGE).parts[0])
    return packages


@cache
def _names_of_package(path: Path) -> set[tuple[str, str]]:
    """Names of the package that a module imports, or names as `module.name`, each after its first package."""
    homes, names = {}, set()
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            for alias in node.names:
                home = f"{node.module}.{alias.name}".split(".")[1]
                homes[alias.asname or alias.name] = home
                names.add((home, alias.name))
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in homes:
            names.add((homes[node.value.id], node.attr))
    return names


def _is_record(node: ast.ClassDef) -> bool:
    return _is_decorated(node, "dataclass") or any(ast.unparse(base) == "NamedTuple" for base in node.bases)


def _has_example(node: ast.ClassDef) -> bool:
    """Whether a docstring has an "Example:" section, an expression that makes an object, or "such as `value`"."""
    return re.search(rf"\bExample\b|\b{node.name}\(|[Ss]uch as [`(\"]", ast.get_docstring(node) or "") is not None


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _signature(node: Function) -> str:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    annotations = [argument.annotation for argument in arguments] + [node.returns]
    return " ".join(ast.unparse(annotation) for annotation in annotations if annotation is not None)


def _raised(node: Function) -> Iterator[str]:
    """Names of exceptions in this function's own `raise` statements; a bare `raise` re-raises and does not count."""
    for statement in _own_statements(node):
        if isinstance(statement, ast.Raise) and statement.exc is not None:
            error = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
            name = ast.unparse(error).rsplit(".", 1)[-1]
            if name[:1].isupper():
                yield name


def _own_statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            yield child
            yield from _own_statements(child)


def _is_decorated(node: Function | ast.ClassDef, name: str) -> bool:
    return any(name in ast.unparse(decorator) for decorator in node.decorator_list)


def main(arguments: list[str]) -> int:
    """List the violations of the given files, or of the package; exit code 1 where there are any."""
    files = [Path(argument).resolve() for argument in arguments] or sorted(PACKAGE.rglob("*.py"))
    listed = [violation for path in files for violation in violations(path)]
    for violation in listed:
        sys.stdout.write(f"{violation}\n")
    sys.stdout.write(f"{len(listed)} violations in {len(files)} files\n")
    return 1 if listed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
