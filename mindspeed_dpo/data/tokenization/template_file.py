"""Prompt templates as a file in MindSpeed-LLM's JSON format: reading one by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.tokenization.templates import (
    CONTENT_SLOTS,
    SPECIAL_PROMPT_TYPES,
    Slot,
    Special,
    Template,
    Text,
    Token,
)
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json

SHIPPED_TEMPLATES = Path(__file__).with_name("templates.json")

REFUSED_TEMPLATES = {
    "deepseek4": "it is a program in MindSpeed-LLM, not a template: tools, thoughts and tasks change other turns. "
    "For dialogues without tools and thoughts write a template to prompt_type_path whose user slot ends in "
    "<｜Assistant｜></think>, or use chat_template with a tokenizer that has one"
}
"""Templates of MindSpeed-LLM that are not in the shipped file, and why."""
PIECES = ("user", "assistant", "system", "function", "observation", "separator", "prefix")
_FIELDS = {
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


def template_names(path: str | Path | None = None) -> list[str]:
    """Return the template names of a file (the shipped one by default).

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is malformed.
    """
    return list(_read_file(expanded_path(path) if path else SHIPPED_TEMPLATES))


def load_template(name: str, path: str | Path | None = None) -> Template:
    """Read one template.

    Args:
        name: Value of `prompt_type`.
        path: Value of `prompt_type_path`, a JSON list of templates; the shipped file by default.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file or the template is malformed, or the name is unknown or refused; the message suggests one.
    """
    source = expanded_path(path) if path else SHIPPED_TEMPLATES
    entries = _read_file(source)
    if name in REFUSED_TEMPLATES and name not in entries:
        raise ValueError(f"prompt_type {name!r} is refused: {REFUSED_TEMPLATES[name]}")
    if name not in entries:
        available = [*entries, *SPECIAL_PROMPT_TYPES]
        hint = did_you_mean(name, available)
        raise ValueError(f"prompt_type {name!r} is not in {source}; available: {', '.join(available)}{hint}")
    with reraised_as(ValueError):
        return _template(entries[name], source)


def _read_file(path: Path) -> dict[str, JsonObject]:
    if not path.is_file():
        raise FileNotFoundError(f"prompt_type_path: there is no file {path}")
    try:
        entries = read_json(path)
    except MalformedDataError as error:
        raise ValueError(f"prompt_type_path: {error}") from error
    if not isinstance(entries, list) or not all(map(_has_name, entries)):
        raise ValueError(f"prompt_type_path: {path} should be a list of objects that have a name")
    return {entry["name"]: JsonObject(entry, f"{path}: template {entry['name']}") for entry in entries}


def _has_name(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def _template(entry: JsonObject, source: Path) -> Template:
    name = entry.text("name")
    where = f"{source}: template {name}"
    for unknown in set(entry) - _FIELDS:
        raise ValueError(f"{where}: field {unknown!r} is unknown{did_you_mean(unknown, _FIELDS)}")
    efficient = entry.boolean("efficient_eos", False)
    pieces = {piece: _slots(entry[f"format_{piece}"], where) for piece in PIECES if entry.get(f"format_{piece}")}
    pieces.pop("function", None)
    user = pieces.setdefault("user", CONTENT_SLOTS)
    pieces.setdefault("observation", user)
    pieces.setdefault("assistant", CONTENT_SLOTS if efficient else (*CONTENT_SLOTS, Special("eos_token")))
    template_class = entry.text("template_class", "")
    return Template(
        name=name,
        **pieces,
        default_system=_joined(entry, "default_system"),
        stop_words=entry.texts("stop_words", ()),
        thought_words=_thought_words(entry.get("thought_words"), where),
        efficient_eos=efficient,
        replace_eos=entry.boolean("replace_eos", False),
        reasoning="Reasoning" in template_class,
        system_in_user=name.startswith("llama2") or template_class == "Llama2Template",
    )


def _joined(entry: JsonObject, key: str) -> str:
    """A text, or a list of texts joined to one."""
    return "".join(entry.texts(key)) if isinstance(entry.get(key), list) else entry.text(key, "")


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
    if isinstance(slot, dict) and list(slot) == ["token"] and isinstance(slot["token"], str):
        return Token(slot["token"])
    if isinstance(slot, list) and len(slot) == 1 and slot[0] in ("bos_token", "eos_token"):
        return Special(slot[0])
    raise ValueError(
        f'{where}: a slot should be a text, {{"token": name}}, ["bos_token"] or ["eos_token"], got {slot!r}'
    )
