"""Docstring rules that ruff has no check for: `python tests/docstring_rules.py [FILE ...]` lists every violation.

For each public function and method of the package, and for each public class:

1. The first line is a sentence: it has at least three words, ends with a full stop, and is not a bare reference
   ("See X.").
2. A function that takes or returns tensors or arrays states a shape ("[P, K]", or "scalar"), a dtype and a unit. The
   docstring of its class counts where the function's own arguments are fields of that class.
3. A function that raises an exception itself has a "Raises:" section. Assertions and NotImplementedError are exempt.

A method marked `@override` is documented by the interface that declares it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "mindspeed_dpo"
ARRAY_TYPE = re.compile(r"\b(Tensor|NDArray|ndarray)\b")
SHAPE = re.compile(r"\[[A-Z0-9.][^\]]*\]|\bscalars?\b|\b0-d\b|\bany shape\b|\bsame shape\b|\bshape of\b", re.IGNORECASE)
DTYPE = re.compile(
    r"\b(float(16|32|64)|bfloat16|bf16|fp32|u?int(8|16|32|64)|bools?|booleans?|integers?|dtypes?|floats?|uint8)\b",
    re.IGNORECASE,
)
UNITS = (
    "nats?", "bits?", "bytes?", "seconds?", "s", "tokens?", "(token )?ids?", "rows?", "pairs?", "positions?", "logits?",
    "probabilit(y|ies)", "log-probabilit(y|ies)", "weights?", "hidden states?", "activations?", "scores?", "radians?",
    "gradients?", "counts?", "lengths?", "samples?", "indices", "index", "masks?", "parameters?", "factors?",
    "unitless", "queries", "keys", "heads?", "columns?", "values?", "shares?", "ranks?", "rewards?", "labels?",
    "embeddings?",
)  # fmt: skip
UNIT = re.compile(rf"\b({'|'.join(UNITS)})\b", re.IGNORECASE)
EXEMPT_ERRORS = {"AssertionError", "NotImplementedError", "StopIteration", "SystemExit"}
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
    """Every violation in one module, in the order of its lines."""
    for name, node, owner in _public_definitions(ast.parse(path.read_text(encoding="utf-8"))):
        for message in _messages(node, owner):
            yield DocstringViolation(path, node.lineno, name, message)


def _public_definitions(module: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef, ast.ClassDef | None]]:
    for node in module.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node, None
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and not member.name.startswith("_"):
                        yield f"{node.name}.{member.name}", member, node


def _messages(node: Function | ast.ClassDef, owner: ast.ClassDef | None) -> Iterator[str]:
    text = ast.get_docstring(node) or ""
    if _is_decorated(node, "override"):
        return
    if not (_is_decorated(node, "overload") or _is_decorated(node, ".setter")):
        yield from _sentence(text)
    if isinstance(node, ast.ClassDef):
        return
    if ARRAY_TYPE.search(_signature(node)):
        context = f"{text}\n{(ast.get_docstring(owner) or '') if owner else ''}"
        missing = [
            what for what, rule in (("shape", SHAPE), ("dtype", DTYPE), ("unit", UNIT)) if not rule.search(context)
        ]
        if missing:
            yield f"takes or returns arrays and does not state their {', '.join(missing)}"
    raised = sorted(set(_raised(node)) - EXEMPT_ERRORS)
    if raised and "Raises:" not in text:
        yield f"raises {', '.join(raised)} and has no 'Raises:' section"


def _sentence(text: str) -> Iterator[str]:
    first = text.strip().split("\n\n")[0].splitlines()[0] if text.strip() else ""
    if len(first.split()) < 3:
        yield "the first line is no sentence"
    elif re.match(r"(As|See|Like) (`|also|for|above|below)[^,:;]*\.$", first):
        yield "the first line only refers to another definition"


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
