"""Trackers with a library of their own: what they keep, read back; resumed runs; failures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mindspeed_dpo.observability import external_trackers
from mindspeed_dpo.observability.external_trackers import TrackerError, start_tracker
from mindspeed_dpo.observability.tracker import TrackerRun
from tests.support.metrics import read_metrics
from tests.support.runs import train
from tests.support.wandb_files import read_runs
from tests.unit.workers.pairs import random_run

CONFIG = {"training": {"train_iters": 3, "eval_data_path": {"chat": "a"}}, "reward": {"reward_functions": ["a.b"]}}


class Lost(Exception):
    """As a library raises it."""


class Remembering:
    """A tracker that keeps all in the class, as a server would."""

    errors = (Lost,)
    server: ClassVar[dict[str, list[tuple[int, dict[str, float]]]]] = {}
    fails = False

    def __init__(self, tracked: TrackerRun) -> None:
        if tracked.project == "refused":
            raise Lost("no  such\nproject")
        self.id = tracked.id or f"run{len(self.server)}"
        self.server.setdefault(self.id, [])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.fails:
            raise Lost("no network")
        self.server[self.id].append((step, dict(metrics)))

    def close(self) -> None:
        """Nothing is pending."""


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch) -> type[Remembering]:
    kind = type("Kind", (Remembering,), {"server": {}, "fails": False})
    monkeypatch.setitem(external_trackers.TRACKER_IMPORTS, "remembering", lambda: kind)
    return kind


def tracked(place: Path | str = "", project: str = "p") -> TrackerRun:
    return TrackerRun(project, "trial", str(place), CONFIG)


def log_steps(name: str, tracked: TrackerRun, folder: Path, first: int, last: int, start: int | None = None) -> None:
    tracker = start_tracker(name, tracked, folder, first)
    for step in range(first + 1 if start is None else start, last + 1):
        tracker.log(step, {"loss": 0.5 + step, "eval/chat/loss": 0.25})
    tracker.close()


def test_a_resumed_run_keeps_its_id_and_logs_each_step_once(remembering: type[Remembering], tmp_path: Path) -> None:
    log_steps("remembering", tracked(), tmp_path, 0, 5, start=0)
    log_steps("remembering", tracked(), tmp_path, 2, 7)
    assert list(remembering.server) == ["run0"]
    assert [step for step, _ in remembering.server["run0"]] == list(range(8))
    state_file = tmp_path / "trackers" / "remembering.json"
    assert json.loads(state_file.read_text()) == {"id": "run0", "step": 7}
    assert list(state_file.parent.iterdir()) == [state_file]


def test_a_new_run_in_an_old_place_has_an_id_of_its_own(remembering: type[Remembering], tmp_path: Path) -> None:
    log_steps("remembering", tracked(), tmp_path, 0, 2)
    log_steps("remembering", tracked(), tmp_path, 0, 3)
    assert [len(steps) for steps in remembering.server.values()] == [2, 3]


def test_a_failing_tracker_does_not_stop_training_and_is_reported_once(
    remembering: type[Remembering], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start_tracker("remembering", tracked(), tmp_path, 0)
    remembering.fails = True
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 1.0})
    remembering.fails = False
    tracker.log(3, {"loss": 1.0})
    assert [step for step, _ in remembering.server["run0"]] == [3]
    assert [line for line in caplog.messages if "did not log step" in line] == [
        "remembering did not log step 1, training continues: no network"
    ]


def test_the_error_of_a_tracker_that_does_not_start_says_what_to_change(
    remembering: type[Remembering], tmp_path: Path
) -> None:
    with pytest.raises(
        TrackerError, match=r"remembering did not start \(no such project\); .* set use_remembering=false"
    ):
        start_tracker("remembering", tracked(project="refused"), tmp_path, 0)


def test_an_unknown_metric_is_refused(remembering: type[Remembering], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in the table"):
        start_tracker("remembering", tracked(), tmp_path, 0).log(1, {"lose": 1.0})


EXPECTED = {step: {"loss": 0.5 + step, "eval/chat/loss": 0.25} for step in range(1, 5)}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.usefixtures("offline")
def test_wandb_keeps_every_step_once_under_one_id(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed; pip install mindspeed-dpo[wandb]")
    log_steps("wandb", tracked(tmp_path / "files"), tmp_path, 0, 3)
    log_steps("wandb", tracked(tmp_path / "files"), tmp_path, 2, 4)
    first, second = read_runs(tmp_path / "files")
    assert first.id == second.id == json.loads((tmp_path / "trackers" / "wandb.json").read_text())["id"]
    assert (first.project, first.name) == ("p", "trial")
    assert {key: first.config[key] for key in CONFIG} == CONFIG
    assert {**first.steps, **second.steps} == EXPECTED and not first.steps.keys() & second.steps.keys()


@pytest.mark.distributed
@pytest.mark.usefixtures("offline")
def test_a_run_logs_its_metrics_file_to_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed; pip install mindspeed-dpo[wandb]")
    run = random_run(tmp_path, train_iters=2, use_wandb=True, wandb_exp_name="mine", split="60,40,0", eval_interval=1)
    records = train(run)
    (logged,) = read_runs(Path(run.loop.output_dir))
    assert (logged.project, logged.name) == ("mindspeed_dpo", "mine")
    assert logged.config["training"]["train_iters"] == 2
    assert list(logged.steps) == [1, 2]
    for step, record in zip(logged.steps, records, strict=True):
        assert {"step": step, **logged.steps[step]} == pytest.approx(record)
    assert records == read_metrics(Path(run.loop.output_dir) / "metrics.jsonl")


@pytest.mark.usefixtures("offline")
def test_mlflow_keeps_every_step_once_in_one_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed; pip install mindspeed-dpo[mlflow]")
    store = f"file://{tmp_path / 'store'}"
    log_steps("mlflow", tracked(store), tmp_path, 0, 3)
    log_steps("mlflow", tracked(store), tmp_path, 2, 4)
    client: Any = mlflow.MlflowClient(tracking_uri=store)
    (actual,) = client.search_runs([client.get_experiment_by_name("p").experiment_id])
    assert (actual.info.run_name, actual.info.status) == ("trial", "FINISHED")
    assert actual.data.params["training.eval_data_path.chat"] == "a"
    for name in ("loss", "eval/chat/loss"):
        points = [(point.step, point.value) for point in client.get_metric_history(actual.info.run_id, name)]
        assert points == [(step, values[name]) for step, values in EXPECTED.items()]


@pytest.mark.usefixtures("offline")
def test_swanlab_starts_and_resumes_offline(tmp_path: Path) -> None:
    pytest.importorskip("swanlab", reason="swanlab is not installed; pip install mindspeed-dpo[swanlab]")
    log_steps("swanlab", tracked(tmp_path / "files"), tmp_path, 0, 3)
    before = json.loads((tmp_path / "trackers" / "swanlab.json").read_text())
    log_steps("swanlab", tracked(tmp_path / "files"), tmp_path, 2, 4)
    after = json.loads((tmp_path / "trackers" / "swanlab.json").read_text())
    assert before["id"] == after["id"] and (before["step"], after["step"]) == (3, 4)
    written = list((tmp_path / "files").glob(f"run-*-{after['id']}/*.swanlab"))
    assert len(written) == 2 and all(path.stat().st_size for path in written)
