"""Loading of a configuration: from its name to a validated `RunConfig`, or to the list of its problems."""

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
from mindspeed_dpo.config.validation.paths_and_libraries import check_paths, check_writable
from mindspeed_dpo.config.validation.run import check_run
from mindspeed_dpo.untrusted.errors import shortened


@dataclass(frozen=True)
class ValidationReport:
    """The result of validation; for a valid configuration `ValidationReport(run, problems=(), notes=(…))`.

    Attributes:
        run: The resolved run, even if files are missing; None if its settings have problems.
        problems: What prevents the run, one sentence each.
        notes: Further remarks for the user.
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
) -> RunConfig:
    """Compose a configuration and validate all of it. Writes nothing and uses no device.

    Args:
        config_name: Name of a YAML file, with or without `.yaml`.
        overrides: Overrides such as `training.train_iters=10`.
        config_dir: A directory that is searched before the configurations of this repository.
        exists: Returns whether a path exists.

    Raises:
        ConfigError: The configuration has problems; the error lists all of them.
    """
    return check(compose(config_name, overrides, config_dir), exists=exists)


def check(
    composed: ComposedConfig, *, exists: Callable[[str], bool] = os.path.exists, now: datetime | None = None
) -> RunConfig:
    """Validate a composed configuration and return its run.

    Args:
        composed: The configuration.
        exists: Returns whether a path exists.
        now: Start time of the run, for the default `output_dir`; by default the current time.

    Raises:
        ConfigError: The configuration has problems; the error lists all of them.
    """
    report = validate(composed, exists=exists, now=now)
    if report.problems or report.run is None:
        raise ConfigError(report.problems, report.notes)
    return report.run


def validate(
    composed: ComposedConfig, *, exists: Callable[[str], bool] = os.path.exists, now: datetime | None = None
) -> ValidationReport:
    """Report every problem of a composed configuration and all notes, whether it can run or not."""
    issues = Issues()
    for note in composed.notes:
        issues.add_note(note)
    sections = SectionReader(composed, issues).read()
    run = resolve(sections, now or datetime.now(), issues)
    check_run(run, issues)
    is_consistent = not issues.problems
    check_paths(run, exists, issues)
    check_writable(run, issues)
    problems, notes = (tuple(dict.fromkeys(map(shortened, found))) for found in (issues.problems, issues.notes))
    return ValidationReport(dataclasses.replace(run, notes=notes) if is_consistent else None, problems, notes)
