"""Handles: a role behind a group answers as the role itself would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.controller.handles import ActorHandle, ReferenceHandle


class RecordingGroup:
    """Processes that give prepared answers and remember what they were asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def call(self, role: str, verb: str, *args: Any) -> list[Any]:
        self.asked.append((role, verb, *(a.tolist() if isinstance(a, np.ndarray) else a for a in args)))
        return self.answers

    def build(self, role: str) -> None:
        raise AssertionError("a handle builds nothing")

    drop = build


def logps(*values: float) -> np.ndarray:
    return np.array([[value, -value] for value in values], np.float32).reshape(-1, 2)


@pytest.mark.parametrize(("handle", "role"), [(ReferenceHandle, "ref"), (ActorHandle, "actor")])
def test_log_probabilities_are_joined_in_rank_order_without_the_silent_processes(
    handle: type[ReferenceHandle], role: str
) -> None:
    group = RecordingGroup(logps(3, 1), None, logps(2), None, logps())
    found = handle(group).log_probs([7, 5, 6])
    assert found.dtype == np.float32 and found.tolist() == [[3, -3], [1, -1], [2, -2]]
    assert group.asked == [(role, "log_probs", [7, 5, 6])]


def test_update_and_evaluate_hand_on_their_arguments_and_the_one_answer() -> None:
    group = RecordingGroup(None, {"loss": 0.5}, None)
    actor = ActorHandle(group)
    assert actor.update(9, [1, 0], logps(1, 2)) == {"loss": 0.5}
    assert actor.evaluate([1, 0], logps(1, 2)) == {"loss": 0.5}
    values = [[1, -1], [2, -2]]
    assert group.asked == [("actor", "update", 9, [1, 0], values), ("actor", "evaluate", [1, 0], values)]


@pytest.mark.parametrize("answers", [[None, None], [{"loss": 1.0}, {"loss": 1.0}]], ids=["none", "two"])
@pytest.mark.parametrize("verb", ["update", "evaluate"])
def test_anything_but_one_set_of_metrics_is_an_error(verb: str, answers: list[Any]) -> None:
    actor = ActorHandle(RecordingGroup(*answers))
    arguments = (0, [1], logps(1)) if verb == "update" else ([1], logps(1))
    with pytest.raises(ValueError):
        getattr(actor, verb)(*arguments)


def test_save_gives_the_folder_and_load_hands_on_the_parts() -> None:
    group = RecordingGroup("out/iter_0000003", "out/iter_0000003")
    actor = ActorHandle(group, role="another")
    assert actor.save(3) == "out/iter_0000003"
    actor.load("out/iter_0000003", True, False)
    assert group.asked == [("another", "save", 3), ("another", "load", "out/iter_0000003", True, False)]
