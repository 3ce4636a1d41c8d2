"""How one setting is declared: its default, one sentence, its unit and its own check, in one place.

A group of settings is a frozen dataclass whose fields are made by `setting`; the field's name is the YAML key. Reading
values, validating them and writing the reference page all work from this description and repeat none of it. What holds
between several settings is told in `checks`, not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

_KEY = "setting"


@dataclass(frozen=True)
class Check:
    """A condition on one value.

    Attributes:
        holds: True where the value is acceptable; never called with None.
        words: What finishes the sentence "… must be …".
    """

    holds: Callable[[Any], bool]
    words: str


def at_least(low: float) -> Check:
    """The value is `low` or more."""
    return Check(lambda value: value >= low, f"at least {low}")


def within(low: float, high: float) -> Check:
    """The value lies in [low, high)."""
    return Check(lambda value: low <= value < high, f"at least {low} and less than {high}")


SHARE = Check(lambda value: 0 <= value <= 1, "at least 0 and at most 1")
POSITIVE = Check(lambda value: value > 0, "more than 0")


@dataclass(frozen=True)
class SettingInfo:
    """What is known about one key.

    Attributes:
        help: One sentence for the reader of a YAML file.
        unit: What a number counts, "" where nothing.
        derived: What the value is when absent, where that depends on other settings; "" where a default says it.
        choices: Every accepted text, of a list every accepted item; () where any text is.
        not_yet: Values known from other trainers that this version refuses, with the reason.
        check: The condition on a value, or None.
        shared: One value holds for the whole run: roles may repeat it but not differ.
    """

    help: str
    unit: str = ""
    derived: str = ""
    choices: tuple[str, ...] = ()
    not_yet: Mapping[Any, str] = field(default_factory=dict)
    check: Check | None = None
    shared: bool = False


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    unit: str = "",
    derived: str = "",
    choices: tuple[str, ...] = (),
    not_yet: Mapping[Any, str] | None = None,
    check: Check | None = None,
    shared: bool = False,
) -> Any:
    """Declare one setting as a dataclass field.

    Without `default` and `derived` the key is required. With `derived` the field is None only until it is filled in
    from other settings, so its declared type need not admit None. The other arguments are those of `SettingInfo`.
    """
    about = SettingInfo(help, unit, derived, choices, not_yet or {}, check, shared)
    return field(default=None if derived else default, metadata={_KEY: about})


@dataclass(frozen=True)
class Setting:
    """One field of a group as the rest of the room sees it: name, type, default (MISSING if required), description."""

    name: str
    type: Any
    default: Any
    about: SettingInfo

    @property
    def required(self) -> bool:
        """True where a YAML must give the key."""
        return self.default is dataclasses.MISSING


def declared(group: type) -> dict[str, Setting]:
    """The settings of a group by name, in the order written; its own before those of its bases."""
    types = get_type_hints(group)
    fields = [item for item in dataclasses.fields(group) if _KEY in item.metadata]
    fields.sort(key=lambda item: item.name not in group.__annotations__)
    return {item.name: Setting(item.name, types[item.name], item.default, item.metadata[_KEY]) for item in fields}
