"""Runs that train adapters only: the reference is the policy without them, layouts agree, and a stopped run goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convert_ckpt
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.models.lora import adapter_layers
from mindspeed_dpo.weights import open_adapter, open_weights
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from tests.support.adapters import TINY_MODULES, adapter_run, save_tiny_policy
from tests.support.closeness import ADAPTERS, STEADY_ADAPTERS, assert_same_run
from tests.support.peft_adapters import base_model, loaded, save_random_adapter
from tests.support.processes import PoolGroup
from tests.support.runs import Layout, train

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = np.array([3, 0, 4, 2, 1])
OTHERS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "TP2 with sequence parallelism": ((2, 1, 1), {"sequence_parallel": True}),
    "PP2 with full recompute": (
        (1, 2, 1),
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    ),
    "CP2": ((1, 1, 1), {"context_parallel_size": 2}),
    "DP2 with a sharded optimizer": ((1, 1, 2), {"use_distributed_optimizer": True, "overlap_param_gather": True}),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model."""
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def roles(run: RunConfig) -> tuple[PoolGroup, ActorGroup, ReferenceGroup]:
    group = PoolGroup(run, sum(run.pools["actor_rollout"]))
    group.build("actor")
    group.build("ref")
    return group, ActorGroup(group), ReferenceGroup(group)


def only_adapters_learn(colocated: ColocatedRoles) -> tuple[bool, int, int, bool]:
    engine = colocated.roles["actor"].engine
    inside = {p for adapters in adapter_layers(engine.model).values() for p in adapters.parameters()}
    learning = {p for p in engine.model.parameters() if p.requires_grad}
    buffers = sum(int(buffer.numel_unpadded) for chunk in engine.wrapped for buffer in chunk.buffers)
    no_second = not any(hasattr(role, "engine") and role.engine is not engine for role in colocated.roles.values())
    return learning == inside, sum(p.numel() for p in inside), buffers, no_second


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 1, 1)], ids=str)
def test_the_reference_is_the_policy_with_its_adapters_off(layout: Layout, policy: Path, tmp_path: Path) -> None:
    group, actor, reference = roles(adapter_run(tmp_path, policy, layout))
    initial = reference.log_probs(ROWS)
    assert np.array_equal(actor.log_probs(ROWS), initial)
    metrics = actor.update(0, ROWS[:2], initial[:2])
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["grad_norm"] > 0
    actor.update(1, ROWS[2:4], initial[2:4])
    assert not np.allclose(actor.log_probs(ROWS), initial, atol=1e-3)
    assert np.array_equal(reference.log_probs(ROWS), initial)
    for learn, count, held, alone in group.inspect(only_adapters_learn):
        assert learn and held == count and alone


def test_an_adapter_to_start_from_is_taken_and_the_reference_stays_without_it(policy: Path, tmp_path: Path) -> None:
    adapter = save_random_adapter(policy, tmp_path / "peft", TINY_MODULES, r=4, lora_alpha=8, use_rslora=True)
    run = adapter_run(tmp_path, policy, lora_load=adapter, lora_r=4, lora_alpha=8, use_rslora=True)
    _, plain, _ = roles(adapter_run(tmp_path, policy))
    base = plain.log_probs(ROWS)
    _, actor, reference = roles(run)
    assert np.array_equal(reference.log_probs(ROWS), base)
    assert not np.allclose(actor.log_probs(ROWS), base, atol=1e-2)


LEARNING = ("loss", "grad_norm", "logps/chosen", "rewards/margins")


def learning(steps: list[dict[str, float]]) -> list[list[float]]:
    return [[step[name] for name in LEARNING] for step in steps]


SHORT: dict[str, Any] = {"global_batch_size": 2, "train_iters": 3, **STEADY_ADAPTERS}


