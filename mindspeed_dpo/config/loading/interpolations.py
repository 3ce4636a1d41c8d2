"""Interpolations `${…}`: a bound on what they expand to, and values within them that stay the text that was written.

OmegaConf resolves a value again whenever another refers to it. A chain of values that each refer twice to the one
before would take time and memory that grow exponentially with its length. It also reads the arguments of resolvers as
typed values: `${oc.env:OUT,1e5}` would give "100000.0" where OUT is not set, and "1e5" where it holds that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from antlr4 import TerminalNode
from omegaconf.base import Container
from omegaconf.errors import InterpolationResolutionError
from omegaconf.grammar.gen.OmegaConfGrammarLexer import OmegaConfGrammarLexer
from omegaconf.grammar_visitor import GrammarVisitor

MAX_RESOLVED = 5000
"""Limit for the interpolations that are resolved, each time counted."""
MAX_CHARACTERS = 1 << 20
"""Limit for the texts, and for the sections written as text, that take their place."""
_TYPED = (OmegaConfGrammarLexer.INT, OmegaConfGrammarLexer.FLOAT, OmegaConfGrammarLexer.BOOL)


@contextmanager
def limited_interpolations() -> Iterator[None]:
    """Let OmegaConf resolve so many interpolations within the block; one more is an error of OmegaConf.

    Raises:
        InterpolationResolutionError: A limit is exceeded.
    """
    resolve = Container.resolve_parse_tree
    num_resolved, num_characters = 0, 0

    def resolve_counted(self: Container, parse_tree: Any, *args: Any, **options: Any) -> Any:
        nonlocal num_resolved, num_characters
        num_resolved += parse_tree.getText().count("${")
        if num_resolved > MAX_RESOLVED:
            raise InterpolationResolutionError(f"interpolations refer to others more than {MAX_RESOLVED} times")
        value = resolve(self, parse_tree, *args, **options)
        # Of a section the text is that of the file, so that nothing is resolved for it.
        num_characters += len(str(value))
        if num_characters > MAX_CHARACTERS:
            raise InterpolationResolutionError(f"interpolations expand to more than {MAX_CHARACTERS} characters")
        return value

    Container.resolve_parse_tree = resolve_counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Container.resolve_parse_tree = resolve  # type: ignore[method-assign]


@contextmanager
def text_in_interpolations() -> Iterator[None]:
    """Let OmegaConf pass numbers and truth values to resolvers as text within the block; null stays null."""
    convert = GrammarVisitor._createPrimitive

    def keep_text(self: GrammarVisitor, ctx: Any) -> Any:
        only = ctx.getChild(0) if ctx.getChildCount() == 1 else None
        if isinstance(only, TerminalNode) and only.symbol.type in _TYPED:
            return only.symbol.text
        return convert(self, ctx)

    GrammarVisitor._createPrimitive = keep_text  # type: ignore[method-assign]
    try:
        yield
    finally:
        GrammarVisitor._createPrimitive = convert  # type: ignore[method-assign]
