"""XPO and Nash-MD over pools of processes: samples, loss and gradient against plain torch, alike under every layout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.rollout.paired_generation import other_sample_number
from mindspeed_dpo.trainers.online_methods import method_of
from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from tests.config_effects.comparison import prompts_with_text
from tests.support.processes import PoolGroup
from tests.support.runs import Layout, train
from tests.unit.rollout.rollout_jobs import rollout, rollout_model
from tests.unit.workers.rollouts import PROMPTS, Jobs, online_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

RESPONSES = [[[3], [4, 9, 6]], [[8, 1], [2, 0]], [[200, 19, 0], [1]], [[10, 2], [2, 10, 11, 12]], [[5], [36]]]
SCORES = np.array([[1.0, -0.5], [0.25, 1.0], [2.0, 0.5], [np.nan, 1.0], [0.5, 0.75]], np.float32)
"""The fourth prompt is lost: one of its responses was not scored."""
SELECTED, BETA, ALPHA, SCALE = [0, 1, 2, 4], 0.3, 0.2, 1.5
METHODS: dict[str, dict[str, Any]] = {
    "xpo": {"online_method": "xpo", "xpo_alpha": ALPHA},
    "xpo with ipo": {"online_method": "xpo", "xpo_alpha": ALPHA, "dpo_loss_type": "ipo"},
    "nash_md": {"online_method": "nash_md"},
    "rpo": {"dpo_loss_type": "rpo_fwd_kl", "margin_scale": SCALE},
}
SPLITS: dict[str, tuple[Layout, int | None]] = {
    "complete": ((1, 1, 1), 8),
    "token budgets": ((1, 1, 2), None),
    "micro-batches of 1": ((1, 1, 1), 1),
    "two shards": ((2, 1, 1), 2),
    "two replicas": ((1, 1, 2), 1),
    "two stages": ((1, 2, 1), 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the policy's weights and, beside them, those of another reference."""
    place = tmp_path_factory.mktemp("methods")
    online_run(place, (1, 1, 1), 1)
    torch.manual_seed(1)
    config = AutoModelForCausalLM.from_pretrained(place / "hf").config
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(place / "ref")
    return place


def method_run(folder: Path, layout: Layout = (1, 1, 1), own: int = 0, **settings: Any) -> RunConfig:
    keys = {"ref_model": folder / "ref", "dpo_beta": BETA, "clip_grad": 0.0, "lr_warmup_fraction": None, **settings}
    return online_run(folder, layout, layout[0], own, **keys)


def learn(run: RunConfig, steps: int = 1) -> tuple[list[dict[str, float]], dict[str, Tensor], Tensor]:
    """Metrics of each step on the fixed responses; of rank 0 the last gradient and the weights after it."""
    group = PoolGroup(run, run.num_processes("actor"))
    group.build("actor")
    group.build("ref")
    method = method_of(run.actor.pairing, is_reward_aware=run.actor.loss.is_reward_aware)
    sampled = PreferenceBatch.from_lists(PROMPTS, RESPONSES)
    ref_values = method.start_ref_logps(ReferenceGroup(group), sampled)()
    selection = method.select(sampled, SCORES, seed=(0, 0))
    pairs, ref_logps = method.training_batch(ref_values, selection, SCORES)
    metrics = [ActorGroup(group).update(step, pairs, ref_logps) for step in range(steps)]
    gradient, weights = group.inspect(gradient_and_weights)[0]
    group.leave()
    return metrics, gradient, weights


def gradient_and_weights(colocated: ColocatedRoles) -> tuple[dict[str, Tensor], Tensor]:
    model = colocated.roles["actor"].engine.model
    gradient = {name: parameter.main_grad.clone() for name, parameter in model.named_parameters()}
    return gradient, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def token_logps(model: torch.nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]


def pair_loss(method: str, margin: Tensor, gap: float) -> Tensor:
    """The loss of a pair with a margin of log-ratios and the difference of its scores."""
    if method == "rpo":
        ours, theirs = torch.sigmoid(BETA * margin), 1 / (1 + math.exp(-SCALE * gap))
        return ours * (ours / theirs).log() + (1 - ours) * ((1 - ours) / (1 - theirs)).log()
    return (margin - 1 / (2 * BETA)) ** 2 if "ipo" in method else -logsigmoid(BETA * margin)


