"""The trackers of a run: the metrics file, the progress line, TensorBoard, and external services."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.nested_settings import leaves
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.observability.external_trackers import start_tracker
from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE, MetricsFile
from mindspeed_dpo.observability.progress import ProgressLine
from mindspeed_dpo.observability.step_rows import OFFLINE_COLUMNS, ONLINE_COLUMNS
from mindspeed_dpo.observability.tensorboard import TensorBoard
from mindspeed_dpo.observability.tracker import TrackerRun, Trackers
from mindspeed_dpo.report.background import BackgroundReport

_SHORT_SECTIONS = {"actor_rollout_ref": "", "actor_rollout": "actor."}
"""What stands for a section in the name of a setting."""


@contextmanager
def run_report(config: RunConfig) -> Iterator[BackgroundReport | None]:
    """Give the writer of a run's page, None if it has none; at the end the page is written for the last time."""
    loop = config.loop
    report = BackgroundReport(Path(loop.output_dir), interval=loop.log_interval) if loop.report else None
    try:
        yield report
    finally:
        if report is not None:
            report.close()


@contextmanager
def open_trackers(config: RunConfig, first_step: int, report: BackgroundReport | None = None) -> Iterator[Trackers]:
    """Open all trackers of a run and close them at the end, all but the report, which outlives them.

    Args:
        config: Settings of the run.
        first_step: Iterations completed by an earlier run; what was logged after them is discarded.
        report: Writer of the run's page.
    """
    loop, output_dir = config.loop, Path(config.loop.output_dir)
    trackers = Trackers(
        [
            *(start_tracker(name, tracked_by(name, config), output_dir, first_step) for name in loop.external_trackers),
            MetricsFile(output_dir / METRICS_FILE, completed_steps=first_step),
            *([_tensorboard(config, first_step)] if loop.tensorboard else []),
            # After the metrics file, which it reads.
            *([_KeptOpen(report)] if report is not None else []),
            ProgressLine(
                loop.train_iters,
                completed_steps=first_step,
                interval=loop.log_interval,
                legacy_keys=True,
                columns=ONLINE_COLUMNS if config.is_online else OFFLINE_COLUMNS,
            ),
        ]
    )
    try:
        yield trackers
    finally:
        trackers.close()


class _KeptOpen:
    """The report among the trackers, which stays open when they are closed: the end of the run is logged after that."""

    def __init__(self, report: BackgroundReport) -> None:
        self.log = report.log

    def close(self) -> None:
        """Leave the report open."""


def _tensorboard(config: RunConfig, first_step: int) -> TensorBoard:
    folder = Path(config.loop.output_dir, "tensorboard")
    return TensorBoard(folder, completed_steps=first_step, settings=dict(tracked_settings(config.as_tree())))


def tracked_settings(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a tree by their names with short sections, such as `actor.lr`; lists as text."""
    for (*sections, key), value in leaves(tree):
        prefix = "".join(_SHORT_SECTIONS.get(section, f"{section}.") for section in sections)
        yield f"{prefix}{key}", value if isinstance(value, (bool, int, float)) else format_value(value)


def tracked_by(name: str, config: RunConfig) -> TrackerRun:
    """Return the project, run name, location and settings that an external tracker gets."""
    loop, settings = config.loop, config.as_tree()
    if name != "mlflow":
        project, run_name, folder = (getattr(loop, f"{name}_{what}") for what in ("project", "exp_name", "save_dir"))
        return TrackerRun(project, run_name, folder, settings)
    # MLflow's own default would be a file in the working directory.
    default = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"sqlite:///{os.path.abspath(loop.output_dir)}/mlflow.db"
    uri = default if loop.mlflow_tracking_uri is None else loop.mlflow_tracking_uri
    return TrackerRun(str(loop.mlflow_experiment), str(loop.mlflow_run_name), uri, settings)
