"""Completes a composed configuration: architecture, layout and steps, as far as it leaves them to its files."""

from __future__ import annotations

import os
from collections.abc import Callable

from mindspeed_dpo.autoconfig.config_tree import ConfigTree
from mindspeed_dpo.autoconfig.steps import add_steps
from mindspeed_dpo.config.loading.compose import ComposedConfig


def completed(composed: ComposedConfig, exists: Callable[[str], bool] = os.path.exists) -> ComposedConfig:
    """Return a configuration with what it leaves to its files; one that leaves nothing is returned as it is.

    Args:
        composed: The configuration.
        exists: Returns whether a path exists.

    Raises:
        ConfigError: Weights do not describe their model, or rows cannot be counted.
    """
    tree = ConfigTree(composed)
    # Deferred: these import torch, for which a configuration that needs neither should not have to wait.
    if not tree.section("model") and tree.run_section == "training":
        from mindspeed_dpo.autoconfig.architecture import add_architectures

        add_architectures(tree)
    if tree.find("layout") is not None:
        from mindspeed_dpo.autoconfig.layout import add_layout

        add_layout(tree)
    add_steps(tree, exists)
    return tree.composed()
