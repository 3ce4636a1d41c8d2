"""A kind of file that the package reads, and how it is mutated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import Mutation, mutate
from tests.fuzz.structures import json_snippet, json_value, yaml_interpolation, yaml_snippet, yaml_value

JSON: tuple[Mutation, ...] = (json_value, json_value, json_snippet)
YAML: tuple[Mutation, ...] = (yaml_value, yaml_snippet, yaml_interpolation)


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: Name on the command line.
        file: Path of the file below the folder of all seeds.
        read: Reads it, as the package does, given the folder of all seeds.
        structural: The mutations that know the format.
        share: Share of the mutations that are read; less than 1 where each costs a process of its own.
        limit_s: Limit for the processor time to read one mutation.
    """

    name: str
    file: str
    read: Callable[[Path], Any]
    structural: tuple[Mutation, ...] = ()
    share: float = 1.0
    limit_s: float = 10.0

    def mutated(self, data: bytes, number: int) -> bytes:
        """The mutation of a number; the same on every machine."""
        return mutate(data, random.Random(f"{self.name} {number}"), self.structural)

    def command(self, number: int) -> str:
        """The command that reads a mutation again."""
        return f'make fuzz ARGS="--only {self.name} --first {number} --count 1 --verbose"'


def drain(rows: Any) -> None:
    """Read all rows."""
    for _ in rows:
        pass
