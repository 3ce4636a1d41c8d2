"""One process of the reward: its share, the penalty, what stops a run, and which scorer the settings select."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.pair_selection import PairingConfig
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.workers import reward
from mindspeed_dpo.workers.reward import RewardError, RewardWorker
from mindspeed_dpo.workers.rewards.sandbox import IsolatedFunctions
from mindspeed_dpo.workers.scorer import Scored
from tests.unit.workers.rewards.sample_rollouts import FUNCTIONS, Columns, rollouts, tokenizer_dir

LENGTH, RAISING, LONGER = (f"{FUNCTIONS}.{name}" for name in ("length", "raising", "longer"))
PROMPTS = [
    (f"{word} {number}", ["a" * number, "b" * (7 - number) + "<|end|>"])
    for number, word in enumerate(["one", "bad", "two", "three", "four", "bad", "five"])
]
SINGLE = Topology()
BATCH = rollouts(PROMPTS, rows=[3, 1, 4, 15, 9, 2, 6])


@pytest.fixture(scope="module")
def functions() -> Iterator[IsolatedFunctions]:
    started = IsolatedFunctions([LENGTH, RAISING, LONGER], timeout_s=60)
    yield started
    started.close()


@pytest.fixture
def shared(functions: IsolatedFunctions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this test share one child process."""
    monkeypatch.setattr(reward, "open_functions", lambda settings: functions)


def worker(topology: Topology = SINGLE, rank: int = 0, missing_eos_penalty: float = 0.0, **keys: Any) -> RewardWorker:
    actor = SimpleNamespace(data=SimpleNamespace(tokenizer_name_or_path=str(tokenizer_dir())))
    run = SimpleNamespace(actor=actor, loop=SimpleNamespace(seed=5))
    role = SimpleNamespace(reward=RewardConfig(**keys), pairing=PairingConfig(missing_eos_penalty=missing_eos_penalty))
    context = SimpleNamespace(run=run, place=topology.place(rank), accelerator=None)
    return RewardWorker(context, role, Columns())  # type: ignore[arg-type]


def complete(batch: RolloutBatch = BATCH, **keys: Any) -> Scored:
    scored = worker(**keys).score(batch)
    assert scored is not None
    return scored


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    "keys", [{"reward_functions": (LENGTH, RAISING)}, {"judge": LONGER}], ids=["functions", "judge"]
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 7), topology=st.builds(Topology, st.integers(1, 2), st.integers(1, 2), st.integers(1, 4)))
def test_replicas_together_score_what_one_process_scores(keys: Any, count: int, topology: Topology) -> None:
    batch = BATCH.select(range(count))
    expected = complete(batch, missing_eos_penalty=0.25, **keys)
    shares = [
        worker(topology, rank, missing_eos_penalty=0.25, **keys).score(batch) for rank in range(topology.world_size)
    ]
    spoken = [share for share in shares if share is not None]
    assert [share is not None for share in shares] == [
        topology.place(rank).is_output for rank in range(topology.world_size)
    ]
    joined = Scored.concat(spoken)
    np.testing.assert_array_equal(joined.scores, expected.scores)
    assert joined.failures == expected.failures
    assert list(expected.failures) == ([p for p in (1, 5) if p < count] if "reward_functions" in keys else [])


@pytest.mark.usefixtures("shared")
def test_only_responses_without_an_end_pay_the_penalty() -> None:
    plain, penalised = (complete(reward_functions=(LENGTH,), missing_eos_penalty=p).scores for p in (0, 1.5))
    np.testing.assert_array_equal(plain - penalised, np.where(BATCH.ended, 0, 1.5))
    judged = complete(judge=LONGER, missing_eos_penalty=1.5).scores
    assert judged[0].tolist() == [-1.5, 1] and judged[6].tolist() == [1 - 1.5, 0]


@pytest.mark.usefixtures("shared")
def test_the_penalty_does_not_hide_a_failure() -> None:
    scored = complete(reward_functions=(RAISING,), missing_eos_penalty=1.0)
    assert np.isnan(scored.scores[[1, 5]]).all() and np.isfinite(scored.scores[[0, 2, 3, 4, 6]]).all()
    assert "dataset row 2" in scored.failures[5]


@pytest.mark.usefixtures("shared")
def test_a_failure_stops_the_run_where_that_is_configured() -> None:
    with pytest.raises(RewardError, match=r"^2 of 7 prompts .*raising raised ValueError: .*'bad 1' \(dataset row 1\)"):
        complete(reward_functions=(RAISING,), reward_failure="stop")
    assert complete(reward_functions=(LENGTH,), reward_failure="stop").failures == {}


@pytest.mark.usefixtures("shared")
def test_only_the_answer_is_scored_where_that_is_configured() -> None:
    batch = rollouts([("p", ["so <answer>42</answer>", "unfinished"])])
    assert complete(batch, reward_functions=(LENGTH,), extract_content_for_reward=True).scores.tolist() == [[2, 10]]
    assert complete(batch, reward_functions=(LENGTH,)).scores.tolist() == [[22, 10]]


@pytest.mark.usefixtures("shared")
def test_weights_reach_the_functions() -> None:
    single = complete(reward_functions=(LENGTH,)).scores
    np.testing.assert_array_equal(complete(reward_functions=(LENGTH,), reward_weights=(-2.0,)).scores, -2 * single)


def test_a_worker_starts_its_own_process_and_only_where_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(reward_functions=(LENGTH,)).scores[0].tolist() == [0, 7]
    monkeypatch.setattr(reward, "open_functions", lambda settings: pytest.fail("a second process was started"))
    assert worker(Topology(tp=2), 1, reward_functions=(LENGTH,)).score(BATCH) is None


class HalfBroken:
    """A scorer like a model's, which gives one response no number."""

    def score(self, batch: RolloutBatch) -> Scored:
        scores = np.ones((batch.num_prompts, batch.num_responses), np.float32)
        scores[1, 0] = np.inf
        return Scored(scores)


def test_a_score_that_is_no_number_takes_its_prompt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reward.SCORER_BUILDERS, "model", lambda *_: HalfBroken())
    scored = complete()
    assert np.flatnonzero(np.isnan(scored.scores).all(1)).tolist() == [1]
    assert scored.failures == {1: "the responses to dataset row 1 were scored inf, 1.0"}
