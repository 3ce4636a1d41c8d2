"""The recordings and what is stored of them in float64 are what a plain replay computes, without TRL and our code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recordings.cases import CASES, WITH_FINAL_WEIGHTS
from tests.recordings.distances import bound, distance, misses
from tests.recordings.files import DATA, final_weights, in_float64, recording
from tests.recordings.replay import complaints
from tests.recordings.reward_model import cases as reward_cases
from tests.recordings.reward_model import replay as reward_replay


@pytest.mark.parametrize("case", ["wpo", "f_alpha"])
def test_a_replay_gives_what_is_stored(case: str) -> None:
    # All cases: python -m tests.recordings.replay
    assert complaints(case) == []


def test_every_case_has_its_files_and_they_are_small() -> None:
    assert {path.stem for path in (DATA / "cases").glob("*.json")} == set(CASES)
    assert {path.stem for path in (DATA / "float64").glob("*.json")} == set(CASES)
    assert all((final_weights(case) is not None) == (case in WITH_FINAL_WEIGHTS) for case in CASES)
    assert size(DATA) - size(reward_cases.FOLDER) < 5e6


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_replay_of_a_reward_model_gives_what_is_stored() -> None:
    # All cases: python -m tests.recordings.reward_model.replay
    assert reward_replay.complaints("llama_margin_centred") == []


def test_every_case_of_a_reward_model_has_its_files_and_they_are_small() -> None:
    folder = reward_cases.FOLDER
    for kind in ("cases", "float64"):
        assert {path.stem for path in (folder / kind).glob("*.json")} == set(reward_cases.CASES)
    stored = [case for case in reward_cases.CASES if final_weights(case, folder) is not None]
    assert stored == list(reward_cases.WITH_FINAL_WEIGHTS)
    assert size(folder) < 3e5


@pytest.mark.parametrize("case", CASES)
def test_the_distance_of_a_recording_is_that_of_its_figures(case: str) -> None:
    own = in_float64(case)["distance"]
    logged, exact = recording(case)["steps"], in_float64(case)["steps"]
    for name in ("loss", "grad_norm", "logps/chosen"):
        apart = [distance(one[name], other[name]) for one, other in zip(logged, exact, strict=True)]
        assert own["first"][name] == apart[0] and own["run"][name] == max(apart)


def test_a_figure_may_be_twice_as_far_as_the_recording_is_or_at_the_floor() -> None:
    assert bound("first", 1e-6) == 5e-6
    assert bound("run", 1e-6) == 2e-5
    assert bound("run", 4e-5) == 8e-5
    own = {"run": {"loss": 4e-5}}
    assert misses({"run": {"loss": 7.9e-5}}, own) == []
    assert len(misses({"run": {"loss": 8.1e-5}}, own)) == 1
    assert len(misses({"run": {"loss": distance(float("nan"), 1.0)}}, own)) == 1
