"""The YAML file of a conversion, and the check that it is a valid configuration."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mindspeed_dpo.autoconfig.config_tree import ConfigTree
from mindspeed_dpo.autoconfig.steps import set_placeholder
from mindspeed_dpo.config.issues import ConfigError, Issues
from mindspeed_dpo.config.legacy_keys import normalize_key
from mindspeed_dpo.config.loading.compose import compose
from mindspeed_dpo.config.loading.resolve import resolve
from mindspeed_dpo.config.loading.sections import SectionReader
from mindspeed_dpo.config.settings.registry import GROUPS, SETTINGS
from mindspeed_dpo.config.settings.setting import group_settings
from mindspeed_dpo.config.validation.run import check_run
from mindspeed_dpo.migration.outcome import Migration

MODEL_NAME = "policy"
"""Name of a model whose settings are in the file itself."""
_MODEL_KEYS, _LOOP_KEYS = (frozenset(group_settings(GROUPS[name])) for name in ("model", "loop"))
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./,+:-]*(?<!:)")
_WORDS_OF_YAML = {"null", "true", "false", "yes", "no", "on", "off"}


def render(migration: Migration, file: str) -> str:
    """Return the text of the YAML file; `file` is the name of the file that was converted."""
    sections = _sections(migration)
    lines = [f"# Converted from {json.dumps(file, ensure_ascii=False)} ({migration.source})."]
    if migration.shipped_model:
        lines += ["defaults:", f"  - model: [{migration.shipped_model}]", ""]
    for name, block in sections.items():
        lines += [*_block({name: block}, 0), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def problems_of(text: str) -> list[str]:
    """Compose a file as a run would, and return what prevents it; paths and libraries are left out."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "converted.yaml").write_text(text, encoding="utf-8")
        try:
            composed = compose("converted", config_dir=folder)
        except ConfigError as error:
            return list(error.problems)
    issues, tree = Issues(), ConfigTree(composed)
    set_placeholder(tree)
    sections = SectionReader(tree.composed(), issues).read()
    check_run(resolve(sections, datetime.now(), issues), issues)
    return list(dict.fromkeys(issues.problems))


def _sections(migration: Migration) -> dict[str, Any]:
    values = {key: migration.settings[key] for key in SETTINGS if key in migration.settings}
    model = {key: value for key, value in values.items() if key in _MODEL_KEYS}
    shared = {key: value for key, value in values.items() if key in _LOOP_KEYS or SETTINGS[key].info.shared}
    name = migration.shipped_model or (MODEL_NAME if model else "")
    actor = {"model": name} if name else {}
    actor |= {key: value for key, value in values.items() if key not in shared and key not in model}
    if migration.shipped_model:
        actor |= model
    sections: dict[str, Any] = {} if migration.shipped_model or not model else {"model": {MODEL_NAME: model}}
    sections |= {"training": shared, "actor_rollout_ref": {"actor_rollout": actor}}
    if migration.processes:
        sections["resource_pool"] = {"actor_rollout": list(migration.processes)}
    return sections


def _block(block: Mapping[str, Any], depth: int) -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield f"{'  ' * depth}{key}:"
            yield from _block(value, depth + 1)
        else:
            yield f"{'  ' * depth}{normalize_key(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, bool | None):
        return json.dumps(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_OF_YAML:
        return text
    return json.dumps(text, ensure_ascii=False)
