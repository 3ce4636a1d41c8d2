"""One step ahead over pools of processes: whose weights generate, against a loop by hand; stopped and resumed runs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup, RewardGroup, RolloutGroup
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import read_rollouts
from mindspeed_dpo.processes.exit_codes import INTERRUPTED
from mindspeed_dpo.trainers.build import train_on
from mindspeed_dpo.trainers.online_methods import method_of
from mindspeed_dpo.trainers.run_inputs import open_inputs
from mindspeed_dpo.trainers.sample_table import SampleTable
from tests.config_effects.comparison import prompts_with_text
from tests.support.processes import PoolGroup
from tests.support.resuming import different_tensors, numbers
from tests.support.runs import train
from tests.unit.workers.rollouts import PROMPTS, online_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

STEPS, BATCH = 4, 4
# Longer responses, as with the others all pairs of a step may be ties.
XPO = {"online_method": "xpo", "xpo_alpha": 0.2, "n_samples_per_prompt": 2, "seq_length": 20}
FOLLOWED = {"sync_ref_model": True, "ref_model_sync_steps": 2}
METRICS = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stale")


def stale_run(folder: Path, output_dir: Path, staleness: int = 1, **settings: Any) -> RunConfig:
    keys = {
        "data_path": prompts_with_text(), "reward_functions": ["tests.support.reward_functions.length"], "lr": 1e-2,
        "global_batch_size": BATCH, "ppo_mini_batch_size": BATCH, "n_samples_per_prompt": 3, "train_iters": STEPS,
        "lr_warmup_fraction": None, "save_interval": None, "rollout_staleness": staleness, "output_dir": output_dir,
        **settings,
    }  # fmt: skip
    return online_run(folder, (1, 1, 1), 1, 1, **keys)


def by_hand(run: RunConfig) -> list[dict[str, float]]:
    """One thing after the other: step n trains on responses that were sampled before step n - 1 trained."""
    groups = {name: PoolGroup(run, sum(sizes), name) for name, sizes in run.pools.items()}
    group_of = {role: groups[run.pool_of(role)] for role in ("actor", "rollout", "ref", "reward")}
    for role, group in group_of.items():
        group.build(role)
    actor, reward = ActorGroup(group_of["actor"]), RewardGroup(group_of["reward"])
    reference = ReferenceGroup(group_of["ref"], settings=run.actor.reference)
    rollout = RolloutGroup(group_of["rollout"], group_of["actor"], num_senders=1)
    rollout.update_weights(0)
    order, method = PairSampler(len(PROMPTS), BATCH, run.loop.seed, True), method_of(run.actor.pairing)
    responses, logged = rollout.generate(order.rows(0), 0), []
    for step in range(STEPS):
        following = rollout.generate(order.rows(step + 1), (step + 1) * BATCH)
        scores = reward.score(responses).scores
        selection = method.select(responses.samples, scores, seed=(run.loop.seed, step))
        ref_values = method.start_ref_logps(reference, responses.samples)()
        pairs, ref_logps = method.training_batch(ref_values, selection, scores)
        metrics = actor.update(step, pairs, ref_logps)
        logged.append({name: metrics[name] for name in METRICS} | {"pairs/staleness": step - responses.version})
        rollout.update_weights(step + 1)
        reference.sync_if_due(step + 1)
        responses = following
    for group in groups.values():
        group.leave()
    return logged


@pytest.mark.parametrize("method", [{}, FOLLOWED, XPO], ids=["dpo", "reference that follows", "xpo"])
def test_responses_come_from_the_weights_of_the_step_before(
    method: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    run = stale_run(folder, tmp_path / "stale", rollout_staleness=1, **method)
    stale, hand = train(run), by_hand(run)
    assert [{name: step[name] for name in hand[0]} for step in stale] == hand
    assert [step["pairs/staleness"] for step in stale] == [0, 1, 1, 1]
    if not method:
        fresh = train(stale_run(folder, tmp_path / "fresh", staleness=0))
        assert [step["pairs/staleness"] for step in fresh] == [0] * STEPS
        same = [one["loss"] == other["loss"] for one, other in zip(stale, fresh, strict=True)]
        assert same == [True] + [False] * (STEPS - 1)


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Request a stop in the middle of a step."""
    write: Callable[..., None] = SampleTable.write

    def interrupted(self: SampleTable, step: int, *args: Any) -> None:
        write(self, step, *args)
        if step == at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SampleTable, "write", interrupted)


def test_a_run_that_was_stopped_and_goes_on_equals_one_left_alone_bit_by_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    train(stale_run(folder, alone))
    with monkeypatch.context() as patched:
        stopping(patched, at=2)
        run = stale_run(folder, stopped)
        groups = {name: PoolGroup(run, sum(sizes), name) for name, sizes in run.pools.items()}
        assert train_on(open_inputs(run), groups) == INTERRUPTED
        for group in groups.values():
            group.leave()
    saved = read_rollouts(stopped / "checkpoints" / "iter_0000002")
    assert saved is not None and saved.version == 1
    train(stale_run(folder, stopped, resume_from=stopped))
    assert numbers(stopped) == numbers(alone)
    assert different_tensors(alone, stopped) == []
    assert read_rollouts(stopped / "checkpoints" / f"iter_{STEPS:07d}") is None


def test_responses_of_other_settings_are_not_trained_on(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(stale_run(folder, tmp_path, save_interval=2))
    beside = {"resume_from": tmp_path / "checkpoints" / "iter_0000002", "n_samples_per_prompt": 4}
    again = train(stale_run(folder, tmp_path, **beside))
    assert (
        "step 3: discarding prefetched rollouts and generating again: n_samples_per_prompt was 3 and is 4"
        in caplog.text
    )
    assert [step["pairs/staleness"] for step in again] == [0, 1, 0, 1]
