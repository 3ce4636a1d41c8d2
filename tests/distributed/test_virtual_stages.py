"""Virtual stages in complete runs: metrics, training, checkpoints and resuming are those of one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.trainers.run_inputs import open_inputs
from tests.config_effects.comparison import prompts_with_text
from tests.support.adapters import adapter_run, save_tiny_policy
from tests.support.closeness import ADAPTERS, FULL, ROUNDING, STEADY, STEADY_ADAPTERS, Bound, assert_same_run
from tests.support.processes import PoolGroup
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rollouts import online_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

VIRTUAL: dict[str, Any] = {"num_layers_per_virtual_pipeline_stage": 1}
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
OVERLAP = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
BUDGET = {"micro_batch_size": None, "micro_batch_tokens": 16}
NOT_ALIKE = ("micro_batch", "micro_batches", "micro_batch_fill", "tokens_computed")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of four layers."""
    return save_tiny_policy(tmp_path_factory.mktemp("policy"), layers=4)


def run_of(folder: Path, policy: Path, layout: Layout = (1, 1, 1), **settings: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    keys = {
        "random_init": False, "load": policy, "finetune": True, "num_layers": 4, "reference": "live",
        "global_batch_size": 4, "train_iters": 3, "lr_warmup_iters": 0, **STEADY,
    }  # fmt: skip
    return random_run(folder, layout, **{**keys, **settings})


def equal(actual: Sequence[dict[str, float]], expected: Sequence[dict[str, float]], bound: Bound = FULL) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.keys() - {"micro_batch_fill"} == theirs.keys() - {"micro_batch_fill"}
    assert_same_run(actual, expected, bound, but=NOT_ALIKE)


LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "a pair each": ((1, 2, 1), {"micro_batch_size": 1}),
    "all at once": ((1, 2, 1), {"micro_batch_size": 4, "share_prompt": False}),
    "by tokens": ((1, 2, 1), BUDGET),
    "two shards": ((2, 2, 1), {**BUDGET, "sequence_parallel": True}),
    "two replicas": ((1, 2, 2), {**OVERLAP, **RECOMPUTE, "micro_batch_size": 1}),
    "two parts of a row": ((1, 2, 1), {"context_parallel_size": 2, "micro_batch_size": 1}),
}


# A loss that looks ahead, statistics of tokens, and an evaluation of a single pair.
KEYS: dict[str, Any] = {
    "use_weighting": True, "dpo_loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5],
    "log_token_statistics": True, "split": "80,20,0", "eval_interval": 3, "eval_iters": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What one process measures, step by step."""
    return train(run_of(tmp_path_factory.mktemp("alone"), policy, **KEYS))


@pytest.mark.parametrize("name", LAYOUTS)
def test_metrics_are_those_of_one_process(
    name: str, policy: Path, alone: list[dict[str, float]], tmp_path: Path
) -> None:
    layout, settings = LAYOUTS[name]
    actual = train(run_of(tmp_path / "virtual", policy, layout, **VIRTUAL, **{**KEYS, **settings}))
    assert any(key.startswith("eval/") for key in alone[-1])
    equal(actual, alone)


def test_a_run_goes_on_with_and_without_them(policy: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"train_iters": 4, "save_interval": 1}
    straight = train(run_of(tmp_path / "straight", policy, **keys))
    steps = []
    for step, virtual in enumerate([VIRTUAL, {}, VIRTUAL, {}], 1):
        resume = {"resume_from": tmp_path / "virtual" / "out"} if step > 1 else {}
        settings = {**keys, **virtual, **resume, "train_iters": step, "lr_decay_iters": 4}
        steps = train(run_of(tmp_path / "virtual", policy, (1, 2, 1), **settings))
    equal(steps, straight)


def test_adapters_learn_what_they_learn_in_one_process(policy: Path, tmp_path: Path) -> None:
    keys = {**STEADY_ADAPTERS, "global_batch_size": 2, "train_iters": 3, "num_layers": 4}
    alone = train(adapter_run(tmp_path / "alone", policy, **keys))
    actual = train(
        adapter_run(tmp_path / "virtual", policy, (2, 2, 1), **keys, **VIRTUAL, **RECOMPUTE, sequence_parallel=True)
    )
    equal(actual, alone, ADAPTERS)
    keys |= {"train_iters": 4, "resume_from": tmp_path / "virtual" / "out"}
    assert len(train(adapter_run(tmp_path / "virtual", policy, (1, 2, 1), **keys))) == 4


def test_a_reference_follows_the_policy(policy: Path, tmp_path: Path) -> None:
    follows = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    run = run_of(tmp_path, policy, (1, 2, 1), **follows, **VIRTUAL)
    group = PoolGroup(run, 2)
    group.build("actor")
    group.build("ref")
    actor, reference = ActorGroup(group), ReferenceGroup(group, settings=run.actor.reference)
    rows = np.array([3, 0, 4, 2])
    before = reference.log_probs(rows)
    actor.update(0, rows, before)
    assert reference.sync_if_due(1)
    np.testing.assert_allclose(reference.log_probs(rows), actor.log_probs(rows), rtol=ROUNDING)
    assert not np.allclose(reference.log_probs(rows), before)


def test_online_they_generate_and_train_alike(tmp_path: Path) -> None:
    keys = {
        "num_layers": 4, "train_iters": 2, "global_batch_size": 4, "ppo_mini_batch_size": 4, "n_samples_per_prompt": 3,
        "reward_functions": ["tests.support.reward_functions.length"], "data_path": prompts_with_text(), **STEADY,
    }  # fmt: skip
    alone = train(online_run(tmp_path, (1, 1, 1), 1, **keys, output_dir=tmp_path / "alone"))
    actual = train(online_run(tmp_path, (1, 2, 1), 1, **keys, **VIRTUAL, output_dir=tmp_path / "virtual"))
    assert_same_run(actual, alone, FULL, ("loss", "grad_norm", "logps/chosen", "rewards/margins"))


def test_a_random_reference_is_not_initialised_again(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"num_layers": 4, "save_interval": 1, "train_iters": 1}
    train(random_run(tmp_path, (1, 2, 1), **keys, **VIRTUAL))
    keys |= {"train_iters": 2, "resume_from": tmp_path / "out"}
    with pytest.raises(CheckpointError, match="a random reference differs with other pipeline or virtual stages"):
        open_inputs(random_run(tmp_path, (1, 2, 1), **keys))
    assert open_inputs(random_run(tmp_path, (1, 2, 1), **keys, **VIRTUAL))
