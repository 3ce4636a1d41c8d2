"""The mutations, read from `mutations/*.yaml`, and how one is applied to a copy of the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("mutations")


@dataclass(frozen=True)
class Mutation:
    """One change of the code that breaks it.

    Attributes:
        topic: Name of the file that lists it.
        name: Unique, in kebab case.
        file: Path of the source file, from the root of the checkout.
        code: The text that is replaced; it occurs once in the file.
        instead: What takes its place.
        breaks: The consequence, as a sentence.
        noticed_by: Ids of the tests of which at least one must fail.
    """

    topic: str
    name: str
    file: str
    code: str
    instead: str
    breaks: str
    noticed_by: tuple[str, ...]

    @property
    def label(self) -> str:
        """Topic and name."""
        return f"{self.topic}/{self.name}"

    def mutated(self, source: str) -> str:
        """The source with the mutation.

        Raises:
            ValueError: The code does not occur exactly once, or the mutation changes nothing.
        """
        count = source.count(self.code)
        if count != 1:
            raise ValueError(f"{self.name}: its code occurs {count} times in {self.file}, it must occur once")
        if self.instead == self.code:
            raise ValueError(f"{self.name}: the replacement is the code itself")
        return source.replace(self.code, self.instead)

    @contextmanager
    def applied(self, root: Path) -> Iterator[None]:
        """Have the mutation in the checkout at `root` for a while.

        The modification time is moved, so that Python compiles the mutated file and afterwards takes the compiled
        original again; two writes within a second could otherwise look alike to it.
        """
        path = root / self.file
        source, times = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(self.mutated(source), encoding="utf-8")
        os.utime(path, (times.st_atime, times.st_mtime + 10))
        try:
            yield
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def read_mutations(folder: Path = FOLDER) -> list[Mutation]:
    """All mutations, topic by topic."""
    return [
        Mutation(path.stem, **{**entry, "noticed_by": tuple(entry["noticed_by"])})
        for path in sorted(folder.glob("*.yaml"))
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def select(mutations: Sequence[Mutation], words: Sequence[str]) -> list[Mutation]:
    """Those that have one of the words in their name, topic or file; all where there are no words."""
    return [one for one in mutations if not words or any(w in f"{one.label} {one.file}" for w in words)]
