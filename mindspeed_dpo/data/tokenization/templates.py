"""Prompt templates: what stands around the text of each turn, read from a file in MindSpeed-LLM's JSON format.

Only the description lives here; `encode` turns dialogues into token ids with it, `tokenizer` applies its end token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.names import did_you_mean

SHIPPED_TEMPLATES = Path(__file__).with_name("templates.json")
SPECIAL_PROMPT_TYPES = ("chat_template", "plain")
"""Prompt types that are no template: the tokenizer's own chat template, and text as it is."""

PIECES = ("user", "assistant", "system", "function", "observation", "separator", "prefix")
_KNOWN_FIELDS = {
    "name",
    *(f"format_{piece}" for piece in PIECES),
    "format_tools",
    "default_system",
    "stop_words",
    "thought_words",
    "efficient_eos",
    "replace_eos",
    "force_system",
    "template_class",
    "enable_thinking",
}


@dataclass(frozen=True)
class Text:
    """A slot of text; `{{content}}` and `{{idx}}` are filled in. Tokenised on its own."""

    pattern: str


@dataclass(frozen=True)
class Token:
    """A slot of one id, looked up by the token's name."""

    name: str


@dataclass(frozen=True)
class Special:
    """A slot of the tokenizer's own `bos_token` or `eos_token`, skipped where it has none."""

    name: str


Slot = Text | Token | Special
_CONTENT: tuple[Slot, ...] = (Text("{{content}}"),)


@dataclass(frozen=True)
class Template:
    """A chat template in the form of MindSpeed-LLM.

    Attributes:
        name: Name for `prompt_type`.
        user: Slots of a user turn, up to and including the header of the response.
        assistant: Slots of a response, including its end.
        system: Slots of the system text.
        observation: Slots of a tool's output.
        separator: Slots before every turn but the first.
        prefix: Slots at the very start.
        default_system: Used for rows without a system text.
        stop_words: What ends a turn; the first becomes the end token with `replace_eos`.
        thought_words: What opens and closes a thought; matched without surrounding whitespace.
        efficient_eos: One end token at the end of the row instead of one after each answer.
        replace_eos: Whether the first stop word replaces the tokenizer's end token.
        reasoning: Whether `enable_thinking` applies.
        system_in_user: Whether the system text stands inside the first question.
    """

    name: str
    user: tuple[Slot, ...] = _CONTENT
    assistant: tuple[Slot, ...] = (*_CONTENT, Special("eos_token"))
    system: tuple[Slot, ...] = _CONTENT
    observation: tuple[Slot, ...] = _CONTENT
    separator: tuple[Slot, ...] = ()
    prefix: tuple[Slot, ...] = ()
    default_system: str = ""
    stop_words: tuple[str, ...] = ()
    thought_words: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    efficient_eos: bool = False
    replace_eos: bool = False
    reasoning: bool = False
    system_in_user: bool = False

    @property
    def fingerprint(self) -> str:
        """Identity of everything that shapes the ids."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:32]

    @property
    def ends_with_eos(self) -> bool:
        """Whether a response ends in something that stops generation."""
        last = self.assistant[-1] if self.assistant else None
        ends_in_text = isinstance(last, Text) and not last.pattern.endswith("{{content}}")
        return self.efficient_eos or isinstance(last, Special | Token) or ends_in_text


def template_names(path: str | Path | None = None) -> list[str]:
    """The names in a template file (the shipped one by default)."""
    return list(_read_file(Path(path).expanduser() if path else SHIPPED_TEMPLATES))


def load_template(name: str, path: str | Path | None = None) -> Template:
    """Read one template; nothing is cached, so another file or name always counts.

    Args:
        name: `prompt_type`.
        path: `prompt_type_path`, a JSON list of templates; the shipped file by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file or the template is malformed, or the name unknown; names the nearest.
    """
    source = Path(path).expanduser() if path else SHIPPED_TEMPLATES
    entries = _read_file(source)
    if name not in entries:
        known = [*entries, *SPECIAL_PROMPT_TYPES]
        hint = did_you_mean(name, known)
        raise ValueError(f"prompt_type {name!r} is not in {source}; known are {', '.join(known)}{hint}")
    return _template(entries[name], source)


def _read_file(path: Path) -> dict[str, Mapping[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"prompt_type_path: there is no file {path}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"prompt_type_path: {path} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
        raise ValueError(f"prompt_type_path: {path} should be a list of objects with a name each")
    return {entry["name"]: entry for entry in entries}


def _template(entry: Mapping[str, Any], source: Path) -> Template:
    name = entry["name"]
    where = f"{source}: template {name}"
    for unknown in set(entry) - _KNOWN_FIELDS:
        raise ValueError(f"{where}: field {unknown!r} is unknown{did_you_mean(unknown, _KNOWN_FIELDS)}")
    efficient = bool(entry.get("efficient_eos", False))
    pieces = {piece: _slots(entry[f"format_{piece}"], where) for piece in PIECES if entry.get(f"format_{piece}")}
    pieces.pop("function", None)
    user = pieces.setdefault("user", _CONTENT)
    pieces.setdefault("observation", user)
    pieces.setdefault("assistant", _CONTENT if efficient else (*_CONTENT, Special("eos_token")))
    template_class = entry.get("template_class") or ""
    return Template(
        name=name,
        **pieces,
        default_system=_joined(entry.get("default_system")),
        stop_words=tuple(entry.get("stop_words") or ()),
        thought_words=_thought_words(entry.get("thought_words"), where),
        efficient_eos=efficient,
        replace_eos=bool(entry.get("replace_eos", False)),
        reasoning="Reasoning" in template_class,
        system_in_user=name.startswith("llama2") or template_class == "Llama2Template",
    )


def _joined(value: str | Iterable[str] | None) -> str:
    return "" if value is None else value if isinstance(value, str) else "".join(value)


def _thought_words(value: Any, where: str) -> tuple[str, str]:
    if value is None:
        return Template("").thought_words
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where}: thought_words should be [opening, closing], got {value!r}")
    return (str(value[0]), str(value[1]))


def _slots(piece: Any, where: str) -> tuple[Slot, ...]:
    slots = piece.get("slots") if isinstance(piece, dict) else None
    if not isinstance(slots, list):
        raise ValueError(f'{where}: a format should be {{"slots": [...]}}, got {json.dumps(piece, ensure_ascii=False)}')
    return tuple(_slot(slot, where) for slot in slots)


def _slot(slot: Any, where: str) -> Slot:
    if isinstance(slot, str):
        return Text(slot)
    if isinstance(slot, dict) and list(slot) == ["token"]:
        return Token(slot["token"])
    if isinstance(slot, list) and len(slot) == 1 and slot[0] in ("bos_token", "eos_token"):
        return Special(slot[0])
    raise ValueError(f'{where}: a slot is a text, {{"token": name}}, ["bos_token"] or ["eos_token"], got {slot!r}')
