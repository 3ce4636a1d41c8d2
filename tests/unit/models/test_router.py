"""The rule of every family against transformers' own routers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from mindspeed_dpo.models.moe.router import Router, route
from mindspeed_dpo.weights.hf.hf_config import model_config_from_hf
from tests.support.tiny_models import tiny_config

ROUTERS = {
    "mixtral": MixtralTopKRouter,
    "qwen2_moe": Qwen2MoeTopKRouter,
    "qwen3_moe": Qwen3MoeTopKRouter,
    "glm4_moe": Glm4MoeTopkRouter,
    "glm4_moe_no_norms": Glm4MoeTopkRouter,
}
CONFIG = SimpleNamespace(
    use_cpu_initialization=True, params_dtype=torch.float32, perform_initialization=False, sequence_parallel=False
)


@pytest.mark.parametrize("family", ROUTERS)
def test_experts_and_weights_are_those_of_transformers(family: str) -> None:
    hf = tiny_config(family)
    theirs, ours = ROUTERS[family](hf), Router(CONFIG, model_config_from_hf(hf.to_dict()))
    with torch.no_grad():
        theirs.weight.normal_()
        ours.weight.copy_(theirs.weight)
        if ours.expert_bias is not None:
            ours.expert_bias.normal_()
            theirs.e_score_correction_bias.copy_(ours.expert_bias)
    rows = torch.randn(40, hf.hidden_size)
    _, weights, experts = theirs(rows)
    routing = ours(rows)
    count = len(ours.weight)
    torch.testing.assert_close(
        by_expert(routing.weights, routing.experts, count), by_expert(weights, experts, count), rtol=1e-6, atol=1e-7
    )


def test_the_bias_chooses_and_does_not_weigh() -> None:
    router = Router(CONFIG, model_config_from_hf(tiny_config("glm4_moe_no_norms").to_dict()))
    with torch.no_grad():
        router.weight.normal_()
    rows, chosen = torch.randn(5, router.weight.shape[1]), 6
    assert router.expert_bias is not None
    router.expert_bias[chosen] = 10.0
    routing = router(rows)
    assert bool((routing.experts == chosen).any(1).all())
    expected = 1.7 * routing.logits.sigmoid()[:, chosen]
    torch.testing.assert_close(by_expert(routing.weights, routing.experts, len(router.weight))[:, chosen], expected)
    assert not router.expert_bias.requires_grad and "expert_bias" in router.state_dict()


def test_logits_are_formed_in_float32_also_of_bfloat16() -> None:
    config = SimpleNamespace(**{**vars(CONFIG), "params_dtype": torch.bfloat16})
    router = Router(config, model_config_from_hf(tiny_config("qwen3_moe").to_dict()))
    with torch.no_grad():
        router.weight.normal_()
    rows = torch.randn(7, router.weight.shape[1]).bfloat16()
    routing = router(rows)
    assert routing.weights.dtype == torch.float32
    torch.testing.assert_close(routing.logits, rows.float() @ router.weight.float().t())


@pytest.mark.parametrize(
    "change",
    [
        {"norm_topk_prob": True},
        {"moe_router_topk_scaling_factor": 2.0},
        {"moe_router_enable_expert_bias": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_change_the_routing(change: dict[str, Any]) -> None:
    model = model_config_from_hf(tiny_config("glm4_moe_no_norms").to_dict())
    logits, bias = torch.randn(9, 8), torch.randn(8)
    changed = replace(model, **change)
    used = [one.moe_router_enable_expert_bias for one in (model, changed)]
    before, after = (route(logits, m, bias if u else None) for m, u in zip((model, changed), used, strict=True))
    assert not torch.equal(by_expert(before.weights, before.experts, 8), by_expert(after.weights, after.experts, 8))


def by_expert(weights: Tensor, experts: Tensor, count: int) -> Tensor:
    """[t, E], the weight of each expert, zero where it is not chosen."""
    return torch.zeros(len(weights), count).scatter(1, experts, weights.detach())
