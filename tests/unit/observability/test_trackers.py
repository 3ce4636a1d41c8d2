"""Trackers: TensorBoard curves come back, several trackers act as one."""

from __future__ import annotations

import resource
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mindspeed_dpo.observability.chart_groups import GROUPS, OTHER
from mindspeed_dpo.observability.metric_names import METRICS
from mindspeed_dpo.observability.tensorboard import TensorBoard
from mindspeed_dpo.observability.tracker import Trackers, log_text
from mindspeed_dpo.storage.write_errors import WriteError


def curve(folder: Path, name: str, run: str = "train") -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / run)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_curves_carry_the_names_and_steps_of_the_metrics(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.log(1, {"rewards/margins": 0.25, "loss": 0.5})
    board.log(2, {"rewards/margins": 0.75})
    board.close()
    assert curve(tmp_path, "1 Preferences/rewards/margins") == [(1, 0.25), (2, 0.75)]
    assert curve(tmp_path, "1 Preferences/loss") == [(1, 0.5)]


def test_evaluations_are_in_the_charts_of_training_and_groups_are_few(tmp_path: Path) -> None:
    """TensorBoard draws a tag of several runs in one chart, and makes a group of what precedes the first slash."""
    board = TensorBoard(tmp_path)
    board.log(1, {"loss": 0.5, "eval/loss": 0.6, **dict.fromkeys(METRICS, 1.0)})
    board.log(2, {"eval/chat/loss": 0.7, "loss/sft": 0.1})
    board.close()
    tag = "1 Preferences/loss"
    assert curve(tmp_path, tag) == [(1, 1.0)]
    assert curve(tmp_path, tag, "eval") == [(1, pytest.approx(0.6))]
    assert curve(tmp_path, tag, "eval chat") == [(2, pytest.approx(0.7))]
    tags = EventAccumulator(str(tmp_path / "train")).Reload().Tags()["scalars"]
    groups = sorted({one.partition("/")[0] for one in tags})
    assert groups == [f"{number} {title}" for number, title in enumerate([*GROUPS, OTHER], 1)]


def test_texts_and_settings_come_back(tmp_path: Path) -> None:
    settings = {"training.seed": 42, "actor.dpo_loss_type": "[sigmoid]", "training.report": True, "actor.none": None}
    board = TensorBoard(tmp_path, settings=settings)
    log_text(Trackers([board]), 3, "responses", "| prompt |")
    board.close()
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    (text,) = events.Tensors("responses/text_summary")
    assert text.step == 3 and text.tensor_proto.string_val[0] == b"| prompt |"
    content = events.PluginTagToContent("hparams")[SESSION_START_INFO_TAG]
    session = HParamsPluginData.FromString(content).session_start_info
    assert session.hparams["training.seed"].number_value == 42
    assert session.hparams["actor.dpo_loss_type"].string_value == "[sigmoid]"
    assert session.hparams["training.report"].string_value == "true" and "actor.none" not in session.hparams


def test_a_resumed_run_hides_the_points_it_writes_again(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    for step in (1, 2, 3):
        first.log(step, {"loss": 1.0})
    first.close()
    second = TensorBoard(tmp_path, completed_steps=2)
    second.log(3, {"loss": 0.5})
    second.close()
    assert curve(tmp_path, "1 Preferences/loss") == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_full_disk_is_one_error_without_the_traceback_of_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[BaseException | None] = []

    def hook(failure: threading.ExceptHookArgs) -> None:
        seen.append(failure.exc_value)

    monkeypatch.setattr(threading, "excepthook", hook)
    board = TensorBoard(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(WriteError, match=f"{tmp_path} cannot be written: File too large"):
            for step in range(1, 100):
                board.log(step, {"loss": 1.0})
        with suppress(WriteError):
            board.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert seen == [] and threading.excepthook is hook


def test_the_traceback_of_another_thread_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: seen.append(failure.exc_value))
    board, error = TensorBoard(tmp_path), OSError("elsewhere")

    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    board.close()
    assert seen == [error]


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    with pytest.raises(ValueError, match="not in the table"):
        board.log(1, {"lose": 1.0})
    board.close()


def test_several_trackers_act_as_one() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            self.seen.append((step, dict(metrics)))

        def close(self) -> None:
            self.seen.append("closed")

    recorders = [Recorder(), Recorder()]
    trackers = Trackers(recorders)
    trackers.log(1, {"loss": 0.5})
    trackers.close()
    assert all(recorder.seen == [(1, {"loss": 0.5}), "closed"] for recorder in recorders)
