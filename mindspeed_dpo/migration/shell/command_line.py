"""A command of a script: the program that it starts, the flags before it (of its launcher) and those after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_REDIRECTION = re.compile(r"(?:\d*|&)(?:>>?|<)(.*)", re.DOTALL)
_FLAG = re.compile(r"--?[A-Za-z_][\w.:-]*(?:=.*)?", re.DOTALL)

Flags = dict[str, list[str]]
"""Name of a flag, without its dashes, to its words; a flag that is given twice has the words of the last."""


@dataclass(frozen=True)
class CommandLine:
    """One command, for example `CommandLine(3, ("torchrun",), {"nnodes": ["1"]}, "dpo.py", {"lr": ["1e-6"]})`.

    Attributes:
        line: Line of the script.
        launcher: Words before the program that belong to no flag.
        launcher_flags: Flags before the program.
        program: What is started, such as `posttrain_gpt.py`; "" where no word names it.
        flags: Flags after it.
        repeated: Names of flags that are given twice with different words.
        positional: Words after it that belong to no flag.
    """

    line: int
    launcher: tuple[str, ...]
    launcher_flags: Flags
    program: str
    flags: Flags
    repeated: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()


def parse_command(line: int, words: Sequence[str], programs: re.Pattern[str]) -> CommandLine:
    """Divide the words of a command at its program, the first word that matches `programs` completely."""
    words = _without_redirections(words)
    index = next((number for number, word in enumerate(words) if programs.fullmatch(word)), len(words))
    launcher, launcher_flags, _ = _flags(words[:index])
    positional, flags, repeated = _flags(words[index + 1 :])
    program = words[index] if index < len(words) else ""
    return CommandLine(line, launcher, launcher_flags, program, flags, repeated, positional)


def _without_redirections(words: Iterable[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        match = _REDIRECTION.fullmatch(word)
        if match is None and not skip and word != "\\":
            kept.append(word)
        skip = match is not None and not match[1]
    return kept


def _flags(words: Iterable[str]) -> tuple[tuple[str, ...], Flags, tuple[str, ...]]:
    """Return the words before the first flag, the flags, and the names of those with different words."""
    positional, given, current = [], list[tuple[str, list[str]]](), None
    for word in words:
        if _FLAG.fullmatch(word):
            name, equals, value = word.lstrip("-").partition("=")
            current = [value] if equals else []
            given.append((name, current))
        elif current is None:
            positional.append(word)
        else:
            current.append(word)
    flags = dict(given)
    return tuple(positional), flags, tuple(dict.fromkeys(name for name, found in given if found != flags[name]))