def by_hand(folder: Path, method: str) -> tuple[dict[str, float], torch.nn.Module]:
    """Terms of the loss, and the policy with its gradient, in plain torch."""
    policy = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float64)
    reference = AutoModelForCausalLM.from_pretrained(folder / "ref", dtype=torch.float64)
    first, second = [], []
    for p in SELECTED:
        lp = [token_logps(policy, PROMPTS[p], response) for response in RESPONSES[p]]
        with torch.no_grad():
            rp = [token_logps(reference, PROMPTS[p], response) for response in RESPONSES[p]]
        if method == "nash_md":
            better = torch.sigmoid(torch.tensor(float(SCORES[p, 0] - SCORES[p, 1]), dtype=torch.float64))
            first.append(((lp[0] - rp[0]).detach() * lp[0]).sum())
            second.append((better - 0.5) * lp[0].sum())
        else:
            ratios = [(a.sum() - b.sum()) for a, b in zip(lp, rp, strict=True)]
            margin = ratios[0] - ratios[1] if SCORES[p, 0] > SCORES[p, 1] else ratios[1] - ratios[0]
            gap = abs(float(SCORES[p, 0]) - float(SCORES[p, 1]))
            first.append(pair_loss(method, margin, gap))
            second.append(lp[1].sum())
    one, two = torch.stack(first).mean(), torch.stack(second).mean()
    loss = BETA * one - two if method == "nash_md" else one if method == "rpo" else one + ALPHA * two
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in policy.parameters()]).norm()
    names = ("kl", "score") if method == "nash_md" else ("ipo" if "ipo" in method else "sigmoid", "xpo")
    terms = {f"loss/{name}": value.item() for name, value in zip(names, (one, two), strict=True) if method != "rpo"}
    return {"loss": loss.item(), "grad_norm": norm.item(), **terms}, policy


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradient_are_those_of_plain_torch(method: str, folder: Path, tmp_path: Path) -> None:
    expected, policy = by_hand(folder, method)
    (metrics,), gradient, _ = learn(method_run(folder, micro_batch_size=2, **METHODS[method]))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=2e-5, abs=2e-6)
    # A gradient has the shapes of weights, so what arranges weights arranges it.
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(parameter.grad)
    policy.float().save_pretrained(tmp_path / "gradient")
    source = open_weights(tmp_path / "gradient")
    model = source.model_config()
    for name, value in source.local_tensors(model, ParallelLayout().placement(model.num_layers, 0, 0)):
        # What cancels out has the error of its terms: the tensor's own scale.
        near = 2e-6 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(gradient[name][: len(value)], value, rtol=1e-4, atol=near, msg=name)


@pytest.mark.parametrize("method", ["xpo", "nash_md", "rpo"])
def test_no_split_changes_a_step(method: str, folder: Path) -> None:
    expected, _ = by_hand(folder, method)
    for split, (layout, size) in SPLITS.items():
        keys = {"micro_batch_size": size, "micro_batch_tokens": None if size else 16, **METHODS[method]}
        run = method_run(folder, layout, log_token_statistics=True, **keys)
        (metrics,), _, _ = learn(run)
        actual = {name: metrics[name] for name in expected}
        assert actual == pytest.approx(expected, rel=5e-5, abs=5e-6), split


def test_without_its_bonus_xpo_is_online_dpo_on_the_same_pairs(folder: Path) -> None:
    settings = {"micro_batch_size": 2, "lr": 1e-2}
    dpo, _, dpo_weights = learn(method_run(folder, **settings), steps=3)
    xpo, _, xpo_weights = learn(method_run(folder, online_method="xpo", xpo_alpha=0.0, **settings), steps=3)
    with_bonus, _, _ = learn(method_run(folder, online_method="xpo", xpo_alpha=1e-2, **settings), steps=3)
    names = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")
    assert [[step[name] for name in names] for step in xpo] == [[step[name] for name in names] for step in dpo]
    assert torch.equal(xpo_weights, dpo_weights)
    assert with_bonus[2]["loss"] != dpo[2]["loss"]


PLACEMENTS: dict[str, tuple[Layout, int]] = {
    "in place": ((1, 1, 1), 0),
    "two shards": ((2, 1, 1), 0),
    "two replicas": ((1, 1, 2), 0),
    "copy": ((1, 2, 1), 0),
    "own": ((1, 1, 1), 1),
}


@pytest.mark.parametrize("method", ["xpo", "nash_md"])
def test_wherever_the_rollout_runs_the_other_generates_with_the_reference(method: str, folder: Path) -> None:
    # With all of the reference in the mixture both methods meet the same.
    keys = {"online_method": method, **({"nash_md_mixture": 1.0} if method == "nash_md" else {})}
    rows, first = [4, 0, 2], 20
    numbers = [other_sample_number(first + place) for place in range(3)]
    run = method_run(folder, **keys)
    theirs = rollout(
        rollout_model(folder / "ref"), [PROMPTS[row] for row in rows], numbers, max_new_tokens=6, seed=run.loop.seed,
        stop_ids=frozenset({2}), n_samples_per_prompt=1, temperature=run.actor.rollout.temperature,
    )  # fmt: skip
    expected = [row[0].tolist() for row in theirs.samples.responses()]
    policys = set()
    for layout, own in PLACEMENTS.values():
        jobs = Jobs(method_run(folder, layout, own, **keys), folder)
        if own:
            jobs.hand_over(0)
        before = jobs.generate(rows, first).samples.responses()
        assert [row[1].tolist() for row in before] == expected
        policys.add(tuple(tuple(row[0].tolist()) for row in before))
    assert len(policys) == 1


@pytest.mark.parametrize("method", ["xpo", "nash_md"])
def test_a_resumed_run_goes_on_with_the_same_numbers(method: str, folder: Path, tmp_path: Path) -> None:
    keys = {"online_method": method, "reward_functions": ["tests.support.reward_functions.first_token"], "lr": 1e-2}
    keys |= {"ppo_mini_batch_size": 2, "save_interval": 2, "finetune": False, "lr_decay_style": "constant"}
    keys["data_path"] = prompts_with_text()
    complete = train(method_run(folder, output_dir=tmp_path / "complete", **keys))
    resumed = method_run(
        folder, output_dir=tmp_path / "rest", resume_from=tmp_path / "complete" / "checkpoints" / "iter_0000002", **keys
    )
    assert [timeless(step) for step in train(resumed)] == [timeless(step) for step in complete[2:]]
    assert complete[3]["loss"] != complete[2]["loss"]


def timeless(step: dict[str, float]) -> dict[str, float]:
    return {
        name: value for name, value in step.items() if not any(word in name for word in ("timing", "per_s", "memory"))
    }
