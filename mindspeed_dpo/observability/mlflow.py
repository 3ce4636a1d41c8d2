"""MLflow tracker. The only module that imports mlflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from mindspeed_dpo.observability.tracker import TrackerRun

_PARAMS_PER_REQUEST = 100
_MAX_PARAM_CHARACTERS = 500
"""Maximum length of a parameter value that every backend store accepts."""


class MLflow:
    """Tracker of one MLflow run; settings are its parameters, by dotted key."""

    errors: tuple[type[Exception], ...] = (MlflowException,)

    def __init__(self, tracked: TrackerRun) -> None:
        """Start or resume the run."""
        self._client = MlflowClient(tracking_uri=tracked.place or None)
        if tracked.id is not None:
            self.id = tracked.id
            self._client.update_run(self.id, status="RUNNING")
        else:
            self.id = self._new_run(tracked)
        self._is_open = True

    def _new_run(self, tracked: TrackerRun) -> str:
        experiment = self._client.get_experiment_by_name(tracked.project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(tracked.project)
        run_id: str = self._client.create_run(experiment_id, run_name=tracked.name).info.run_id
        params = [Param(key, value[:_MAX_PARAM_CHARACTERS]) for key, value in _flat(tracked.config)]
        for start in range(0, len(params), _PARAMS_PER_REQUEST):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS_PER_REQUEST])
        return run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self.id, metrics=[Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        )

    def close(self) -> None:
        """End the run."""
        if self._is_open:
            self._client.set_terminated(self.id)
        self._is_open = False


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
