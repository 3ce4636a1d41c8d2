"""The door of this room: a configuration's name in, a checked `RunConfig` or the list of its problems out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from mindspeed_dpo.config.checks import check_run
from mindspeed_dpo.config.compose import Composed, compose
from mindspeed_dpo.config.paths import check_paths
from mindspeed_dpo.config.problems import Findings
from mindspeed_dpo.config.resolve import resolve
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.sections import SectionReader


def load_run(
    config_name: str,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    *,
    exists: Callable[[str], bool] = os.path.exists,
    now: datetime | None = None,
) -> RunConfig:
    """Compose a configuration and check all of it. Nothing is written, no device is touched.

    Args:
        config_name: Name of a YAML file, with or without `.yaml`.
        overrides: Such as `training.train_iters=10`.
        config_dir: A folder searched before the shipped configurations.
        exists: Tells whether a path exists.
        now: When the run started, for the default `output_dir`; the current time where not given.

    Raises:
        ConfigProblems: With every problem found.
    """
    return check(compose(config_name, overrides, config_dir), exists=exists, now=now)


def check(
    composed: Composed, *, exists: Callable[[str], bool] = os.path.exists, now: datetime | None = None
) -> RunConfig:
    """Check a composed configuration; see `load_run`."""
    findings = Findings()
    sections = SectionReader(composed, findings).read()
    run = resolve(sections, now or datetime.now(), findings)
    check_run(run, findings)
    check_paths(run, exists, findings)
    findings.stop_on_problems()
    return dataclasses.replace(run, notes=tuple(dict.fromkeys(findings.notes)))
