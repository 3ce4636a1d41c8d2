"""Adapters of models with experts against PEFT: gradients in float64.

Every family has a case, and every way of dividing rows, layers and experts; how a matrix of an expert is adapted does
not depend on the family.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

import convert_ckpt
from mindspeed_dpo.weights import open_adapter
from mindspeed_dpo.weights.lora.peft_experts import to_peft
from tests.distributed.test_against_hf import hf_log_probs, test_batch
from tests.support.adapters import adapter_run
from tests.support.closeness import ADAPTERS, ROUNDING, STEADY_ADAPTERS, assert_same_run, assert_same_tensors
from tests.support.jobs import Job, gradient_job
from tests.support.peft_adapters import base_model, loaded, save_random_adapter
from tests.support.processes import pool
from tests.support.runs import train
from tests.support.tiny_models import save_tiny_model

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODULES = {
    "qwen3_moe": (*ATTENTION, "gate_proj", "up_proj", "down_proj"),
    "mixtral": (*ATTENTION, "w1", "w2", "w3"),
}
FUSED = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
LAYOUTS = {
    "one process": (1, Job(Path())),
    "EP2 over replicas": (2, Job(Path(), ep=2, micro_batch_size=1)),
    "EP4 over replicas": (4, Job(Path(), ep=4)),
    "CP2 EP2, prompts repeated": (2, Job(Path(), cp=2, ep=2, share_prompt=False)),
    "TP2 EP2 over replicas": (4, Job(Path(), tp=2, ep=2, sequence_parallel=True)),
    "PP2 TP2 EP2, full recompute": (
        4,
        Job(Path(), tp=2, pp=2, ep=2, sequence_parallel=True, micro_batch_size=1, recompute="full"),
    ),
    "EP2 with a sharded optimizer": (
        4,
        # The gather of parameters also gathers the gradients that the job puts in their place.
        Job(
            Path(),
            ep=2,
            options=dict.fromkeys(("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"), True),
        ),
    ),
}
CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    # PEFT turns the modules of experts into their parameters, gate and up with twice the rank.
    **{
        f"{family}, modules, {layout}": (family, MODULES[family], {}, layout)
        for family, division in (("qwen3_moe", "TP2 EP2 over replicas"), ("mixtral", "CP2 EP2, prompts repeated"))
        for layout in ("one process", division)
    },
    "qwen3_moe, parameters, EP2": ("qwen3_moe", ATTENTION, FUSED, "EP2 over replicas"),
    "mixtral, one parameter alone, EP4": (
        "mixtral", (), {"target_parameters": ["mlp.experts.gate_up_proj"]}, "EP4 over replicas",
    ),
    "qwen3_moe, pipeline": ("qwen3_moe", ATTENTION, FUSED, "PP2 TP2 EP2, full recompute"),
    "qwen3_moe, sharded": ("qwen3_moe", ATTENTION, FUSED, "EP2 with a sharded optimizer"),
    "glm4_moe, rank-stabilised": ("glm4_moe", ATTENTION, {**FUSED, "use_rslora": True}, "TP2 EP2 over replicas"),
    "qwen2_moe, experts and shared ones": (
        "qwen2_moe", ("q_proj", "gate_proj", "up_proj", "down_proj"), FUSED, "TP2 EP2 over replicas",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_equals_that_of_peft(case: str, tmp_path: Path) -> None:
    family, modules, settings, layout = CASES[case]
    folder = save_tiny_model(family, tmp_path / "hf")
    adapter = save_random_adapter(folder, tmp_path / "peft", modules, **settings)
    expected = peft_gradients(folder, adapter)
    world_size, job = LAYOUTS[layout]
    job = replace(job, weights=folder, adapter=adapter)
    norms = pool(world_size).run(gradient_job, job, test_batch(), tmp_path / "gradient")
    assert_same_tensors(to_peft(open_adapter(tmp_path / "gradient").tensors), expected)
    complete = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert norms == pytest.approx([float(complete)] * world_size, rel=ROUNDING)


def peft_gradients(folder: Path, adapter: Path) -> dict[str, Tensor]:
    """Gradient of the mean sigmoid loss by PEFT's names without its prefix, float64."""
    model = loaded(folder, adapter, trainable=True).double()
    model.get_base_model().set_experts_implementation("eager")  # the other ones know no float64
    ratios = hf_log_probs(model) - test_batch().ref_logps
    (-logsigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])).mean()).backward()
    return {
        name.removeprefix("base_model.model.").replace(".default.", "."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


SIZES: dict[str, Any] = {
    "num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "norm_topk_prob": True, "head_dim": 16,
}  # fmt: skip
RUN: dict[str, Any] = {
    "num_layers": 2, "qk_layernorm": True, "num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24,
    "norm_topk_prob": True, "lora_target_modules": ["all-linear"], "global_batch_size": 3, "micro_batch_size": None,
    "micro_batch_tokens": 8, "save_interval": 1, "train_iters": 3, "lr_warmup_iters": 0, **STEADY_ADAPTERS,
}  # fmt: skip


def save_policy(folder: Path) -> Path:
    """Save random weights of the shipped tiny model with experts in its two layers, and return their folder."""
    torch.manual_seed(2)
    config = Qwen3MoeConfig(
        vocab_size=262, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, initializer_range=0.1, **SIZES,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_a_run_goes_on_with_other_ranks_of_experts_and_peft_reads_and_merges_it(tmp_path: Path) -> None:
    policy = save_policy(tmp_path / "hf")
    straight = train(adapter_run(tmp_path / "straight", policy, **RUN))
    first = {"train_iters": 1, "lr_decay_iters": 3, "async_save": True, "expert_model_parallel_size": 2}
    train(adapter_run(tmp_path / "actual", policy, (1, 1, 2), **{**RUN, **first}))
    resume = {"resume_from": tmp_path / "actual" / "out", "no_load_rng": True, "finetune": False}
    layout = {"expert_model_parallel_size": 2, "sequence_parallel": True, "use_distributed_optimizer": True}
    actual = train(adapter_run(tmp_path / "actual", policy, (2, 1, 2), **{**RUN, **layout, **resume}))
    assert_same_run(actual, straight, ADAPTERS, but=("micro_batches", "micro_batch_fill", "tokens_computed"))
    saved = tmp_path / "actual" / "out" / "checkpoints"
    arguments = ("--load-dir", saved, "--save-model-type", "hf", "--save-dir", tmp_path / "merged")
    assert convert_ckpt.main([str(argument) for argument in arguments]) == 0
    tokens = torch.tensor([[5, 1, 7, 200, 9]])
    with torch.no_grad():
        expected = loaded(policy, saved / "iter_0000003" / "adapter")(tokens).logits
        torch.testing.assert_close(base_model(tmp_path / "merged")(tokens).logits, expected, rtol=0, atol=1e-5)
        assert (base_model(policy)(tokens).logits - expected).abs().max() > 1e-3
