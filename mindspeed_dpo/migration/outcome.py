"""The outcome of a conversion: settings of this project, and what is said about everything else in the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.config.legacy_keys import canonical_key
from mindspeed_dpo.config.loading.value_parsing import parse_value
from mindspeed_dpo.config.settings.registry import SETTINGS


@dataclass
class Migration:
    """The settings that a file becomes, for example `Migration("TRL command line", {"dpo_beta": 0.1})`.

    Attributes:
        source: What the file is.
        settings: Settings by their keys, those of the model apart from `shipped_model`.
        shipped_model: Name of a file of configs/model that describes the architecture; "" where `settings` does.
        processes: Processes of each node; () where the file does not say.
        left_out: What has no counterpart, as written, and the reason or what to do instead.
        always_so: What holds without a setting.
        changed: What becomes something else than its own name and value, what it becomes, and a remark or "".
        to_do: What the user has to add.
    """

    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    shipped_model: str = ""
    processes: tuple[int, ...] = ()
    left_out: list[tuple[str, str]] = field(default_factory=list)
    always_so: list[str] = field(default_factory=list)
    changed: list[tuple[str, str, str]] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, written: str = "", remark: str = "") -> None:
        """Give a setting a value, or leave it out with the reason for which the value is not possible.

        Args:
            key: A setting of this project.
            value: Its value; text is read as in a file.
            written: The foreign key and value; "" where it is the same key and value.
            remark: What the user should know about the change; "" where nothing.
        """
        shown = written or f"{key}={as_text(value)}"
        if undefined(value):
            self.to_do.append(f"{key}: {shown} contains a value that the file does not define; set it")
            return
        try:
            parsed = parse_value(value, SETTINGS[key])
        except ValueError as reason:
            self.left_out.append((shown, f"{key}={as_text(value)} {reason}"))
            return
        self.settings[key] = parsed if isinstance(parsed, bool) else value
        if written and not _is_same(written, key, value):
            self.changed.append((written, f"{key}={as_text(value)}", remark))

    def leave_out(self, written: str, reason: str) -> None:
        """Report that something has no counterpart."""
        self.left_out.append((written, reason))


def as_text(value: Any) -> str:
    """A value as a user writes it: booleans in lower case, the items of a list joined by commas."""
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def undefined(value: Any) -> bool:
    """Whether a text contains a variable or command of a shell that was not replaced."""
    items: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, str) and ("$" in item or "`" in item) for item in items)


def _is_same(written: str, key: str, value: Any) -> bool:
    name, _, text = written.lstrip("-").partition("=")
    return canonical_key(name.rsplit(".", 1)[-1]) == key and text.strip().lower() in (as_text(value).lower(), "")
