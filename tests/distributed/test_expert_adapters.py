"""Adapters of models with experts against PEFT: the gradient of every A and B, in float64, under every kind of layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.weights import open_adapter
from mindspeed_dpo.weights.lora.peft_experts import to_peft
from tests.distributed.test_against_hf import hf_log_probs, test_batch
from tests.support.closeness import ROUNDING, assert_same_tensors
from tests.support.jobs import Job, gradient_job
from tests.support.peft_adapters import loaded, save_random_adapter
from tests.support.processes import pool
from tests.support.tiny_models import save_tiny_model

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FUSED = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
LAYOUTS = {
    "one process": (1, Job(Path())),
    "EP2 over replicas": (2, Job(Path(), ep=2, micro_batch_size=1)),
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
        f"{family}, modules, {layout}": (family, (*ATTENTION, "w1", "w2", "w3") if family == "mixtral" else (*ATTENTION, "gate_proj", "up_proj", "down_proj"), {}, layout)
        for family in ("qwen3_moe", "mixtral")
        for layout in ("one process", "TP2 EP2 over replicas")
    },
    "qwen3_moe, parameters, EP2": ("qwen3_moe", ATTENTION, FUSED, "EP2 over replicas"),
    "mixtral, one parameter alone, EP2": (
        "mixtral", (), {"target_parameters": ["mlp.experts.gate_up_proj"]}, "EP2 over replicas",
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
