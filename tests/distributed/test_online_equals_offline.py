"""With its answers held fixed, online training is offline training on the same pairs: loss, gradient, weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.online import PairingConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.sample_table import SampleTable
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.rewards.scorer import Scored
from mindspeed_dpo.workers.setup.sources import open_pairs
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import PAIRS, random_run

pytestmark = pytest.mark.distributed

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
class FixedAnswers:
    """Rollout and reward: the two responses of each pair and a third, in an order that changes with the row."""

    dataset: object

    def order(self, row: int) -> list[int]:
        return np.random.default_rng(row).permutation(3).tolist()

    def start_generate(self, rows: np.ndarray, first_sample: int) -> Callable[[], RolloutBatch]:
        prompts, answers = [], []
        for row in rows.tolist():
            prompt, chosen, rejected = PAIRS[row]
            prompts.append(prompt)
            answers.append([[chosen, rejected, MIDDLE][k] for k in self.order(row)])
        ended = torch.ones((len(rows), 3), dtype=torch.bool)
        return lambda: RolloutBatch(PreferenceBatch.from_lists(prompts, answers), torch.as_tensor(rows), ended)

    def start_score(self, rollouts: RolloutBatch) -> Callable[[], Scored]:
        scores = [[[1.0, -1.0, 0.0][k] for k in self.order(row)] for row in rollouts.rows.tolist()]
        return lambda: Scored(np.array(scores, np.float32))

    def update_weights(self, version: int) -> None:
        """Nothing answers with them."""


def parameters(colocated: ColocatedRoles) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in colocated.roles["actor"].engine.model.parameters()])


def train(run: RunConfig, online: bool, folder: Path) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    group = PoolGroup(run, run.num_processes("actor"))
    group.build("actor")
    group.build("ref")
    recorder, answers = Recorder([]), FixedAnswers(open_pairs(run))
    common = {
        "actor": ActorGroup(group),
        "reference": ReferenceGroup(group),
        "sampler": PairSampler(len(PAIRS), BATCH, seed=3),
        "train_rows": TRAIN_ROWS,
        "schedule": LoopSchedule(0, STEPS),
        "tracker": recorder,
    }
    if online:
        samples = SampleTable(folder / "samples.jsonl", str, None)
        trainer = OnlineDPOTrainer(
            rollout=answers, reward=answers, pairing=PairingConfig(ppo_mini_batch_size=BATCH), samples=samples, **common
        )  # type: ignore[arg-type]
    else:
        trainer = OfflineDPOTrainer(  # type: ignore[assignment]
            eval_sets={},
            row_tokens=np.ones(len(PAIRS), np.int64),
            **common,  # type: ignore[arg-type]
        )
    trainer.fit()
    weights = group.inspect(parameters)
    group.leave()
    return recorder.logged, weights


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_loss_gradient_and_weights_are_those_of_offline_training(layout: Layout, tmp_path: Path) -> None:
    settings = {"sequence_parallel": layout[0] > 1, "train_iters": STEPS, "micro_batch_size": 1}
    run = random_run(tmp_path, layout, global_batch_size=BATCH, lr=1e-2, **settings)
    online, online_weights = train(run, True, tmp_path / "online")
    offline, offline_weights = train(run, False, tmp_path / "offline")
    for ours, theirs in zip(online, offline, strict=True):
        for name in COMPARED:
            assert ours[name] == theirs[name], name
    assert online[0]["loss"] == pytest.approx(np.log(2), abs=1e-6) and online[-1]["loss"] != online[0]["loss"]
    for ours, theirs in zip(online_weights, offline_weights, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layout", [(1, 1, 1), (1, 1, 2)], ids=str)
def test_online_training_with_split_rows_is_offline_training_on_one_process(layout: Layout, tmp_path: Path) -> None:
    # Online the reference reads three answers to a prompt in a row, so that other rows meet in a matrix product: to
    # rounding, not to the bit.
    settings = {"global_batch_size": BATCH, "lr": 1e-2, "train_iters": STEPS, "micro_batch_size": 1}
    online, _ = train(random_run(tmp_path, layout, context_parallel_size=2, **settings), True, tmp_path / "online")
    offline, _ = train(random_run(tmp_path, **settings), False, tmp_path / "offline")
    for ours, theirs in zip(online, offline, strict=True):
        for name in COMPARED:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name
