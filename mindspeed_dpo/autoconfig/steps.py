"""The steps of a run whose length is given in epochs: rounded up, so that every row is trained on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction

from mindspeed_dpo.autoconfig.config_tree import ConfigTree
from mindspeed_dpo.autoconfig.kept_rows import filtered_rows
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import validate
from mindspeed_dpo.config.loading.value_parsing import parse_value
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.registry import SETTINGS

_KEY, _STEPS = "num_train_epochs", "train_iters"
PLACEHOLDER_STEPS = 10**9
"""Steps of a run until they are known: more than any key may ask for."""


def add_steps(tree: ConfigTree, exists: Callable[[str], bool] = os.path.exists) -> None:
    """Replace epochs by steps, if the configuration gives epochs only.

    Raises:
        ConfigError: The configuration has problems, its data cannot be read, or no row is left for training.
    """
    written, epochs = tree.find(_KEY), _epochs(tree)
    if epochs is None:
        return
    trial = ConfigTree(tree.composed())
    set_placeholder(trial)
    report = validate(trial.composed(), exists=exists)
    if report.run is None or report.problems:
        raise ConfigError(report.problems, report.notes)
    num_rows = _num_rows(report.run)
    size = report.run.actor.batch.global_batch_size
    tree.remove(_KEY)
    steps = math.ceil(Fraction(str(epochs)) * num_rows / size)
    tree.set(tree.run_section, _STEPS, steps, f"derived: {_KEY}={written} of {num_rows} rows")


def set_placeholder(tree: ConfigTree) -> None:
    """Replace epochs by the placeholder, if the configuration gives epochs only, so that its rules can be applied."""
    if _epochs(tree) is not None:
        source = f"derived: {_KEY}={tree.find(_KEY)}"
        tree.remove(_KEY)
        tree.set(tree.run_section, _STEPS, PLACEHOLDER_STEPS, source)


def _epochs(tree: ConfigTree) -> float | None:
    """Return the length in epochs if it is the only one; None for an invalid one, which is reported when it is read."""
    if tree.find(_KEY) is None or tree.find(_STEPS) is not None:
        return None
    try:
        epochs: float | None = parse_value(tree.find(_KEY), SETTINGS[_KEY])
    except ValueError:
        return None
    return epochs


def _num_rows(run: RunConfig) -> int:
    try:
        num_rows = len(filtered_rows(run, run.actor.data.data_path).splits(run.actor.data.split).train)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{_KEY}: the rows of data_path cannot be counted: {error}"]) from error
    if not num_rows:
        raise ConfigError([f"{_KEY}: split={run.actor.data.split} leaves no row for training"])
    return num_rows
