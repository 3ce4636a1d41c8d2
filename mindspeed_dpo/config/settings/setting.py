"""The declaration of one setting: default, description, unit and the values it accepts, in one place.

A group of settings is a frozen dataclass whose fields are made by `setting`; the name of the field is the YAML key.
Parsing, validation and the reference page all read this declaration. Rules between settings are in `validation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

_METADATA_KEY = "setting"


@dataclass(frozen=True)
class ValueCheck:
    """A condition on a single value.

    Attributes:
        accepts: Returns True for an acceptable value; never called with None.
        description: The condition as the end of the sentence "key=value must be …".
    """

    accepts: Callable[[Any], bool]
    description: str


def at_least(low: float) -> ValueCheck:
    """Require a value of `low` or more."""
    return ValueCheck(lambda value: value >= low, f"at least {low}")


def within(low: float, high: float) -> ValueCheck:
    """Require a value in [low, high)."""
    return ValueCheck(lambda value: low <= value < high, f"at least {low} and less than {high}")


FRACTION = ValueCheck(lambda value: 0 <= value <= 1, "at least 0 and at most 1")
POSITIVE_FRACTION = ValueCheck(lambda value: 0 < value <= 1, "more than 0 and at most 1")
POSITIVE = ValueCheck(lambda value: value > 0, "more than 0")


@dataclass(frozen=True)
class SettingInfo:
    """The description of one key, for example `SettingInfo(help="Peak learning rate.", check=at_least(0))`.

    Attributes:
        help: One or two sentences for the reader of a YAML file.
        unit: Unit of a number, such as "steps" or "tokens"; "" where it has none.
        derived: How an absent value follows from other settings; "" where the setting has a fixed default.
        choices: Every accepted text (for a list: every accepted item); () where any text is accepted.
        synonyms: Older texts for a choice, and the choice that each is read as.
        refused: Values that other trainers accept and this one does not, with the reason.
        check: The condition on a value, or None.
        shared: The run has a single value: roles may repeat it but not differ.
        is_path: The value is a path, or several; `~` stands for the home folder.
    """

    help: str
    unit: str = ""
    derived: str = ""
    choices: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[Any, str] = field(default_factory=dict)
    check: ValueCheck | None = None
    shared: bool = False
    is_path: bool = False


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    unit: str = "",
    derived: str = "",
    choices: tuple[str, ...] = (),
    synonyms: Mapping[str, str] | None = None,
    refused: Mapping[Any, str] | None = None,
    check: ValueCheck | None = None,
    shared: bool = False,
    is_path: bool = False,
) -> Any:
    """Declare one setting as a dataclass field.

    Without `default` and `derived` the key is required. With `derived` the field is None only until it is filled in
    from other settings, so its declared type need not admit None. The other arguments are those of `SettingInfo`.
    """
    info = SettingInfo(help, unit, derived, choices, synonyms or {}, refused or {}, check, shared, is_path)
    return field(default=None if derived else default, metadata={_METADATA_KEY: info})


@dataclass(frozen=True)
class Setting:
    """One field of a group: its key, declared type, default (MISSING if required) and description."""

    name: str
    type: Any
    default: Any
    info: SettingInfo

    @property
    def is_required(self) -> bool:
        """Whether a configuration must set the key."""
        return self.default is dataclasses.MISSING


def group_settings(group: type) -> dict[str, Setting]:
    """Return the settings of a group by key in the order of declaration, its own before those of its base classes."""
    types = get_type_hints(group)
    fields = [item for item in dataclasses.fields(group) if _METADATA_KEY in item.metadata]
    fields.sort(key=lambda item: item.name not in group.__annotations__)
    return {
        item.name: Setting(item.name, types[item.name], item.default, item.metadata[_METADATA_KEY]) for item in fields
    }
