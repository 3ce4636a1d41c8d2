"""Words of a shell script: its commands, divided at spaces and separators, with the quotes around each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from mindspeed_dpo.migration.migration_error import MigrationError

Quote = Literal["", "'", '"']
_SEPARATORS = ";|&\n"


@dataclass(frozen=True)
class Part:
    """A part of a word within one kind of quotes; variables are not replaced within single ones."""

    text: str
    quote: Quote


Word = tuple[Part, ...]


@dataclass
class Command:
    """The words of one command; those of an array `NAME=(…)` are in `array`, without the name and the parentheses."""

    line: int
    words: list[Word] = field(default_factory=list)
    array: list[Word] | None = None


class Lexer:
    """Divides the text of a script into commands."""

    def __init__(self, text: str, location: str) -> None:
        """Prepare to read `text`; `location` begins the messages of errors."""
        self._text, self._location = text.replace("\r\n", "\n"), location
        self._position, self._line = 0, 1

    def commands(self) -> Iterator[Command]:
        """Yield every command that has a word.

        Raises:
            MigrationError: A quote or parenthesis is not closed.
        """
        command, words = Command(self._line), list[Word]()
        while self._position < len(self._text):
            character = self._text[self._position]
            if character in _SEPARATORS or character in "()":
                self._advance()
                if words:
                    yield Command(command.line, words, command.array)
                command, words = Command(self._line), []
            elif not self._skip_blank():
                command.line = command.line if words else self._line
                words.append(self._word())
                if self._opens_array(words[-1]):
                    self._advance()
                    command.array = list(self._array())
        if words:
            yield Command(command.line, words, command.array)

    def _opens_array(self, word: Word) -> bool:
        return word[-1].text.endswith("=") and not word[-1].quote and self._text.startswith("(", self._position)

    def _array(self) -> Iterator[Word]:
        start = self._line
        while self._position < len(self._text):
            if self._text[self._position] == ")":
                self._advance()
                return
            if self._text[self._position] == "(":
                raise MigrationError(f"{self._location}, line {self._line}: a parenthesis ( within an array")
            if self._text[self._position] in _SEPARATORS:
                self._advance()
            elif not self._skip_blank():
                yield self._word()
        raise MigrationError(f"{self._location}, line {start}: the parenthesis ( is not closed")

    def _skip_blank(self) -> bool:
        """Skip a blank, a continuation of the line or a comment; returns whether there was one."""
        if self._text.startswith("\\\n", self._position):
            self._advance(2)
        elif self._text[self._position] in " \t":
            self._advance()
        elif self._text[self._position] == "#":
            end = self._text.find("\n", self._position)
            self._advance((len(self._text) if end < 0 else end) - self._position)
        else:
            return False
        return True

    def _word(self) -> Word:
        parts = [Part("", "")]
        while self._position < len(self._text):
            character = self._text[self._position]
            if character in "'\"":
                parts.append(self._quoted(character))  # type: ignore[arg-type]
            elif character == "\\":
                if not self._text.startswith("\\\n", self._position):
                    parts.append(Part(self._text[self._position + 1 : self._position + 2], "'"))
                self._advance(2)
            elif character == "$" or character == "`":
                parts.append(Part(self._expansion(), ""))
            elif character in " \t()" or character in _SEPARATORS:
                break
            else:
                parts.append(Part(character, ""))
                self._advance()
        return _joined(parts)

    def _quoted(self, quote: Quote) -> Part:
        start, line = self._position + 1, self._line
        end = start
        while end < len(self._text) and self._text[end] != quote:
            end += 2 if quote == '"' and self._text[end] == "\\" else 1
        if end >= len(self._text):
            raise MigrationError(f"{self._location}, line {line}: the quote {quote} is not closed")
        self._advance(end + 1 - self._position)
        text = self._text[start:end]
        return Part(text.replace("\\\n", "") if quote == '"' else text, quote)

    def _expansion(self) -> str:
        """Take `$NAME`, `${…}`, `$(…)`, `$((…))` or a command in backticks as it stands."""
        end = expansion_end(self._text, self._position)
        text = self._text[self._position : end]
        self._advance(end - self._position)
        return text

    def _advance(self, count: int = 1) -> None:
        self._line += self._text.count("\n", self._position, self._position + count)
        self._position += count


def expansion_end(text: str, start: int) -> int:
    """Return the end of the expansion that begins at `start`; that of a single character where it has no end."""
    if text[start] == "`":
        end = text.find("`", start + 1)
        return len(text) if end < 0 else end + 1
    closing = {"{": "}", "(": ")"}.get(text[start + 1 : start + 2])
    if closing is None:
        end = start + 1
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        return end + 1 if end == start + 1 and text[end : end + 1] in ("@", "*", "#", "?", "$", "!") else end
    depth, end = 0, start + 1
    while end < len(text):
        depth += (text[end] == text[start + 1]) - (text[end] == closing)
        end += 1
        if depth == 0:
            return end
    return len(text)


def _joined(parts: list[Part]) -> Word:
    """Join neighbouring parts with the same quotes."""
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].quote == part.quote:
            joined[-1] = Part(joined[-1].text + part.text, part.quote)
        else:
            joined.append(part)
    return tuple(part for part in joined if part.text or part.quote) or (Part("", ""),)
