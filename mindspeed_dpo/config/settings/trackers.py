"""Where metrics go beside metrics.jsonl. The libraries themselves are known to `observability` only."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.settings.field import declared, setting

PROJECT = "mindspeed_dpo"
_PROJECT, _NAME, _FOLDER = PROJECT, "<config name>", "<output_dir>"


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Trackers of metrics; each but the first two needs its library."""

    tensorboard: bool = setting(True, help="Write TensorBoard files beside metrics.jsonl.", shared=True)
    use_wandb: bool = setting(
        False, help="Also send metrics to Weights & Biases; its own variables, such as WANDB_MODE, hold.", shared=True
    )
    wandb_project: str | None = setting(derived=_PROJECT, help="Project of Weights & Biases.", shared=True)
    wandb_exp_name: str | None = setting(derived=_NAME, help="Name of the run there.", shared=True)
    wandb_save_dir: str | None = setting(derived=_FOLDER, help="Where its local files lie.", shared=True)
    use_swanlab: bool = setting(
        False, help="Also send metrics to SwanLab; its own variables, such as SWANLAB_MODE, hold.", shared=True
    )
    swanlab_project: str | None = setting(derived=_PROJECT, help="Project of SwanLab.", shared=True)
    swanlab_exp_name: str | None = setting(derived=_NAME, help="Name of the run there.", shared=True)
    swanlab_save_dir: str | None = setting(derived=_FOLDER, help="Where its local files lie.", shared=True)
    use_mlflow: bool = setting(False, help="Also send metrics to MLflow.", shared=True)
    mlflow_tracking_uri: str | None = setting(
        None,
        help="Store or server of MLflow; null: MLFLOW_TRACKING_URI, else sqlite:///<output_dir>/mlflow.db.",
        shared=True,
    )
    mlflow_experiment: str | None = setting(derived=_PROJECT, help="Experiment of MLflow.", shared=True)
    mlflow_run_name: str | None = setting(derived=_NAME, help="Name of the run there.", shared=True)

    @property
    def external_trackers(self) -> tuple[str, ...]:
        """Names of the trackers that need a library of their own."""
        return tuple(name for name in TRACKER_PACKAGES if getattr(self, f"use_{name}"))


TRACKER_PACKAGES = {"wandb": "wandb", "swanlab": "swanlab", "mlflow": "mlflow-skinny sqlalchemy alembic"}
"""Tracker, which is also the name it is imported by, to what pip installs."""
TRACKER_KEYS = tuple(declared(TrackerConfig))


def with_trackers(given: TrackerConfig, name: str, output_dir: str) -> dict[str, Any]:
    """What follows for each tracker: its names filled in where it is used, none where it is not."""
    filled: dict[str, Any] = {}
    for key in TRACKER_KEYS:
        tracker, _, what = key.partition("_")
        if tracker not in TRACKER_PACKAGES:
            continue
        defaults = {"project": PROJECT, "experiment": PROJECT, "save_dir": output_dir, "tracking_uri": None}
        value = getattr(given, key) or defaults.get(what, name)
        filled[key] = value if getattr(given, f"use_{tracker}") else None
    return filled


def unused(given: TrackerConfig) -> Iterator[tuple[str, str]]:
    """Each setting of a tracker that is not used: its key, and a sentence about it that lacks the section."""
    for key in TRACKER_KEYS:
        tracker, value = key.partition("_")[0], getattr(given, key)
        if tracker in TRACKER_PACKAGES and value is not None and not getattr(given, f"use_{tracker}"):
            yield key, f"{key}={format_value(value)} has no effect without use_{tracker}=true"


def is_installed(library: str) -> bool:
    """Whether a library could be imported; it is not."""
    return importlib.util.find_spec(library) is not None


def missing_libraries(
    given: TrackerConfig, installed: Callable[[str], bool] = is_installed
) -> Iterator[tuple[str, str]]:
    """The key of each tracker whose library is not there, and what to do."""
    for name in given.external_trackers:
        if not installed(name):
            yield (
                f"use_{name}",
                f"needs a library that is not installed; pip install {TRACKER_PACKAGES[name]}, or use_{name}=false",
            )
