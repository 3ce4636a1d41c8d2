"""The door of this room: a configuration's name in, a checked `RunConfig` or the list of its problems out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mindspeed_dpo.config.issues import ConfigError, Issues
from mindspeed_dpo.config.loading.compose import ComposedConfig, compose
from mindspeed_dpo.config.loading.resolve import resolve
from mindspeed_dpo.config.loading.sections import SectionReader
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.validation.paths import check_paths
from mindspeed_dpo.config.validation.run import check_run


@dataclass(frozen=True)
class ValidationReport:
    """All that can be said about a configuration before it runs.

    Attributes:
        run: The run, told apart from what lies on the disk; None where problems leave it undecided.
        problems: What keeps it from running, a sentence each.
        notes: What the reader should know besides.
    """

    run: RunConfig | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


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
        ConfigError: With every problem found.
    """
    return check(compose(config_name, overrides, config_dir), exists=exists, now=now)


def check(
    composed: ComposedConfig, *, exists: Callable[[str], bool] = os.path.exists, now: datetime | None = None
) -> RunConfig:
    """Check a composed configuration; see `load_run`."""
    found = validate(composed, exists=exists, now=now)
    if found.problems or found.run is None:
        raise ConfigError(found.problems, found.notes)
    return found.run


def validate(
    composed: ComposedConfig, *, exists: Callable[[str], bool] = os.path.exists, now: datetime | None = None
) -> ValidationReport:
    """Say all there is to say about a composed configuration, whether it can run or not."""
    findings = Issues()
    sections = SectionReader(composed, findings).read()
    run = resolve(sections, now or datetime.now(), findings)
    check_run(run, findings)
    is_decided = not findings.problems
    check_paths(run, exists, findings)
    problems, notes = (tuple(dict.fromkeys(told)) for told in (findings.problems, findings.notes))
    return ValidationReport(dataclasses.replace(run, notes=notes) if is_decided else None, problems, notes)
