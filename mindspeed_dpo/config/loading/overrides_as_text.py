"""Overrides in Hydra's grammar whose values stay the text that was typed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from antlr4 import InputStream, Token
from hydra.grammar.gen.OverrideLexer import OverrideLexer

# Of a value in Hydra's grammar, outside quotes.
_UNKNOWN = re.compile(r"""[^\w\s/\-\\+.$%*@?|:=,(){}\[\]'"]|[^\x00-\x7f]""")
_ITEM = re.compile(r"""'[^']*'|"[^"]*"|\$\{[^}]*\}|[^,:\[\]{}\s'"]+""")
_TYPED = (OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL)
_OPENING = (OverrideLexer.BRACKET_OPEN, OverrideLexer.BRACE_OPEN, OverrideLexer.POPEN)
_CLOSING = (OverrideLexer.BRACKET_CLOSE, OverrideLexer.BRACE_CLOSE, OverrideLexer.PCLOSE)


def quote_typed_values(override: str) -> str:
    """Quote the values of an override that Hydra would read as numbers or truth values, also within lists.

    `a=[1.10,x]` becomes `a=['1.10',x]`. Null stays null, and keys of dictionaries, which cannot be quoted, as they are.
    """
    parts, end = [], 0
    for token in _single_values(override):
        if token.type in _TYPED:
            parts += [override[end : token.start], quoted(token.text)]
            end = token.stop + 1
    return "".join(parts) + override[end:]


def quote_unknown_characters(override: str) -> str:
    """Quote values with characters that Hydra's grammar does not know, such as `~` and most of Unicode.

    `a=~/b` becomes `a='~/b'`, and `a=[~/b,c]` becomes `a=['~/b',c]`.
    """
    key, equals, value = override.partition("=")
    if not _UNKNOWN.search(value) or value.startswith(("'", '"')):
        return override
    if not value.startswith(("[", "{")):
        return f"{key}{equals}{quoted(value)}"
    return f"{key}{equals}{_ITEM.sub(_quote_item, value)}"


def _quote_item(item: re.Match[str]) -> str:
    text = item[0]
    return quoted(text) if _UNKNOWN.search(text) and text[0] not in "'\"" else text


def quoted(text: str) -> str:
    """Write a text in quotes."""
    return "'" + text.replace("'", "\\'") + "'"


def _single_values(override: str) -> Iterator[Token]:
    """Yield the tokens that are a value by themselves; several tokens in a row, as in `10.0.0.1:8080`, are a text."""
    value: list[Token] = []
    brackets: list[int] = []
    starts_key, is_in_value = False, False
    tokens = OverrideLexer(InputStream(override)).getAllTokens()
    for token in tokens:
        is_key_end = starts_key and token.type == OverrideLexer.COLON
        if token.type in (*_OPENING, *_CLOSING, OverrideLexer.COMMA, OverrideLexer.EQUAL) or is_key_end:
            if is_in_value and not is_key_end and len(value) == 1:
                yield value[0]
            value, is_in_value = [], True
            brackets = [*brackets, token.type] if token.type in _OPENING else brackets
            brackets = brackets[:-1] if token.type in _CLOSING else brackets
            starts_key = not is_key_end and brackets[-1:] == [OverrideLexer.BRACE_OPEN]
        elif token.type != OverrideLexer.WS:
            value.append(token)
    if is_in_value and len(value) == 1:
        yield value[0]