@pytest.fixture(scope="module")
def alone(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What one process measures, step by step."""
    return train(adapter_run(tmp_path_factory.mktemp("alone") / "out", policy, **SHORT))


@pytest.mark.parametrize("other", OTHERS)
def test_every_layout_learns_the_same(other: str, policy: Path, alone: list[dict[str, float]], tmp_path: Path) -> None:
    layout, settings = OTHERS[other]
    actual = train(adapter_run(tmp_path, policy, layout, **SHORT, **settings))
    assert_same_run(actual, alone, ADAPTERS, LEARNING)


def test_the_live_reference_gives_the_numbers_of_the_cached_one(policy: Path, tmp_path: Path) -> None:
    cached = train(adapter_run(tmp_path / "cached", policy))
    live = train(adapter_run(tmp_path / "live", policy, reference="live"))
    assert learning(live) == learning(cached)


def test_excess_tokens_weigh_alike_in_policy_and_reference(policy: Path, tmp_path: Path) -> None:
    first = train(adapter_run(tmp_path, policy, reference="live", ld_alpha=0.3, train_iters=1))[0]
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0.0


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 1, 1), (1, 1, 2)], ids=str)
def test_a_run_that_stops_and_goes_on_ends_with_the_same_bits(layout: Layout, policy: Path, tmp_path: Path) -> None:
    keys = {"lora_dropout": 0.3, "bf16": True, "sequence_parallel": layout[0] > 1, "save_interval": 2}
    keys["use_distributed_optimizer"] = layout[2] > 1
    straight = train(adapter_run(tmp_path / "straight", policy, layout, **keys))
    train(adapter_run(tmp_path / "stopped", policy, layout, **keys, train_iters=2, lr_decay_iters=4))
    out = tmp_path / "stopped" / "out"
    resumed = train(adapter_run(tmp_path / "stopped", policy, layout, **keys, resume_from=out))
    assert learning(resumed) == learning(straight)
    ends = [open_adapter(tmp_path / name / "out" / "checkpoints").tensors for name in ("straight", "stopped")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert any(tensor.any() for name, tensor in ends[0].items() if "lora_B" in name)


def test_a_checkpoint_goes_on_under_another_layout(policy: Path, tmp_path: Path) -> None:
    keys = {"global_batch_size": 2, **STEADY_ADAPTERS}
    straight = train(adapter_run(tmp_path / "straight", policy, **keys))
    train(adapter_run(tmp_path / "moved", policy, (2, 1, 1), **keys, train_iters=2, lr_decay_iters=4))
    moved = train(adapter_run(tmp_path / "moved", policy, (1, 2, 1), **keys, resume_from=tmp_path / "moved" / "out"))
    assert_same_run(moved, straight, ADAPTERS, LEARNING)


def test_dropout_changes_learning_and_not_scoring_and_recomputation_repeats_it(policy: Path, tmp_path: Path) -> None:
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    settings = {"plain": {}, "dropped": {"lora_dropout": 0.5}, "again": {"lora_dropout": 0.5, **recompute}}
    runs = {
        name: train(adapter_run(tmp_path / name, policy, **STEADY_ADAPTERS, **keys)) for name, keys in settings.items()
    }
    assert learning(runs["dropped"])[1:] != learning(runs["plain"])[1:]
    # What is computed again meets the same numbers in other places of memory, and may meet another kernel there.
    assert_same_run(runs["again"], runs["dropped"], ADAPTERS, LEARNING)
    adapter = save_random_adapter(policy, tmp_path / "peft", TINY_MODULES, r=4, lora_alpha=8)
    keys = {"lora_load": adapter, "lora_r": 4, "lora_alpha": 8}
    scores = []
    for dropout in (0.0, 0.5):
        _, actor, _ = roles(adapter_run(tmp_path, policy, **keys, lora_dropout=dropout))
        scores.append(actor.log_probs(ROWS))
    assert np.array_equal(*scores)


def test_what_was_trained_is_the_same_for_peft_and_merged(policy: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, policy, (2, 1, 1), sequence_parallel=True, lr=0.05)
    train(run)
    saved = tmp_path / "out" / "checkpoints"
    assert convert_ckpt.main(["--save-model-type", "hf", f"--load-dir={saved}", f"--save-dir={tmp_path / 'hf'}"]) == 0
    only = ["--save-model-type=hf", "--save-lora-to-hf", f"--load-dir={saved}", f"--save-dir={tmp_path / 'peft'}"]
    assert convert_ckpt.main(only) == 0
    tokens = torch.tensor([[5, 1, 0, 64, 200, 31]])
    with torch.no_grad():
        base = base_model(policy)(tokens).logits
        merged = base_model(tmp_path / "hf")(tokens).logits
        beside = loaded(policy, saved / "iter_0000004" / "adapter")(tokens).logits
        exported = loaded(policy, tmp_path / "peft")(tokens).logits
    assert (merged - base).abs().max() > 1e-2
    torch.testing.assert_close(merged, beside, rtol=0, atol=1e-5)
    assert torch.equal(beside, exported)
    again = open_adapter(tmp_path / "peft")
    assert again.settings.is_compatible_with(run.actor.adapters)
    source = open_weights(saved)
    (tensor,) = [t for name, t in source.hf_tensors(source.model_config()) if name.endswith("1.mlp.up_proj.weight")]
    assert torch.equal(tensor, base_model(tmp_path / "hf").model.layers[1].mlp.up_proj.weight)
