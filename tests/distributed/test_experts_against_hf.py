"""Models with experts against Hugging Face's: logits, log-probabilities and every gradient, under every layout.

The tiny routers are random, so loads are uneven, and with few tokens some experts have none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.settings.router_training import RouterConfig
from tests.distributed.test_against_hf import PROMPTS, RESPONSES, hf_gradients, load, sequences, test_batch
from tests.support.closeness import ROUNDING, assert_same_tensors
from tests.support.jobs import Job, gradient_job, logits_job, read_tensors
from tests.support.processes import pool
from tests.support.tiny_models import MOE_FAMILIES, save_tiny_model

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

FORWARD_LAYOUTS = {
    "one process": Job(Path()),
    "TP2 EP2": Job(Path(), tp=2, ep=2, sequence_parallel=True, multiple_of=2),
}


@pytest.mark.parametrize("family", MOE_FAMILIES)
@pytest.mark.parametrize("layout", FORWARD_LAYOUTS)
def test_logits_equal_those_of_hugging_face(family: str, layout: str, tmp_path: Path) -> None:
    folder, settings = save_tiny_model(family, tmp_path), vars(FORWARD_LAYOUTS[layout])
    job = Job(**{**settings, "weights": folder, "share_prompt": False})
    batch = PreferenceBatch.from_lists(PROMPTS, RESPONSES)
    (logits,) = [r for r in pool(job.tp).run(logits_job, job, batch) if r is not None]
    model = load(folder)
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([p + r])).logits[0] for p, r in sequences()])
    assert_same_tensors({"logits": logits[: len(expected)]}, {"logits": expected})


GRADIENT_LAYOUTS = {
    "one process": (1, Job(Path())),
    "TP2": (2, Job(Path(), tp=2, sequence_parallel=True)),
    "EP2 over replicas": (2, Job(Path(), ep=2)),
    "EP4 over replicas": (4, Job(Path(), ep=4, micro_batch_size=1)),
    "TP2 EP2, prompts repeated": (2, Job(Path(), tp=2, ep=2, sequence_parallel=True, share_prompt=False)),
    "CP2 EP2": (2, Job(Path(), cp=2, ep=2)),
    "PP2 EP2": (4, Job(Path(), pp=2, ep=2, micro_batch_size=1)),
    "padded rows, one pair per micro-batch": (1, Job(Path(), micro_batch_size=1, multiple_of=16)),
    "TP2 EP2": (2, Job(Path(), tp=2, ep=2, sequence_parallel=True)),
    "TP2 DP2 EP2": (4, Job(Path(), tp=2, ep=2, sequence_parallel=True)),
    "DP4 EP2 with overlap": (4, Job(Path(), ep=2, micro_batch_size=1, options={"overlap_grad_reduce": True})),
    "TP2 PP2 EP2, full recompute": (
        4,
        Job(Path(), tp=2, pp=2, ep=2, sequence_parallel=True, micro_batch_size=1, recompute="full"),
    ),
}
OF_EVERY_FAMILY = list(GRADIENT_LAYOUTS)[:7]
NUM_EXPERTS = {"qwen2_moe": 8, "qwen3_moe_some_dense": 8}
"""Divisible by four, as those of the other families are."""
GRADIENT_CASES = [
    *(
        (family, layout)
        for family in ("qwen2_moe", "qwen3_moe_some_dense", "mixtral", "glm4_moe")
        for layout in OF_EVERY_FAMILY
    ),
    *(("glm4_moe", layout) for layout in GRADIENT_LAYOUTS if layout not in OF_EVERY_FAMILY),
]


@pytest.fixture(scope="module")
def differentiated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Tensor]]]:
    """From a family to a folder of its weights and their gradient, computed once for all layouts."""

    @functools.cache
    def of(family: str) -> tuple[Path, dict[str, Tensor]]:
        changes = {"num_experts": NUM_EXPERTS[family]} if family in NUM_EXPERTS else {}
        folder = save_tiny_model(family, tmp_path_factory.mktemp(family), **changes)
        model = load(folder)
        hf_gradients(model)
        return folder, gradients_by_stored_name(model, tmp_path_factory.mktemp("expected"))

    return of


@pytest.mark.parametrize(("family", "layout"), GRADIENT_CASES)
def test_every_gradient_equals_that_of_hugging_face(
    family: str, layout: str, differentiated: Callable[[str], tuple[Path, dict[str, Tensor]]], tmp_path: Path
) -> None:
    """Every family under every way of dividing rows, layers and experts; GLM-4.5 also under combinations of them.

    All but one layout share the prompt of a pair and pack two pairs into a row, unless micro-batches have one. EP2 and
    EP4 over replicas are DP2 x EP2 and DP4 x EP4, where each expert exists once; with DP4 EP2, PP2 EP2 and TP2 DP2 EP2
    two or more ranks hold copies. With adapters: `test_expert_adapters`; losses of routers: below.
    """
    folder, expected = differentiated(family)
    world_size, job = GRADIENT_LAYOUTS[layout]
    job = Job(**{**vars(job), "weights": folder})
    norms = pool(world_size).run(gradient_job, job, test_batch(), tmp_path / "gradient")
    assert_same_tensors(read_tensors(tmp_path / "gradient"), expected)
    # The bias of experts is no parameter: both folders hold its value.
    trained = [gradient.flatten() for name, gradient in expected.items() if not name.endswith("correction_bias")]
    norm = float(torch.cat(trained).norm())
    assert norms == pytest.approx([norm] * world_size, rel=ROUNDING)


def gradients_by_stored_name(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """Gradients of transformers under the names of the files: its own modules hold the experts of a layer as one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder)
    return read_tensors(folder)


ROUTER = RouterConfig(moe_aux_loss_coeff=0.5, moe_z_loss_coeff=0.1)


# The layouts that divide sequences, micro-batches or layers in ways of their own.
LOSS_LAYOUTS = {
    **{
        name: GRADIENT_LAYOUTS[name]
        for name in (
            "one process",
            "padded rows, one pair per micro-batch",
            "CP2 EP2",
            "TP2 DP2 EP2",
            "DP4 EP2 with overlap",
            "TP2 PP2 EP2, full recompute",
        )
    },
    "virtual stages with a padding micro-batch": (4, Job(Path(), pp=2, virtual=1, ep=2, micro_batch_size=4)),
}


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder of weights and the gradient of transformers' own balance loss, of one sequence after the other."""
    folder = save_tiny_model("qwen3_moe_some_dense", tmp_path_factory.mktemp("weights"))
    model = load(folder)
    num_pairs = len(PROMPTS)
    for prompt, response in sequences():
        logits = model(torch.tensor([prompt + response]), output_router_logits=True).router_logits
        for of_layer in logits:
            # It counts k choices a token.
            aux = load_balancing_loss_func((of_layer,), model.config.num_experts, 2) / 2
            z = of_layer.logsumexp(-1).square().mean()
            ((ROUTER.moe_aux_loss_coeff * aux + ROUTER.moe_z_loss_coeff * z) / 2 / num_pairs).backward()
    hf_gradients(model)
    return folder, gradients_by_stored_name(model, tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("layout", LOSS_LAYOUTS)
def test_losses_of_routers_add_the_gradient_of_each_sequence(
    layout: str, balanced: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, expected = balanced
    world_size, job = LOSS_LAYOUTS[layout]
    job = Job(**{**vars(job), "weights": folder, "router": ROUTER})
    pool(world_size).run(gradient_job, job, test_batch(), tmp_path / "gradient")
    assert_same_tensors(read_tensors(tmp_path / "gradient"), expected)
