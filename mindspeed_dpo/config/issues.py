"""Everything that is wrong with a configuration, gathered before it is told: one list, one sentence each."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that cannot run.

    Attributes:
        problems: One sentence each, in the order found.
        notes: What was found besides and would not have stopped the run.
    """

    def __init__(self, problems: Iterable[str], notes: Iterable[str] = ()) -> None:
        """Keep each sentence once; the error's own text is the list."""
        self.problems = tuple(dict.fromkeys(problems))
        self.notes = tuple(dict.fromkeys(notes))
        super().__init__("\n".join(self.problems))


class Issues:
    """The list being gathered. A key known to be bad is not blamed again for what follows from it."""

    def __init__(self) -> None:
        """Start with nothing found."""
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._bad: set[str] = set()

    def problem(self, sentence: str, *keys: str, role: str = "") -> None:
        """Add a problem and remember the first of `keys` as its cause, for one role or for all.

        Silent where one of `keys` is the cause of another problem already.
        """
        if self._bad.isdisjoint([*keys, *(f"{role}.{key}" for key in keys)]):
            self.problems.append(sentence)
        self._bad.update(f"{role}.{key}" if role else key for key in keys[:1])

    def note(self, sentence: str) -> None:
        """Add something the reader should know which does not stop the run."""
        self.notes.append(sentence)
