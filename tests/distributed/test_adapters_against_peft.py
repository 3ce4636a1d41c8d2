"""Adapters against PEFT, the independent definition: logits, and the gradient of every A and B under every layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.weights import open_adapter
from tests.distributed.test_against_hf import LAYOUTS, PROMPTS, RESPONSES, hf_log_probs, load, sequences, test_batch
from tests.support.closeness import ROUNDING, assert_same_tensors
from tests.support.jobs import Job, gradient_job, logits_job
from tests.support.peft_adapters import loaded, save_random_adapter
from tests.support.processes import pool
from tests.support.tiny_models import save_tiny_model

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SOME = ("q_proj", "v_proj", "up_proj", "down_proj")
CHOSEN = [
    "one process", "TP2", "TP2 with sequence parallelism", "PP2", "DP2 with overlap", "selective recompute",
    "TP2 PP2 with sequence parallelism", "full recompute under TP2 PP2",
]  # fmt: skip
OPTIONS = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
SPLIT = {
    **{name: LAYOUTS[name] for name in CHOSEN},
    "DP2 with a sharded optimizer": (2, Job(Path(), micro_batch_size=1, options=OPTIONS)),
    "full recompute": (1, Job(Path(), recompute="full")),
}


FEWER = ("one process", "full recompute", "TP2 PP2 with sequence parallelism")
CASES = {f"all-{layout}": ("qwen2_tied", ALL, layout) for layout in SPLIT}
CASES |= {f"some-{layout}": ("llama", SOME, layout) for layout in FEWER}


@pytest.mark.parametrize(("family", "modules", "layout"), CASES.values(), ids=CASES)
def test_every_gradient_equals_that_of_peft(family: str, modules: tuple[str, ...], layout: str, tmp_path: Path) -> None:
    folder, adapter = adapted(family, modules, tmp_path)
    expected = peft_gradients(folder, adapter)
    world_size, job = SPLIT[layout]
    job = replace(job, weights=folder, adapter=adapter)
    norms = pool(world_size).run(gradient_job, job, test_batch(), tmp_path / "gradient")
    actual = open_adapter(tmp_path / "gradient").tensors
    assert_same_tensors(actual, expected)
    complete = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert norms == pytest.approx([float(complete)] * world_size, rel=ROUNDING)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(("family", "modules"), [("qwen2_tied", ALL), ("llama", SOME)], ids=["all", "some"])
def test_logits_equal_those_of_peft(family: str, modules: tuple[str, ...], tp: int, tmp_path: Path) -> None:
    folder, adapter = adapted(family, modules, tmp_path)
    batch = PreferenceBatch.from_lists(PROMPTS, RESPONSES)
    job = Job(folder, tp=tp, share_prompt=False, adapter=adapter)
    (logits,) = [actual for actual in pool(tp).run(logits_job, job, batch) if actual is not None]
    model = loaded(folder, adapter)
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([p + r])).logits[0] for p, r in sequences()])
        plain = torch.cat([load(folder)(torch.tensor([p + r])).logits[0] for p, r in sequences()])
    assert_same_tensors({"logits": logits}, {"logits": expected})
    assert (plain - expected).abs().max() > 0.1


def adapted(family: str, modules: tuple[str, ...], folder: Path) -> tuple[Path, Path]:
    """A tiny model and an adapter for it that changes something."""
    weights = save_tiny_model(family, folder / "hf")
    return weights, save_random_adapter(weights, folder / "peft", modules)


def peft_gradients(folder: Path, adapter: Path) -> dict[str, Tensor]:
    """Gradient of the mean sigmoid loss by PEFT's names without its prefix."""
    model = loaded(folder, adapter, trainable=True)
    ratios = hf_log_probs(model) - test_batch().ref_logps
    (-logsigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])).mean()).backward()
    return {
        name.removeprefix("base_model.model.").replace(".default.", "."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
