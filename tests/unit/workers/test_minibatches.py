"""How pairs are spread over the optimizer steps of an iteration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.workers.batching.minibatches import minibatches
from mindspeed_dpo.workers.setup.objective_and_schedule import learning_rate_of, steps_per_iteration
from tests.unit.workers.pairs import random_run


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return random_run(tmp_path_factory.mktemp("minibatches"), global_batch_size=8)


def paired(run: RunConfig, **pairing: Any) -> RunConfig:
    return replace(run, actor=replace(run.actor, pairing=replace(run.actor.pairing, **pairing)))


def positions(run: RunConfig, num_pairs: int, iteration: int = 0) -> list[list[int]]:
    return [minibatch.positions.tolist() for minibatch in minibatches(run, iteration, num_pairs)]


def test_offline_all_pairs_are_one_step(offline: RunConfig) -> None:
    assert positions(offline, 8) == [list(range(8))] and steps_per_iteration(offline.actor) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mini=st.sampled_from([1, 2, 4, 8]), epochs=st.integers(1, 3), count=st.integers(1, 30), shuffle=st.booleans())
def test_every_pass_takes_every_pair_once_in_steps_of_even_size(
    offline: RunConfig, mini: int, epochs: int, count: int, shuffle: bool
) -> None:
    run = paired(offline, ppo_mini_batch_size=mini, ppo_epochs=epochs, shuffle_minibatch=shuffle)
    actual = list(minibatches(run, 3, count))
    assert sorted(np.concatenate([minibatch.positions for minibatch in actual]).tolist()) == sorted(
        [*range(count)] * epochs
    )
    sizes = [len(minibatch.positions) for minibatch in actual]
    assert max(sizes) - min(sizes) <= 1
    numbers = [minibatch.number for minibatch in actual]
    assert numbers == sorted(set(numbers)) and numbers[-1] < steps_per_iteration(run.actor) == epochs * 8 // mini


def test_shuffling_depends_on_iteration_and_pass_only(offline: RunConfig) -> None:
    run = paired(offline, ppo_mini_batch_size=8, ppo_epochs=2, shuffle_minibatch=True)
    first, second = positions(run, 8, iteration=1)
    assert first != second and [first, second] == positions(run, 8, iteration=1)
    assert positions(run, 8, iteration=2) != [first, second]


def test_the_learning_rate_counts_every_optimizer_step(offline: RunConfig) -> None:
    run = paired(offline, ppo_mini_batch_size=2, ppo_epochs=3)
    assert learning_rate_of(run.actor, run.loop.train_iters).steps_per_iteration == 12
