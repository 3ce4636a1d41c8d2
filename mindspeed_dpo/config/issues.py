"""Problems and notes about a configuration, collected so that all of them are reported at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.untrusted.errors import shortened

_SECTION_PREFIX = {"ref": "actor_rollout_ref.ref.", "reward": "reward."}


class ConfigError(ValueError):
    """A configuration that cannot run.

    Attributes:
        problems: One sentence each, in the order of detection.
        notes: Further remarks that would not have stopped the run.
    """

    def __init__(self, problems: Iterable[str], notes: Iterable[str] = ()) -> None:
        """Remove duplicates and shorten what quotes a long value; the message of the error is the list of problems."""
        self.problems = tuple(dict.fromkeys(map(shortened, problems)))
        self.notes = tuple(dict.fromkeys(map(shortened, notes)))
        super().__init__("\n".join(self.problems))


class Violation(NamedTuple):
    """A rule that the settings of a role break, for example `Violation(("lr",), "must be more than min_lr=1e-5")`.

    Attributes:
        keys: The key to blame, then the keys whose values the rule also depends on.
        message: The end of the sentence "section.key=value …".
    """

    keys: tuple[str, ...]
    message: str


class Issues:
    """Collects problems and notes. Once a key is blamed, problems that depend on it are not added.

    One mistake is therefore one problem, and rules are applied in the order from causes to consequences.
    """

    def __init__(self) -> None:
        """Start without problems and notes."""
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._blamed: set[str] = set()

    def add_problem(self, sentence: str, *keys: str, role: str = "") -> None:
        """Add a problem and blame the first of `keys`, for one role or for all roles.

        Nothing is added if one of `keys` is already blamed.
        """
        if self._blamed.isdisjoint([*keys, *(f"{role}.{key}" for key in keys)]):
            self.problems.append(sentence)
        self._blamed.update(f"{role}.{key}" if role else key for key in keys[:1])

    def add_note(self, sentence: str) -> None:
        """Add a remark that does not stop the run."""
        self.notes.append(sentence)

    def add_violations(self, violations: Iterable[Violation], role: RoleConfig, run: RunConfig) -> None:
        """Add the violations of one role as problems, each with the section, the key and its value."""
        for violation in violations:
            key = violation.keys[0]
            pools = {name: list(sizes) for name, sizes in run.pools.items()}
            value = {**vars(run.loop), **role.settings(), **pools}[key]
            path = f"{_section_prefix(run, role, key)}{key}"
            self.add_problem(f"{path}={format_value(value)} {violation.message}", *violation.keys, role=role.name)


def _section_prefix(run: RunConfig, role: RoleConfig, key: str) -> str:
    origin = run.origins.get(f"{role.name}.{key}") or run.origins.get(f"loop.{key}")
    if origin:
        return f"{origin.section}."
    return "resource_pool." if key in run.pools else _SECTION_PREFIX.get(role.name, "")
