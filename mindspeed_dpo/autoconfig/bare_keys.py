"""Keys without a section on the command line, `lr=1e-6`: each goes where the configuration has it, or would have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mindspeed_dpo.autoconfig.config_tree import ACTOR, ConfigTree
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.legacy_keys import ROLE_KEYS, canonical_key, find_legacy_key
from mindspeed_dpo.config.loading.compose import ComposedConfig, compose
from mindspeed_dpo.config.settings.registry import SETTINGS, SHARED_KEYS

_WORD = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.DOTALL)


def compose_words(config_name: str, words: Sequence[str], config_dir: str | Path | None = None) -> ComposedConfig:
    """Compose a configuration with overrides, of which those of known keys need no section.

    Args:
        config_name: Name of the configuration.
        words: Overrides such as `training.lr=1e-6` or `lr=1e-6`.
        config_dir: A folder that is searched first.

    Raises:
        ConfigError: As `compose`, or the configuration sets a key in several sections.
    """
    bare = [word for word in words if bare_key(word)]
    others = [word for word in words if not bare_key(word)]
    composed = compose(config_name, others, config_dir)
    if not bare:
        return composed
    tree, problems = ConfigTree(composed), list[str]()
    placed = []
    for word in bare:
        key = bare_key(word)
        sections = [name for name in tree.sections if tree.get(name, key) is not None]
        if len(sections) > 1:
            problems.append(f"{word}: {' and '.join(sections)} set {key}; write {sections[-1]}.{word}")
        else:
            placed.append(f"{sections[0] if sections else _default_section(tree, key)}.{word}")
    if problems:
        raise ConfigError(problems)
    return compose(config_name, [*others, *placed], config_dir)


def bare_key(word: str) -> str:
    """Return the key of an override without a section, in its canonical spelling; empty for any other word."""
    match = _WORD.fullmatch(word)
    key = canonical_key(match[1]) if match else ""
    return key if key in SETTINGS or (key and find_legacy_key(key, ROLE_KEYS)) else ""


def _default_section(tree: ConfigTree, key: str) -> str:
    """Return the section of a key that no section sets: that of the run, or the actor's for what is the policy's."""
    is_of_run = key in SHARED_KEYS or key not in SETTINGS or tree.section(ACTOR) is None
    return tree.run_section if is_of_run else ACTOR
