"""With fixed responses, online training is offline training on the same pairs: loss, gradient, weights.

To the bit where a prompt has the responses of its pair alone. With a third response the reference scores three in a
row, other rows meet in a matrix product, and its log-probabilities agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.pair_selection import PairingConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.sample_table import SampleTable
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.scorer import Scored
from tests.support.closeness import FULL, STEADY, assert_same_run, assert_same_update
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import PAIRS, random_run, write_pairs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

STEPS, BATCH = 3, 4
TRAIN_ROWS = np.arange(len(PAIRS))
LAYOUTS: list[Layout] = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2)]
COMPARED = ("loss", "grad_norm", "learning_rate", "rewards/margins", "logps/chosen", "logps/rejected")
MIDDLE = [40, 41]
"""A third response to every prompt, which is neither best nor worst."""


@dataclass
class Recorder:
    """A tracker that keeps the metrics."""

    logged: list[dict[str, float]]

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.logged.append(dict(metrics))

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class Trained:
    """What a run logged, and the weights of each process before and after it."""

    metrics: list[dict[str, float]]
    before: list[torch.Tensor]
    weights: list[torch.Tensor]


@dataclass
class FixedResponses:
    """Rollout and reward: the two responses of each pair, alone or with a third in an order that changes by row."""

    responses: int

    def order(self, row: int) -> list[int]:
        return [0, 1] if self.responses == 2 else np.random.default_rng(row).permutation(3).tolist()

    def start_generate(self, rows: np.ndarray, first_sample: int) -> Callable[[], RolloutBatch]:
        prompts, sampled = [], []
        for row in rows.tolist():
            prompt, chosen, rejected = PAIRS[row]
            prompts.append(prompt)
            sampled.append([[chosen, rejected, MIDDLE][k] for k in self.order(row)])
        ended = torch.ones((len(rows), self.responses), dtype=torch.bool)
        return lambda: RolloutBatch(PreferenceBatch.from_lists(prompts, sampled), torch.as_tensor(rows), ended)

    def start_score(self, rollouts: RolloutBatch) -> Callable[[], Scored]:
        scores = [[[1.0, -1.0, 0.0][k] for k in self.order(row)] for row in rollouts.rows.tolist()]
        return lambda: Scored(np.array(scores, np.float32))

    def update_weights(self, version: int) -> None:
        """Nothing generates with them."""


def parameters(colocated: ColocatedRoles) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in colocated.roles["actor"].engine.model.parameters()])


def train(run: RunConfig, responses: int, folder: Path) -> Trained:
    """Train online on so many fixed responses to each prompt, or offline for 0."""
    group = PoolGroup(run, run.num_processes("actor"))
    group.build("actor")
    group.build("ref")
    before = group.inspect(parameters)
    recorder, sampled = Recorder([]), FixedResponses(responses)
    common = {
        "actor": ActorGroup(group),
        "reference": ReferenceGroup(group),
        "sampler": PairSampler(len(PAIRS), BATCH, seed=3),
        "train_rows": TRAIN_ROWS,
        "schedule": LoopSchedule(0, STEPS),
        "tracker": recorder,
    }
    if responses:
        samples = SampleTable(folder / "samples.jsonl", str, None)
        trainer = OnlineDPOTrainer(
            rollout=sampled,
            reward=sampled,
            pairing=PairingConfig(ppo_mini_batch_size=BATCH),
            samples=samples,
            is_reward_aware=run.actor.loss.is_reward_aware,
            **common,  # type: ignore[arg-type]
        )
    else:
        trainer = OfflineDPOTrainer(  # type: ignore[assignment]
            eval_sets={},
            row_tokens=np.ones(len(PAIRS), np.int64),
            **common,  # type: ignore[arg-type]
        )
    trainer.fit()
    weights = group.inspect(parameters)
    group.leave()
    return Trained(recorder.logged, before, weights)


def assert_same_bits(ours: Trained, theirs: Trained) -> None:
    for one, other in zip(ours.metrics, theirs.metrics, strict=True):
        for name in COMPARED:
            assert one[name] == other[name], name
    for weights, others in zip(ours.weights, theirs.weights, strict=True):
        assert torch.equal(weights, others)


def assert_close(ours: Trained, theirs: Trained) -> None:
    assert_same_run(ours.metrics, theirs.metrics, FULL, COMPARED)
    assert_same_update(theirs.before, ours.weights, theirs.weights, FULL)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_loss_gradient_and_weights_are_those_of_offline_training(layout: Layout, tmp_path: Path) -> None:
    settings = {"sequence_parallel": layout[0] > 1, "train_iters": STEPS, "micro_batch_size": 1}
    run = random_run(tmp_path, layout, global_batch_size=BATCH, **settings, **STEADY)
    offline, pairs, online = (train(run, responses, tmp_path / str(responses)) for responses in (0, 2, 3))
    assert_same_bits(pairs, offline)
    assert_close(online, offline)
    losses = [step["loss"] for step in online.metrics]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6) and abs(losses[-1] - losses[0]) > 1e-3


@pytest.mark.parametrize("layout", [(1, 2, 1), (1, 1, 2)], ids=str)
def test_scores_of_the_reward_enter_the_loss_as_margins_of_the_data_do(layout: Layout, tmp_path: Path) -> None:
    # Chosen and rejected responses have the scores 1 and -1.
    write_pairs(tmp_path / "pairs", margins=[2.0] * len(PAIRS))
    settings = {"train_iters": STEPS, "micro_batch_size": 1, "dpo_loss_type": "rpo_bwd_kl", "margin_scale": 0.75}
    run = random_run(tmp_path, layout, margin_column="margin", global_batch_size=BATCH, **settings, **STEADY)
    offline, pairs = (train(run, responses, tmp_path / str(responses)) for responses in (0, 2))
    assert_same_bits(pairs, offline)
    certainty = 1 / (1 + np.exp(-1.5))
    divergence = np.log(2) + certainty * np.log(certainty) + (1 - certainty) * np.log(1 - certainty)
    assert offline.metrics[0]["loss"] == pytest.approx(divergence, rel=1e-5)
    assert offline.metrics[-1]["loss"] < divergence - 1e-3


@pytest.mark.parametrize("layout", [(1, 1, 1), (1, 1, 2)], ids=str)
def test_online_training_with_split_rows_is_offline_training_on_one_process(layout: Layout, tmp_path: Path) -> None:
    settings = {"global_batch_size": BATCH, "train_iters": STEPS, "micro_batch_size": 1, **STEADY}
    online = train(random_run(tmp_path, layout, context_parallel_size=2, **settings), 3, tmp_path / "online")
    offline = train(random_run(tmp_path, **settings), 0, tmp_path / "offline")
    # Processes of another layout hold the same weights: each has all of them.
    offline = Trained(offline.metrics, offline.before * len(online.weights), offline.weights * len(online.weights))
    assert_close(online, offline)
