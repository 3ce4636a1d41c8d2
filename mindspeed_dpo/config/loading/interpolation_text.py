"""Values within interpolations that stay the text that was written, like all other scalars of a configuration.

OmegaConf reads the arguments of resolvers as typed values: `${oc.env:OUT,1e5}` would give "100000.0" where OUT is not
set, and "1e5" where it holds that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from antlr4 import TerminalNode
from omegaconf.grammar.gen.OmegaConfGrammarLexer import OmegaConfGrammarLexer
from omegaconf.grammar_visitor import GrammarVisitor

_TYPED = (OmegaConfGrammarLexer.INT, OmegaConfGrammarLexer.FLOAT, OmegaConfGrammarLexer.BOOL)


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
