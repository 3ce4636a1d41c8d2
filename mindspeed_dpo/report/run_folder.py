"""Reads what the report shows of a run's folder; files that are absent, or damaged, leave their part out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mindspeed_dpo.config.nested_settings import leaves
from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from mindspeed_dpo.report.metric_curves import MetricCurves, read_curves
from mindspeed_dpo.report.run_facts import RunFacts, read_run_facts
from mindspeed_dpo.report.sample_files import PairMargins, Sample, read_pair_margins, read_samples
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.untrusted.yaml_text import read_yaml_mapping

T = TypeVar("T")
CONFIG_FILE, LOG_FILE = "config.yaml", "logs/driver_0.log"
_LOG_BYTES = 1 << 18
MAX_WARNINGS = 40
_WARNING = re.compile(r"\[([^\]]+)\] (?:WARNING|ERROR|CRITICAL) [\w.]+: (.*)")


class NotARunError(ValueError):
    """A folder that holds no run."""


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's files.

    Example:
        read_run(Path("outputs/offline_dpo_trainer_tiny/2026-01-31_12-00-00")).curves.last_step

    Attributes:
        folder: Folder of the run.
        name: Name of the run, by which a page tells it from others.
        settings: Dotted key to its value as text.
        facts: What the run knew at its start.
        curves: Metrics.
        samples: Sample responses of an online run, the newest step last.
        margins: Margins of the last evaluation of an offline run; None without one.
        warnings: Time and text of the warnings and errors in the driver's log.
        unreadable: One sentence for each file that is damaged.
    """

    folder: Path
    name: str
    settings: Mapping[str, str]
    facts: RunFacts
    curves: MetricCurves
    samples: Sequence[Sample] = ()
    margins: PairMargins | None = None
    warnings: Sequence[tuple[str, str]] = ()
    unreadable: Sequence[str] = field(default_factory=list)

    @property
    def total_steps(self) -> int | None:
        """Steps of the complete run; None if its settings are unknown."""
        text = self.settings.get("training.train_iters", "")
        return int(text) if text.isdecimal() else None


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        NotARunError: It is no folder with a run; the message says what is missing.
    """
    if not folder.is_dir():
        raise NotARunError(f"{folder} is not a folder; give the output_dir of a run")
    if not (folder / METRICS_FILE).is_file() and not (folder / CONFIG_FILE).is_file():
        raise NotARunError(f"{folder} holds neither {METRICS_FILE} nor {CONFIG_FILE}; give the output_dir of a run")
    unreadable: list[str] = []

    def read(reader: Callable[[], T], absent: T, file: str = "") -> T:
        try:
            return reader() if not file or has_file(folder / file) else absent
        except FileNotFoundError:
            return absent
        except (MalformedDataError, OSError) as error:
            unreadable.append(str(error))
            return absent

    tree: dict[str, Any] = read(lambda: read_yaml_mapping(folder / CONFIG_FILE), {}, CONFIG_FILE)
    settings = {".".join(keys): _text(value) for keys, value in leaves(tree)}
    return RunRecord(
        folder=folder,
        name=_name(folder, settings),
        settings=settings,
        facts=read(lambda: read_run_facts(folder), RunFacts()),
        curves=read(lambda: read_curves(folder / METRICS_FILE), MetricCurves(), METRICS_FILE),
        samples=read(lambda: read_samples(folder), []),
        margins=read(lambda: read_pair_margins(folder), None),
        warnings=read(lambda: read_warnings(folder / LOG_FILE), [], LOG_FILE),
        unreadable=unreadable,
    )


def _name(folder: Path, settings: Mapping[str, str]) -> str:
    """Return the name of the configuration and of the folder."""
    names = (settings.get("name"), real_path(folder).name)
    return " / ".join(dict.fromkeys(filter(None, names)))


def _text(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_warnings(path: Path) -> list[tuple[str, str]]:
    """Return time and text of the warnings of a log, from its first and last part if it is long; equal ones once.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_LOG_BYTES)
        size = path.stat().st_size
        if size > 2 * _LOG_BYTES:
            file.seek(size - _LOG_BYTES)
        text += file.read()
    found: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        if match := _WARNING.match(line):
            found.setdefault(match[2], match[1])
    return [(time, text) for text, time in found.items()][-MAX_WARNINGS:]
