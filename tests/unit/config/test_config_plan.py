"""The plan of a run: parameters compared with built models, bytes by hand, and a line for every role."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from mindspeed_dpo.config.estimates import memory
from mindspeed_dpo.config.estimates.adapter_parameter_counts import num_adapter_parameters
from mindspeed_dpo.config.estimates.parameter_counts import num_layers_parameters
from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.estimates.workload import multiply_adds
from mindspeed_dpo.config.loading.compose import available_configs
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.lora import EXPERT_TARGETS, AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.hf.hf_config import model_config_from_hf
from mindspeed_dpo.weights.lora.targets import adapter_tensors
from tests.support.composing import load_quickly
from tests.support.processes import pool
from tests.support.tiny_models import MOE_FAMILIES, tiny_config, tiny_model
from tests.unit.config.small_config import online_tree, put, resolved, small_tree
from tests.unit.config.test_config_experts import moe_tree
from tests.unit.models import policy_jobs as jobs


def _huggingface(model: ModelConfig, **head: Any) -> Any:
    kind: Any = Qwen3Config if model.qk_layernorm else Qwen2Config if model.add_qkv_bias else LlamaConfig
    if model.num_experts is not None:
        kind = partial(Qwen3MoeConfig, num_experts=model.num_experts, moe_intermediate_size=model.moe_ffn_hidden_size)
    return kind(
        num_hidden_layers=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        head_dim=model.kv_channels,
        vocab_size=model.vocab_size,
        tie_word_embeddings=not model.untie_embeddings_and_output_weights,
        **head,
    )


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


PUBLISHED = {
    "mixtral_8x7b": 46.7, "qwen15_moe_a27b": 14.3, "qwen2_57b_a14b": 57.4, "qwen3_30b_a3b": 30.5,
    "qwen3_235b_a22b": 235, "glm45_air": 106, "glm45": 355,
}  # fmt: skip
"""Billions of parameters of models with experts, as their authors name them."""
OTHERS = [
    name for name in available_configs() if name.startswith("offline") and name.split("trainer_")[1] not in PUBLISHED
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_model_with_experts_has_the_published_number_of_parameters(name: str) -> None:
    model = load_quickly(f"offline_dpo_trainer_{name}", exists=lambda path: True).actor.model
    assert memory.num_parameters(model) / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_are_those_of_the_model_that_transformers_builds(name: str) -> None:
    model = load_quickly(name, exists=lambda path: True).actor.model
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(_huggingface(model))
        reward = AutoModelForSequenceClassification.from_config(_huggingface(model, num_labels=1))
    assert memory.num_parameters(model) == _count(policy)
    assert memory.num_parameters(model, scalar_head=True) == _count(reward)


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_parameters_with_experts_are_those_of_the_model_that_transformers_builds(family: str) -> None:
    hf = tiny_config(family)
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(hf)
    assert memory.num_parameters(model_config_from_hf(hf.to_dict())) == _count(policy)


def test_experts_are_divided_over_their_devices_and_their_state_over_the_copies() -> None:
    model = model_config_from_hf(tiny_config("qwen3_moe").to_dict())
    one, shared = (
        _role(model, 2, 1, parallel={"use_distributed_optimizer": True, "expert_model_parallel_size": ep})
        for ep in (1, 2)
    )
    experts = 2 * 6 * 3 * 32 * 20
    assert memory.num_device_parameters(one) - memory.num_device_parameters(shared) == experts // 2
    # Four copies of all experts on TP2 x DP2, two copies of each half.
    assert memory.optimizer_bytes(one, 2) == memory.optimizer_bytes(shared, 2)


@pytest.mark.parametrize(
    "targets", [{"lora_target_modules": ("all-linear",)}, {"lora_target_parameters": EXPERT_TARGETS[:2]}]
)
@pytest.mark.parametrize("family", ["qwen3_moe_some_dense", "qwen2_moe", "mixtral"])
def test_adapters_of_experts_are_counted_and_divided(family: str, targets: dict[str, Any]) -> None:
    model, settings = model_config_from_hf(tiny_config(family).to_dict()), AdapterConfig(lora_r=3, **targets)
    shapes = [tensor.shape for tensor in adapter_tensors(model, settings)]
    of_experts = sum(math.prod(shape) for shape in shapes if len(shape) == 3)
    role = _role(model, 1, 1, parallel={"expert_model_parallel_size": 2}, adapters=settings)
    assert num_adapter_parameters(role) == sum(map(math.prod, shapes))
    assert memory.num_trained_parameters(role) == sum(map(math.prod, shapes)) - of_experts // 2
    # Two devices hold each half of the experts' state, four the rest.
    sharded = _role(
        model, 1, 1, parallel={"expert_model_parallel_size": 2, "use_distributed_optimizer": True}, adapters=settings
    )
    others = sum(map(math.prod, shapes)) - of_experts
    assert memory.optimizer_bytes(sharded, 4) == 8 * others // 4 + 8 * (of_experts // 2) // 2


def test_multiply_adds_with_experts_are_those_that_torch_counts() -> None:
    """Of the experts that compute a token, by which work is balanced over replicas, not of all."""
    hf, tokens = tiny_model("qwen3_moe"), 40
    hf.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hf(torch.arange(tokens)[None])
    actual = multiply_adds(model_config_from_hf(hf.config.to_dict()))
    counted = tokens * (actual.per_token + actual.per_label) + tokens**2 * actual.per_attended_key
    assert counter.get_total_flops() / 2 == pytest.approx(counted, rel=0.02)


def test_the_plan_of_a_model_with_experts() -> None:
    tree = moe_tree(expert_model_parallel_size=2, lora_target_modules=["linear_qkv", "linear_fc2"], lora_r=2)
    run = resolved(tree)
    experts = num_layers_parameters(run.actor.model, range(4)) - num_layers_parameters(
        run.actor.model, range(4), experts=2
    )
    assert experts == 4 * 6 * 3 * 64 * 32
    total = memory.num_parameters(run.actor.model)
    size = f"{total / 1e6:,.1f} M parameters ({(total - experts) / 1e6:,.1f} M active), float32"
    lines = plan_lines(run)
    assert lines[1] == f"actor on actor_rollout [2]: TP 1 x PP 1 x DP 2, EP 2, {size}"
    assert any(
        line.startswith("adapters on q_proj, k_proj, v_proj, down_proj and experts.down_proj: ") for line in lines
    )


def _role(model: ModelConfig, tp: int, pp: int, **groups: Any) -> RoleConfig:
    actor = resolved(small_tree()).actor
    parallel = dataclasses.replace(
        actor.parallel, tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp, **groups.pop("parallel", {})
    )
    return dataclasses.replace(actor, model=model, parallel=parallel, **groups)


@pytest.mark.distributed
@pytest.mark.parametrize("model", [jobs.MODEL, jobs.TIED], ids=["untied", "tied"])
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 2)])
def test_the_parameters_of_the_largest_stage_are_those_that_are_built(model: ModelConfig, tp: int, pp: int) -> None:
    stages = pool(2).run(jobs.describe, model, tp, pp, False, False)
    built = max(sum(math.prod(item.shape) for item in stage.values()) for stage in stages)
    assert memory.num_device_parameters(_role(model, tp, pp)) == built


def test_the_bytes_of_training_by_hand() -> None:
    bf16 = dataclasses.replace(resolved(small_tree()).actor.precision, bf16=True)
    role = _role(jobs.MODEL, 1, 1, precision=bf16, parallel={"use_distributed_optimizer": True})
    count = memory.num_device_parameters(role)
    assert (memory.weight_bytes(role), memory.gradient_bytes(role)) == (2 * count, 4 * count)
    assert memory.optimizer_bytes(role, 4) == 12 * count // 4
    plain = _role(jobs.MODEL, 1, 1)
    assert (memory.weight_bytes(plain), memory.optimizer_bytes(plain, 4)) == (4 * count, 8 * count)


@pytest.mark.parametrize("tied", [True, False])
def test_multiply_adds_are_those_that_torch_counts(tied: bool) -> None:
    model = dataclasses.replace(jobs.TIED if tied else jobs.MODEL, hidden_size=128, ffn_hidden_size=352)
    tokens, actual = 24, multiply_adds(model)
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(_huggingface(model), attn_implementation="eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            policy(torch.zeros(1, tokens, dtype=torch.int64))
    # It computes all logits, and every pair of a query and a key; a norm's weights are no products.
    counted = tokens * (actual.per_token + actual.per_label) + tokens**2 * actual.per_attended_key
    assert counter.get_total_flops() / 2 == pytest.approx(counted, rel=0.01)


def test_a_limit_of_tokens_is_part_of_the_plan() -> None:
    tree = put(put(put(small_tree(), "micro_batch_size", None), "micro_batch_tokens", 300), "pad_to_multiple_of", 64)
    run = resolved(tree)
    pairs = resolved(small_tree())
    rows = 2 * 2 * pairs.actor.data.seq_length
    assert memory.activation_bytes(run.actor) * rows == memory.activation_bytes(pairs.actor) * 300
    content = "complete pairs with at most 300 tokens in total, padded to a multiple of 64"
    assert f"step: 8 pairs on 2 replicas, micro-batches of {content}" in plan_lines(run)


def test_the_cache_by_hand() -> None:
    role = _role(jobs.MODEL, 2, 1)
    # Keys and values of 2 layers x 1 of 2 groups x 4 wide, in float32.
    assert memory.cache_bytes(role, 10) == 2 * 2 * 1 * 4 * 10 * 4


def test_recomputing_layers_keeps_less() -> None:
    role = _role(jobs.MODEL, 1, 1)
    full = dataclasses.replace(role.recompute, recompute_granularity="full")
    assert memory.activation_bytes(dataclasses.replace(role, recompute=full)) < memory.activation_bytes(role)


def test_devices_that_share_rows_share_activations_and_optimizer_state() -> None:
    apart, shared = (_role(jobs.MODEL, 1, 1, parallel={"context_parallel_size": cp}) for cp in (1, 2))
    assert memory.activation_bytes(shared) * 2 == memory.activation_bytes(apart)
    assert memory.weight_bytes(shared) == memory.weight_bytes(apart)
    assert memory.optimizer_bytes(shared, 2) == memory.optimizer_bytes(apart, 2)
    sharded = _role(jobs.MODEL, 1, 1, parallel={"context_parallel_size": 2, "use_distributed_optimizer": True})
    assert memory.optimizer_bytes(sharded, 2) * 4 == memory.optimizer_bytes(apart, 2)
    lines = plan_lines(resolved(put(small_tree(), "context_parallel_size", 2)))
    assert lines[1].startswith("actor on actor_rollout [2]: TP 1 x CP 2 x PP 1 x DP 1, ")


@pytest.mark.parametrize("name", available_configs())
def test_a_plan_names_every_role_and_the_memory_of_every_pool(name: str) -> None:
    run = load_quickly(name, exists=lambda path: True)
    lines = plan_lines(run)
    for role in run.roles:
        assert sum(line.startswith(f"{role.name} on {run.pool_of(role.name)} [") for line in lines) == 1
    assert [line.split(",")[0].split()[-1] for line in lines if line.startswith("memory per device of")] == list(
        run.pools
    )


def test_the_plan_of_a_small_online_run() -> None:
    tree = put(online_tree(num_gpus_for_infer=1), "n_samples_per_prompt", 3)
    lines = plan_lines(resolved(tree))
    assert lines[1:9] == [
        "actor on actor_rollout [1]: TP 1 x PP 1 x DP 1, 0.2 M parameters, float32",
        "rollout on rollout [1]: TP 1 x PP 1 x DP 1, 0.2 M parameters, float32",
        "ref on actor_rollout [1]: TP 1 x PP 1 x DP 1, 0.2 M parameters, float32",
        "reward on actor_rollout [1]: functions package.score",
        "step: 8 prompts x 3 = 24 responses, at most 8 pairs",
        "prompt: at most 128 tokens; response: at most 128 tokens",
        "generation: 1 replica x 8 prompts, 24 concurrent responses",
        "training: 1 epoch in mini-batches of 8 pairs, at most 1 optimizer step; 1 replica, micro-batches of 2 pairs",
    ]
    assert "rollout weights" in lines[-1]
    assert "rollout weights" not in plan_lines(resolved(online_tree()))[-1]
