"""One usual mistake: the command as a user types it, the sentence that it gets, and the exit code."""

from __future__ import annotations

import re
from dataclasses import dataclass

OMITTED = "…"
"""Stands for any text within a message, such as a list of choices."""


@dataclass(frozen=True)
class Mistake:
    """A row of the table of usual mistakes.

    Attributes:
        title: What is wrong.
        command: The command line; paths are those of `mistake_inputs`.
        message: A part of what is printed, white space apart, with `OMITTED` for any text.
        code: The exit code.
        condition: A state of the machine, one of `mistake_inputs.CONDITIONS`; "" for none.
    """

    title: str
    command: str
    message: str
    code: int = 2
    condition: str = ""

    def is_told_by(self, printed: str) -> bool:
        """Whether the message is a part of what was printed."""
        parts = map(re.escape, " ".join(self.message.split()).split(OMITTED))
        return re.search(".*".join(parts), " ".join(printed.split())) is not None
