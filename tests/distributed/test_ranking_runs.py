"""Reward models from rankings of two to four responses: every layout, evaluation, resuming, and two as a pair."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import convert_ckpt
from mindspeed_dpo.weights import open_weights
from tests.distributed.test_expert_runs import NOT_ALIKE, run_of
from tests.support.adapters import save_tiny_policy
from tests.support.closeness import FULL, STEADY, assert_same_run, assert_same_update
from tests.support.metrics import read_metrics
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import PAIRS, RANKINGS, random_run, write_pairs, write_rankings

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

PACKED = {"micro_batch_size": None, "micro_batch_tokens": 24}
LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "TP2": ((2, 1, 1), {"sequence_parallel": True}),
    "DP2, packed": ((1, 1, 2), PACKED),
    "PP2, several in a micro-batch": ((1, 2, 1), {"micro_batch_size": 2}),
    "CP2": ((1, 1, 1), {"context_parallel_size": 2}),
    "prompts repeated": ((1, 1, 1), {"share_prompt": False, "micro_batch_size": 2}),
}
EVALUATION = {"split": "60,40,0", "eval_interval": 2}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def learn(folder: Path, policy: Path, layout: Layout = (1, 1, 1), **settings: Any) -> list[dict[str, float]]:
    folder.mkdir(exist_ok=True)
    write_rankings(folder / "lists")
    keys = {"stage": "rm", "random_init": False, "load": policy, "finetune": True, "global_batch_size": 4}
    keys |= {"data_path": folder / "lists", "no_save_optim": True, "center_rewards_coefficient": 0.1}
    return train(random_run(folder, layout, **{**keys, **STEADY, **settings}))


def weights(folder: Path) -> dict[str, Tensor]:
    source = open_weights(folder / "out" / "checkpoints")
    return dict(source.hf_tensors(source.model_config()))


def test_no_layout_changes_a_run(policy: Path, tmp_path: Path) -> None:
    alone = learn(tmp_path / "alone", policy, train_iters=3, **EVALUATION)
    before = dict(open_weights(policy).hf_tensors(open_weights(policy).model_config()))
    expected = weights(tmp_path / "alone")
    names = sorted(before.keys() & expected.keys())
    for number, (layout, settings) in enumerate(LAYOUTS.values()):
        folder = tmp_path / str(number)
        actual = learn(folder, policy, layout, train_iters=3, **EVALUATION, **settings)
        assert_same_run(actual, alone, FULL, but=NOT_ALIKE)
        ours = weights(folder)
        assert_same_update(*([tensors[name] for name in names] for tensors in (before, ours, expected)), FULL)


def test_an_evaluation_is_what_transformers_makes_of_the_trained_model(policy: Path, tmp_path: Path) -> None:
    settings = {"data_path": tmp_path / "lists", "eval_data_path": tmp_path / "lists", "eval_interval": 2}
    (*_, last) = learn(tmp_path, policy, train_iters=2, lr=1e-2, **settings)
    to_hf = ["--save-model-type=hf", "--orm", f"--load-dir={tmp_path / 'out' / 'checkpoints'}"]
    assert convert_ckpt.main([*to_hf, f"--save-dir={tmp_path / 'hf'}"]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf", dtype=torch.float64)
    losses, centers, right, brier, calibration = [], [], [], [], dict[int, float]()
    for prompt, *responses in RANKINGS:
        with torch.no_grad():
            scores = [model(torch.tensor([prompt + ids])).logits.item() for ids in responses]
        # The likelihood of the order by brute force, over all orders of these responses.
        weight = {order: likelihood(scores, order) for order in itertools.permutations(range(len(scores)))}
        assert sum(weight.values()) == pytest.approx(1)
        losses.append(-math.log(weight[tuple(range(len(scores)))]))
        centers.append((2 * sum(scores) / len(scores)) ** 2)
        gaps = [one - other for one, other in itertools.combinations(scores, 2)]
        right.append(sum(gap > 0 for gap in gaps) / len(gaps))
        brier.append(sum((1 / (1 + math.exp(gap))) ** 2 for gap in gaps) / len(gaps))
        for gap in gaps:
            sure = 1 / (1 + math.exp(-abs(gap)))
            place = min(int((sure - 0.5) * 20), 9)
            calibration[place] = calibration.get(place, 0.0) + ((gap > 0) - sure) / len(gaps) / len(RANKINGS)
    count = len(RANKINGS)
    assert last["eval/loss/ranking"] == pytest.approx(sum(losses) / count, rel=1e-5)
    assert last["eval/loss/center"] == pytest.approx(sum(centers) / count, rel=1e-4, abs=1e-7)
    assert last["eval/rewards/accuracies"] == pytest.approx(sum(right) / count)
    assert last["eval/rewards/brier"] == pytest.approx(sum(brier) / count, rel=1e-5)
    assert last["eval/rewards/ece"] == pytest.approx(sum(map(abs, calibration.values())), rel=1e-4)


def likelihood(scores: list[float], order: tuple[int, ...]) -> float:
    """Of choosing the best of what is left again and again, in an order."""
    rests = [sum(math.exp(scores[k]) for k in order[place:]) for place in range(len(order))]
    return math.prod(math.exp(scores[k]) / rest for k, rest in zip(order, rests, strict=True))


def test_rankings_of_two_are_pairs(policy: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs")
    write_rankings(tmp_path / "two", [[prompt, chosen, rejected] for prompt, chosen, rejected in PAIRS])
    pairs, two = (
        learn(tmp_path, policy, data_path=tmp_path / name, output_dir=tmp_path / f"out_{name}", **EVALUATION)
        for name in ("pairs", "two")
    )
    timeless = [
        [{name: value for name, value in step.items() if not name.startswith(("timing", "memory"))} for step in steps]
        for steps in (pairs, two)
    ]
    for one, other in zip(*timeless, strict=True):
        assert {k: v for k, v in one.items() if "per_s" not in k} == {
            k: v for k, v in other.items() if "per_s" not in k
        }


def test_a_resumed_run_ends_with_the_same_bits(policy: Path, tmp_path: Path) -> None:
    keys = {"save_interval": 2, "no_save_optim": False, "lr_decay_iters": 4, **PACKED}
    learn(tmp_path / "one", policy, (1, 1, 2), train_iters=4, **keys)
    learn(tmp_path / "two", policy, (1, 1, 2), train_iters=2, **keys)
    learn(tmp_path / "two", policy, (1, 1, 2), train_iters=4, resume_from=tmp_path / "two" / "out", **keys)
    one, two = (read_metrics(tmp_path / name / "out" / "metrics.jsonl")[-1] for name in ("one", "two"))
    assert (
        one["loss"] == two["loss"] and one["grad_norm"] == two["grad_norm"] and one["num_tokens"] == two["num_tokens"]
    )
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_experts_balance_over_the_responses_that_there_are(tmp_path: Path) -> None:
    keys = {"stage": "rm", "reference": "cached", "micro_batch_tokens": 24, "router_aux_loss_coef": 0.1}
    write_rankings(tmp_path / "lists")
    keys["data_path"] = tmp_path / "lists"
    alone = train(run_of(tmp_path / "alone", **keys))
    shared = train(run_of(tmp_path / "shared", (1, 1, 2), expert_model_parallel_size=2, **keys))
    assert all(math.isfinite(step["moe/aux_loss"]) and math.isfinite(step["grad_norm"]) for step in alone)
    assert_same_run(shared, alone, FULL, but=NOT_ALIKE)
