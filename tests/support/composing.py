"""Configurations of short runs: Hydra composes a file once, and overrides are put on top as Hydra would put them.

To compose takes 0.1 s of computing, which a thousand short runs would each pay. `tests/unit/config` is about composing.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mindspeed_dpo.config.load import check, load_run
from mindspeed_dpo.config.loading.compose import ComposedConfig, compose
from mindspeed_dpo.config.loading.overrides_as_text import quote_typed_values
from mindspeed_dpo.config.name_suggestions import normalize_key
from mindspeed_dpo.config.run import RunConfig

_SETS_ONE_KEY = re.compile(r"\w+(\.[\w-]+)+=")


def load_quickly(
    config_name: str, overrides: Sequence[str] = (), *, exists: Callable[[str], bool] = os.path.exists
) -> RunConfig:
    """As `load_run`, for shipped configurations; whatever does not just set one key of a section is left to it."""
    if not all(map(_SETS_ONE_KEY.match, overrides)):
        return load_run(config_name, overrides, exists=exists)
    tree = copy.deepcopy(_composed(config_name).tree)
    for override in overrides:
        _set(tree, override)
    typed = {normalize_key(text.split("=", 1)[0]): text for text in overrides}
    return check(ComposedConfig(config_name, tree, typed), exists=exists)


_composed = functools.cache(compose)


def _set(tree: dict[str, Any], override: str) -> None:
    *sections, key = override.split("=", 1)[0].split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = copy.deepcopy(_value(override))


@functools.cache
def _value(override: str) -> Any:
    """A list with commas inside is one value here, as in `compose`; interpolations are resolved."""
    parsed = OverridesParser.create().parse_override(f"++{quote_typed_values(override)}")
    value = override.split("=", 1)[1] if parsed.is_sweep_override() else parsed.value()
    return OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)["value"]
