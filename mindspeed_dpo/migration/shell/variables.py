"""Variables of a shell script, replaced as text: what a file defines is used, everything else is left and listed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.shell.arithmetic import compute
from mindspeed_dpo.migration.shell.words import Command, Lexer, Part, Word, expansion_end

MAX_CHARACTERS = 1 << 23
"""Limit for the values and words of a script with its variables replaced: a line may double a value again and again."""
WORD_CHARACTERS = 50
"""What a word counts beyond its own characters, roughly its memory."""
MAX_COMMANDS = 10_000
MAX_DEPTH = 50
"""Limit for defaults within defaults, `${A:-${B:-…}}`."""
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_BRACES = re.compile(r"\$\{([A-Za-z_]\w*|\d)(?:\[[@*]\])?(?:(:?-|:?=)(.*))?\}", re.DOTALL)
_KEYWORDS = ("if", "for", "while", "until", "case", "select", "function", "source", ".", "read", "eval")


@dataclass
class Script:
    """The commands of a script with variables replaced.

    Attributes:
        commands: Line and words of every command that is no assignment.
        undefined: Expansions that the file does not define, such as `$DATA_PATH`, in order.
        skipped: Line and keyword of every construct that is not evaluated, such as `if`.
        variables: Values of the variables at the end.
    """

    commands: list[tuple[int, list[str]]] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    num_characters: int = 0

    def count(self, texts: Iterable[str], where: str) -> None:
        """Count texts that were built from variables.

        Raises:
            MigrationError: All texts of the script together exceed `MAX_CHARACTERS`.
        """
        self.num_characters += sum(len(text) + WORD_CHARACTERS for text in texts)
        if self.num_characters > MAX_CHARACTERS:
            raise MigrationError(
                f"{where}: the script has more than {MAX_CHARACTERS} characters with its variables replaced"
            )


def read_script(text: str, location: str) -> Script:
    """Read a script from its first to its last line, as if no line were left out or repeated.

    Raises:
        MigrationError: A quote is not closed, or a limit is exceeded.
    """
    script = Script()
    for number, command in enumerate(Lexer(text, location).commands()):
        if number > MAX_COMMANDS:
            raise MigrationError(f"{location} has more than {MAX_COMMANDS} commands")
        _take(command, script, f"{location}, line {command.line}")
    return script


def _take(command: Command, script: Script, where: str) -> None:
    words = list(command.words)
    keyword = "".join(part.text for part in words[0])
    if keyword in _KEYWORDS:
        script.skipped.append((command.line, keyword))
    while words and keyword in ("export", "local", "declare", "readonly", "then", "do", "else"):
        words = words[1:]
        keyword = "".join(part.text for part in words[0]) if words else ""
    while words and (match := _ASSIGNMENT.match(words[0][0].text)) and not words[0][0].quote:
        name, append, start = match.groups()
        if command.array is not None and len(words) == 1 and not start and len(words[0]) == 1:
            values = _split(command.array, script, where)
            script.arrays[name] = [*(script.arrays.get(name, []) if append else []), *values]
        else:
            value = _text((Part(start, ""), *words[0][1:]), script, where)
            script.variables[name] = (script.variables.get(name, "") if append else "") + value
        words = words[1:]
    if words:
        script.commands.append((command.line, _split(words, script, where)))


def _text(word: Word, script: Script, where: str) -> str:
    """The value of an assignment: one text, whatever spaces it contains."""
    pieces = [part.text if part.quote == "'" else _expanded(part.text, script, where) for part in word]
    return "".join(pieces)


def _split(words: Iterable[Word], script: Script, where: str) -> list[str]:
    """The words of a command: an unquoted variable is divided at the spaces of its value."""
    fields: list[str] = []
    for word in words:
        array = _whole_array(word, script)
        added = array if array is not None else _fields(word, script, where)
        script.count(added, where)
        fields += added
    return fields


def _whole_array(word: Word, script: Script) -> list[str] | None:
    match = re.fullmatch(r"\$\{([A-Za-z_]\w*)\[[@*]\]\}", word[0].text)
    if match is None or len(word) > 1 or word[0].quote == "'" or match[1] not in script.arrays:
        return None
    items = script.arrays[match[1]]
    return list(items) if word[0].quote else [part for item in items for part in item.split()]


def _fields(word: Word, script: Script, where: str) -> list[str]:
    current, fields, is_open = "", list[str](), False
    for part in word:
        if part.quote:
            current += part.text if part.quote == "'" else _expanded(part.text, script, where)
            is_open = True
            continue
        text = _expanded(part.text, script, where)
        pieces = text.split()
        if pieces and text[0].isspace() and is_open:
            fields.append(current)
            current = ""
        if pieces[1:]:
            fields += [current + pieces[0], *pieces[1:-1]]
            current = ""
        current, is_open = current + (pieces[-1] if pieces else ""), is_open or bool(pieces)
        if pieces and text[-1].isspace():
            fields.append(current)
            current, is_open = "", False
    return [*fields, current] if is_open else fields


def _expanded(text: str, script: Script, where: str, depth: int = 0) -> str:
    """Replace the expansions of a text; what is not defined stays as it is and is listed."""
    if depth > MAX_DEPTH:
        raise MigrationError(f"{where}: defaults of variables are nested more than {MAX_DEPTH} deep")
    result, position = [], 0
    while position < len(text):
        if text[position] == "\\" and text[position + 1 : position + 2] in ("$", '"', "\\", "`"):
            result.append(text[position + 1])
            position += 2
        elif text[position] in "$`":
            end = expansion_end(text, position)
            value = _value(text[position:end], script, where, depth)
            script.count((value,), where)
            result.append(value)
            position = end
        else:
            result.append(text[position])
            position += 1
    return "".join(result)


def _value(expansion: str, script: Script, where: str, depth: int) -> str:
    value = None
    if expansion.startswith("$((") and expansion.endswith("))"):
        number = compute(expansion[3:-2], script.variables)
        value = None if number is None else str(number)
    elif match := _BRACES.fullmatch(expansion):
        name, _, default = match.groups()
        value = script.variables.get(name)
        if value is None and name in script.arrays:
            value = " ".join(script.arrays[name])
        if not value and default is not None:
            is_quoted = len(default) > 1 and default[0] == default[-1] and default[0] in "'\""
            value = _expanded(default[1:-1] if is_quoted else default, script, where, depth + 1)
    elif re.fullmatch(r"\$[A-Za-z_]\w*", expansion):
        value = script.variables.get(expansion[1:])
    elif expansion == "$":
        return expansion
    if value is None:
        if expansion not in script.undefined:
            script.undefined.append(expansion)
        return expansion
    return value
