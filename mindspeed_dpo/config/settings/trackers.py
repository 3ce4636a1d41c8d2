"""Experiment trackers beside metrics.jsonl. Only `observability` imports their libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.settings.setting import group_settings, setting
from mindspeed_dpo.config.sourced_values import format_value

PROJECT = "mindspeed_dpo"
_PROJECT, _NAME, _FOLDER = PROJECT, "<config name>", "<output_dir>"


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Settings of the trackers; all but TensorBoard need a library that is installed separately."""

    tensorboard: bool = setting(True, help="Write TensorBoard files beside metrics.jsonl.", shared=True)
    report: bool = setting(
        True, help="Keep report.html in output_dir up to date: one page with the curves of the run.", shared=True
    )
    use_wandb: bool = setting(
        False,
        help="Also log metrics to Weights & Biases; its environment variables, such as WANDB_MODE, apply.",
        shared=True,
    )
    wandb_project: str | None = setting(derived=_PROJECT, help="Weights & Biases project.", shared=True)
    wandb_exp_name: str | None = setting(derived=_NAME, help="Name of the Weights & Biases run.", shared=True)
    wandb_save_dir: str | None = setting(
        derived=_FOLDER,
        help="Directory of the local files of Weights & Biases.",
        shared=True,
        is_path=True,
    )
    use_swanlab: bool = setting(
        False,
        help="Also log metrics to SwanLab; its environment variables, such as SWANLAB_MODE, apply.",
        shared=True,
    )
    swanlab_project: str | None = setting(derived=_PROJECT, help="SwanLab project.", shared=True)
    swanlab_exp_name: str | None = setting(derived=_NAME, help="Name of the SwanLab run.", shared=True)
    swanlab_save_dir: str | None = setting(
        derived=_FOLDER,
        help="Directory of the local files of SwanLab.",
        shared=True,
        is_path=True,
    )
    use_mlflow: bool = setting(False, help="Also log metrics to MLflow.", shared=True)
    mlflow_tracking_uri: str | None = setting(
        None,
        help="Tracking URI of MLflow; null uses MLFLOW_TRACKING_URI, else sqlite:///`<output_dir>`/mlflow.db.",
        shared=True,
        is_path=True,
    )
    mlflow_experiment: str | None = setting(derived=_PROJECT, help="MLflow experiment.", shared=True)
    mlflow_run_name: str | None = setting(derived=_NAME, help="Name of the MLflow run.", shared=True)

    @property
    def external_trackers(self) -> tuple[str, ...]:
        """Names of the enabled trackers that need a library of their own."""
        return tuple(name for name in TRACKER_PACKAGES if getattr(self, f"use_{name}"))


TRACKER_PACKAGES = {"wandb": "wandb", "swanlab": "swanlab", "mlflow": "mlflow-skinny sqlalchemy alembic"}
"""Name of a tracker, which is also its module, to the packages that pip installs."""
TRACKER_KEYS = tuple(group_settings(TrackerConfig))


def filled_tracker_settings(trackers: TrackerConfig, name: str, output_dir: str) -> dict[str, Any]:
    """Return the settings of each tracker by key: derived values if it is enabled, else None."""
    filled: dict[str, Any] = {}
    for key in TRACKER_KEYS:
        tracker, _, part = key.partition("_")
        if tracker not in TRACKER_PACKAGES:
            continue
        defaults = {"project": PROJECT, "experiment": PROJECT, "save_dir": output_dir, "tracking_uri": None}
        value = getattr(trackers, key) or defaults.get(part, name)
        filled[key] = value if getattr(trackers, f"use_{tracker}") else None
    return filled


def unused_tracker_settings(trackers: TrackerConfig) -> Iterator[tuple[str, str]]:
    """Yield the key of each setting of a disabled tracker, and a message that lacks the section."""
    for key in TRACKER_KEYS:
        tracker, value = key.partition("_")[0], getattr(trackers, key)
        if tracker in TRACKER_PACKAGES and value is not None and not getattr(trackers, f"use_{tracker}"):
            yield key, f"{key}={format_value(value)} has no effect without use_{tracker}=true"


def is_installed(library: str) -> bool:
    """Return whether a library can be imported, without importing it."""
    return importlib.util.find_spec(library) is not None


def missing_libraries(
    trackers: TrackerConfig, installed: Callable[[str], bool] = is_installed
) -> Iterator[tuple[str, str]]:
    """Yield the key of each enabled tracker whose library is missing, and how to resolve it."""
    for name in trackers.external_trackers:
        if not installed(name):
            yield (
                f"use_{name}",
                f"needs a library that is not installed; pip install {TRACKER_PACKAGES[name]}, or use_{name}=false",
            )
