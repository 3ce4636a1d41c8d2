"""Runs of a model with experts: metrics, learning, saving and resuming are independent of who holds the experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.weights.format_detection import open_weights
from tests.config_effects.comparison import prompts_with_text
from tests.support.closeness import FULL, STEADY, assert_same_run
from tests.support.jobs import read_tensors
from tests.support.runs import Layout, train
from tests.support.tokenizers import save_tokenizer
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rollouts import EXPERTS as ONLINE_EXPERTS
from tests.unit.workers.rollouts import online_run, write_inputs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

# A dense layer, and one with experts. Three pairs a step: replicas have two micro-batches and one.
EXPERTS: dict[str, Any] = {
    "qk_layernorm": True, "num_layers": 2, "first_k_dense_replace": 1, "num_experts": 4, "moe_router_topk": 2,
    "moe_ffn_hidden_size": 24, "norm_topk_prob": True, "moe_aux_loss_coeff": 0.1, "moe_z_loss_coeff": 0.01,
}  # fmt: skip
BUDGET: dict[str, Any] = {"micro_batch_size": None, "micro_batch_tokens": 8, "global_batch_size": 3}
FOLLOWING_BIAS = {"moe_router_enable_expert_bias": True, "moe_router_bias_update_rate": 0.01}
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
NOT_ALIKE = ("micro_batches", "micro_batch_fill", "tokens_computed")
TP2 = {"sequence_parallel": True}
LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "experts shared by replicas": ((1, 1, 2), {"expert_model_parallel_size": 2}),
    "experts shared by tensor ranks": ((2, 1, 1), {"moe_tp_extend_ep": True, **TP2}),
    "copies of the experts": ((2, 1, 2), {"use_distributed_optimizer": True, "expert_model_parallel_size": 2, **TP2}),
    "a stage without experts": ((1, 2, 2), {"expert_model_parallel_size": 2}),
    "prompts repeated": ((1, 1, 2), {"expert_model_parallel_size": 2, "share_prompt": False, "micro_batch_tokens": 20}),
    "all that saves memory": (
        (2, 1, 2),
        {
            "expert_model_parallel_size": 4,
            "reference": "cached",
            "optimizer_offload": True,
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
            "use_distributed_optimizer": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
            **TP2,
        },
    ),
}


MEASURED = ("aux_loss", "z_loss", "load_max_over_mean", "idle_experts", "router_entropy")
EVALUATION = {"split": "60,40,0", "eval_interval": 3, "eval_iters": 1}


def run_of(folder: Path, layout: Layout = (1, 1, 1), **settings: Any) -> RunConfig:
    keys = {**EXPERTS, **BUDGET, "train_iters": 3, "lr_warmup_iters": 0, **STEADY, "reference": "live", **settings}
    folder.mkdir(exist_ok=True)
    return random_run(folder, layout, **keys)


@pytest.mark.parametrize("name", LAYOUTS)
def test_metrics_are_those_of_one_replica(name: str, tmp_path: Path) -> None:
    layout, settings = LAYOUTS[name]
    # Random weights differ with the number of stages.
    alone = train(run_of(tmp_path / "alone", (1, layout[1], 1), **EVALUATION))
    assert {f"moe/{name}" for name in MEASURED} | {"eval/loss"} <= alone[-1].keys()
    actual = train(run_of(tmp_path / "actual", layout, **EVALUATION, **settings))
    assert_same_run(actual, alone, FULL, but=NOT_ALIKE)


def test_a_run_goes_on_with_other_ranks_of_experts(tmp_path: Path) -> None:
    """Saved in the background, with a bias that follows the load of every step."""
    keys = {"save_interval": 1, "moe_router_score_function": "sigmoid", "n_shared_experts": 1, **FOLLOWING_BIAS}
    straight = train(run_of(tmp_path / "straight", **keys))
    layout, settings = LAYOUTS["experts shared by replicas"]
    first = {"train_iters": 1, "lr_decay_iters": 3, "async_save": True}
    train(run_of(tmp_path / "actual", layout, **settings, **first, **keys))
    layout, settings = LAYOUTS["copies of the experts"]
    resume = {"resume_from": tmp_path / "actual" / "out", "no_load_rng": True}
    actual = train(run_of(tmp_path / "actual", layout, **settings, **resume, **keys))
    assert_same_run(actual, straight, FULL, but=NOT_ALIKE)
    biases = [
        [read_tensors(folder)[BIAS] for folder in sorted(path.rglob("iter_*"))]
        for path in (tmp_path / "straight", tmp_path / "actual")
    ]
    assert len(biases[0]) == 3 and all(map(torch.equal, *biases))
    steps = torch.stack([torch.zeros(4), *biases[0]]).diff(dim=0) / FOLLOWING_BIAS["moe_router_bias_update_rate"]
    torch.testing.assert_close(steps, steps.round())
    assert steps.any(1).all() and (steps.abs() < 1.5).all()


def test_frozen_routers_do_not_change(tmp_path: Path) -> None:
    train(run_of(tmp_path, freeze_moe_router=True, save_interval=1, train_iters=2))
    first, second = (read_tensors(folder) for folder in sorted(tmp_path.rglob("iter_*"))[:2])
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert set(first) - changed == {"model.layers.1.mlp.gate.weight"}
    assert open_weights(sorted(tmp_path.rglob("iter_*"))[0]).model_config().num_experts == 4


ONLINE: dict[str, Any] = {
    **ONLINE_EXPERTS, "train_iters": 2, "lr_warmup_fraction": None, "global_batch_size": 3, "ppo_mini_batch_size": 3,
    "save_interval": None, "online_method": "xpo", "md5_validate": True, **STEADY,
}  # fmt: skip


def test_an_online_run_with_shared_experts_is_that_of_one_replica(tmp_path: Path) -> None:
    """Three prompts on two replicas; both models that generate have experts, the one that scores is dense."""
    scores = [f"reward.load={tmp_path / 'reward'}", "reward.reward_functions=[]"]
    save_dense_reward(write_inputs(tmp_path), tmp_path / "reward")

    def steps(name: str, layout: Layout, **settings: Any) -> list[dict[str, float]]:
        keys = {**ONLINE, "data_path": prompts_with_text(), "output_dir": tmp_path / name, **settings}
        run = online_run(tmp_path, layout, 1, more=scores, **keys)
        assert run.reward is not None and not run.reward.model.has_experts
        return train(run)

    alone, shared = steps("alone", (1, 1, 1)), steps("shared", (1, 1, 2), expert_model_parallel_size=2)
    assert_same_run(shared, alone, FULL, but=NOT_ALIKE)


def save_dense_reward(policy: Path, folder: Path) -> None:
    """Save a reward model with the layers of a dense policy and a random head."""
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1).save_pretrained(folder)
    save_tokenizer(folder)
